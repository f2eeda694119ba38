"""What the screen shows of many ranks' output."""

from __future__ import annotations

import io

import pytest

from allgrad.launch.console import Console


class Screen(io.BytesIO):
    """A file in memory that may claim to be a terminal."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def consoles(terminal=False, **options):
    out, err = Screen(terminal), Screen(terminal)
    return Console(out, err, environ={"NO_COLOR": "1"}, **options), out, err


def test_lines_get_the_rank_and_stay_whole():
    console, out, err = consoles()
    console.feed(0, 1, b"one\ntw")
    console.feed(1, 1, b"other\n")
    console.feed(1, 2, b"warning\n")
    console.feed(0, 1, b"o\n\n")
    assert out.getvalue() == b"[0] one\n[1] other\n[0] two\n[0] \n"
    assert err.getvalue() == b"[1] warning\n"


def test_no_prefix():
    console, out, _ = consoles(prefix=False)
    console.feed(3, 1, b"x\n")
    assert out.getvalue() == b"x\n"


def test_raw_passes_bytes_at_once():
    console, out, _ = consoles(raw=True)
    console.feed(0, 1, b"name? ")
    assert out.getvalue() == b"name? "


def test_only_the_chosen_ranks_are_shown():
    console, out, _ = consoles(shows=lambda rank: rank == 0)
    console.feed(0, 1, b"x\n")
    console.feed(1, 1, b"y\n")
    assert out.getvalue() == b"[0] x\n"


def test_unfinished_line_is_written_when_the_rank_ends():
    console, out, _ = consoles()
    console.feed(0, 1, b"x\nend")
    console.close(0)
    console.close(0)
    assert out.getvalue() == b"[0] x\n[0] end\n"


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_log_holds_the_last_state_of_a_bar(chunk):
    console, _, err = consoles()
    bar = b"".join(b"\r%d%%" % percent for percent in range(101)) + b"\ndone\r\n"
    for start in range(0, len(bar), chunk):
        console.feed(0, 2, bar[start : start + chunk])
    assert err.getvalue() == b"[0] 100%\n[0] done\n"


def test_a_terminal_shows_the_bar_and_keeps_it_below_other_lines():
    console, out, err = consoles(terminal=True)
    console.feed(0, 2, b"\r10%")
    assert err.getvalue() == b"[0] 10%"
    console.feed(1, 2, b"\r99%")  # only the lowest rank's bar is live
    assert err.getvalue() == b"[0] 10%"
    console.feed(1, 1, b"note\n")
    assert out.getvalue() == b"[1] note\n"
    assert err.getvalue() == b"[0] 10%" + b"\r\x1b[K" + b"[0] 10%"
    console.feed(0, 2, b"\r20%\n")
    assert err.getvalue().endswith(b"\r\x1b[K[0] 20%\n[1] 99%")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_that_wipes_itself_out_leaves_nothing(terminal):
    console, _, err = consoles(terminal=terminal)
    console.feed(0, 2, b"\r10%")
    console.feed(0, 2, b"\r   \r")
    console.close(0)
    assert err.getvalue() == (b"[0] 10%\r\x1b[K" if terminal else b"")


def test_a_long_bar_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    console, _, err = consoles(terminal=True)
    console.feed(0, 2, b"\r" + b"=" * 100)
    assert len(err.getvalue()) == 19


def test_half_a_character_is_not_drawn():
    console, _, err = consoles(terminal=True)
    console.feed(0, 2, "\r█".encode()[:-1])
    console.feed(0, 2, "█".encode()[-1:])
    assert err.getvalue().decode().endswith("[0] █")


def test_colours_on_terminals_only():
    for terminal in (False, True):
        out = Screen(terminal)
        Console(out, Screen(), environ={}).feed(0, 1, b"x\n")
        assert (b"\x1b[" in out.getvalue()) is terminal


def test_a_line_without_end_does_not_fill_the_memory():
    console, out, _ = consoles()
    for _ in range(30):
        console.feed(0, 1, b"x" * (1 << 16))
    assert out.getvalue().count(b"\n") == 1
