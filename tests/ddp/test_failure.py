"""Failure hooks, each in a process of its own: they change ``sys.exit`` and end the interpreter."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from allgrad.ddp import failure

HEAD = """
import os, sys, threading, time
from allgrad.ddp import failure
def abort(code):
    print("abort", code, flush=True)
    os._exit(code)
hooks = failure.install(abort, rank=1, size=2, on_leave=lambda: print("leave", flush=True))
"""


def run_script(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + body],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "code", "out"),
    [
        ("pass", 0, "leave"),
        ("sys.exit()", 0, "leave"),
        ("sys.exit(0)", 0, "leave"),
        ("sys.exit(3)", 3, "abort 3"),
        ("sys.exit('no data')", 1, "abort 1"),
        (
            "def main():\n    sys.exit(3)\ntry:\n    main()\nfinally:\n    print('end')",
            3,
            "end abort 3",
        ),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    raise", 3, "abort 3"),
        ("try:\n    sys.exit(3)\nexcept SystemExit as e:\n    raise e", 3, "abort 3"),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", 0, "leave"),
        ("def main():\n try:\n  sys.exit(3)\n except SystemExit:\n  pass\nmain()", 0, "leave"),
        ("raise ValueError('boom')", 1, "abort 1"),
        ("raise KeyboardInterrupt", 130, "abort 130"),
        ("t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()", 0, "leave"),
        ("hooks.uninstall(); hooks.uninstall(); sys.exit(3)", 3, ""),
    ],
)
def test_end_of_the_process(body: str, code: int, out: str) -> None:
    done = run_script(body)
    assert (done.returncode, done.stdout.split()) == (code, out.split()), done.stderr


def test_traceback_names_the_rank_on_each_line() -> None:
    lines = run_script("raise ValueError('boom')").stderr.splitlines()
    assert lines[-1] == "[rank 1/2] ValueError: boom"
    assert all(line.startswith("[rank 1/2] ") for line in lines)


def test_exit_message_is_still_printed() -> None:
    assert run_script("sys.exit('no data')").stderr == "no data\n"


def test_abort_waits_until_the_traceback_was_read(tmp_path: Path) -> None:
    """MPI_Abort ends mpiexec at once: what it has not read by then nobody will ever see."""
    body = (
        "import array, fcntl, termios\n"
        "unread = array.array('i', [0])\n"
        "def check(code):\n"
        "    fcntl.ioctl(2, termios.FIONREAD, unread)\n"
        "    os.write(1, str(unread[0]).encode())\n"
        "    os._exit(code)\n"
        "hooks._end = check\n"
        "raise ValueError('boom')"
    )
    with (tmp_path / "out").open("w+") as out:
        with subprocess.Popen(
            [sys.executable, "-c", HEAD + body], stdout=out, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            assert select.select([process.stderr], [], [], 60)[0]
            time.sleep(0.2)  # the launcher is busy
            assert b"boom" in process.stderr.read()
        out.seek(0)
        assert out.read() == "0"


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise ValueError"])
def test_other_threads_do_not_delay_the_abort(end: str) -> None:
    start = time.monotonic()
    done = run_script(f"threading.Thread(target=time.sleep, args=(50,)).start()\n{end}")
    assert done.stdout.startswith("abort")
    assert time.monotonic() - start < 20


def test_exception_in_a_thread_aborts() -> None:
    done = run_script("threading.Thread(target=lambda: 1 / 0).start(); time.sleep(50)")
    assert (done.returncode, done.stdout) == (1, "abort 1\n")
    assert done.stderr.splitlines()[-1] == "[rank 1/2] ZeroDivisionError: division by zero"


def test_hook_of_the_user_prints() -> None:
    body = "hooks.uninstall()\nsys.excepthook = lambda *a: print('mine', a[1])\n"
    body += "failure.install(abort, rank=0, size=1)\nraise ValueError('boom')"
    done = run_script(body)
    assert done.stdout == "mine boom\nabort 1\n"
    assert done.stderr == ""


def test_forked_child_does_not_abort_the_rank() -> None:
    body = """
pid = os.fork()
if pid == 0:
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
    done = run_script(body)
    assert done.stdout.split() == ["3", "leave"]


@pytest.mark.parametrize(("watched", "out"), [("os.getpid()", ""), ("1", "abort 1\n")])
def test_supervised_process_only_ends(watched: str, out: str) -> None:
    body = f"hooks.uninstall(); os.environ['ALLGRAD_SUPERVISED'] = str({watched})\n"
    body += "failure.install(abort, rank=1, size=2)\nraise ValueError('boom')"
    done = run_script(body)
    assert (done.returncode, done.stdout) == (1, out)
    assert "ValueError: boom" in done.stderr


def test_uninstall_restores_and_respects_later_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "_register_atexit", lambda call: None)
    before = (sys.excepthook, threading.excepthook, sys.exit)
    hooks = failure.install(lambda code: None, rank=0, size=1)
    assert sys.excepthook is not before[0]
    hooks.uninstall()
    assert (sys.excepthook, threading.excepthook, sys.exit) == before
    hooks = failure.install(lambda code: None, rank=0, size=1)
    monkeypatch.setattr(sys, "excepthook", print)
    hooks.uninstall()
    assert sys.excepthook is print


@pytest.mark.parametrize(
    ("code", "status"), [(None, 0), (0, 0), (3, 3), (256, 0), (-1, 255), ("a", 1)]
)
def test_exit_code(code: object, status: int) -> None:
    assert failure.exit_code(SystemExit(code)) == status
