"""Shows the output of all ranks on one screen: line by line, with the rank before each line.

Progress bars rewrite a line by carriage returns. On a terminal the unfinished line of the lowest
rank is shown live and moves down when other lines come; into a file only its last state is written,
so that a log holds one line per bar and not one per update.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import BinaryIO

_COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red
_LONGEST_LINE_BYTES = 1 << 20  # a longer line without its end is broken here
_ERASE = b"\r\x1b[K"


class Console:
    """Writes whole lines of many ranks to stdout and stderr.

    Args:
        out: where the ranks' stdout goes.
        err: where the ranks' stderr and our own messages go.
        prefix: whether "[rank] " stands before each line.
        raw: whether bytes pass as they come (one rank: prompts and bars work as without us).
        shows: which ranks are shown at all.
        environ: ``NO_COLOR`` turns colours off.
    """

    def __init__(
        self,
        out: BinaryIO,
        err: BinaryIO,
        *,
        prefix: bool = True,
        raw: bool = False,
        shows: Callable[[int], bool] = lambda rank: True,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._files = (out, err)
        self._prefix = prefix
        self._raw = raw
        self._shows = shows
        self._coloured = not environ.get("NO_COLOR")
        self._partial: dict[tuple[int, int], bytes] = {}
        self._drawn: tuple[BinaryIO, bytes] | None = None

    def feed(self, rank: int, stream: int, data: bytes) -> None:
        """Take output of a rank; ``stream`` is 1 for stdout and 2 for stderr."""
        if not self._shows(rank):
            return
        file = self._files[stream - 1]
        if self._raw:
            file.write(data)
            file.flush()
            return
        *lines, rest = (self._partial.get((rank, stream), b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE_BYTES:
            lines.append(rest)
            rest = b""
        # A return at the end still has to erase the line, once something follows.
        self._partial[rank, stream] = _visible(rest) + (b"\r" if rest.endswith(b"\r") else b"")
        if lines:
            self._write(file, b"".join(self._head(rank, file) + _visible(x) + b"\n" for x in lines))
        self._draw()

    def launcher(self, data: bytes) -> None:
        """Take output of the launcher itself (mpiexec)."""
        self._write(self._files[1], data)

    def say(self, line: str) -> None:
        """Write a message of our own to stderr."""
        self._write(self._files[1], line.encode(errors="replace") + b"\n")

    def close(self, rank: int) -> None:
        """Write the unfinished lines of a rank that has ended."""
        for stream in (1, 2):
            rest = _visible(self._partial.pop((rank, stream), b""))
            if rest.strip():  # a bar that wiped itself out leaves blanks
                file = self._files[stream - 1]
                self._write(file, self._head(rank, file) + rest + b"\n")

    def _head(self, rank: int, file: BinaryIO) -> bytes:
        if not self._prefix:
            return b""
        if self._coloured and file.isatty():
            return f"\x1b[{_COLOURS[rank % len(_COLOURS)]}m[{rank}]\x1b[0m ".encode()
        return f"[{rank}] ".encode()

    def _write(self, file: BinaryIO, data: bytes) -> None:
        if self._drawn is not None:
            drawn_on, _ = self._drawn
            drawn_on.write(_ERASE)
            drawn_on.flush()
            self._drawn = None
        file.write(data)
        file.flush()

    def _draw(self) -> None:
        """Show the unfinished line of the lowest rank, where it is written to a terminal."""
        live = [
            key
            for key, text in self._partial.items()
            if text.strip() and self._files[key[1] - 1].isatty()
        ]
        if not live:
            if self._drawn is not None:
                self._write(self._drawn[0], b"")
            return
        rank, stream = min(live)
        file = self._files[stream - 1]
        width = shutil.get_terminal_size().columns - 1 - (len(f"[{rank}] ") if self._prefix else 0)
        text = _visible(self._partial[rank, stream]).decode(errors="ignore")[: max(width, 0)]
        line = self._head(rank, file) + text.encode()
        if self._drawn != (file, line):
            self._write(file, line)
            self._drawn = (file, line)


def _visible(line: bytes) -> bytes:
    r"""Return what a terminal shows of a line that carriage returns rewrote.

    Example:
        >>> _visible(b"10%\r20%\r")
        b'20%'
    """
    return line.rstrip(b"\r").rpartition(b"\r")[2]
