"""Output and input of ranks that are threads: one screen, one log per rank, one terminal.

``sys.stdout`` and ``sys.stderr`` of the process become streams that know which rank writes. What
libraries or child processes write to the file descriptors themselves comes without a prefix.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import IO, Any, BinaryIO

from allgrad.ddp.communicators.hold import Hold
from allgrad.ddp.communicators.thread import as_rank, current_thread_rank
from allgrad.launch.console import Console
from allgrad.launch.logs import RankLogs


def current_rank() -> int | None:
    """The rank that the calling thread belongs to."""
    place = current_thread_rank()
    return None if place is None else place[1]


def for_all_ranks(call: Callable[[], object]) -> bool:
    """Do something for every rank if a module that they share is being imported.

    Its code runs once, in the thread of the rank that imports it first; in processes of their own
    every rank would run it.

    Returns:
        False if no import is under way; then nothing was done.
    """
    place = current_thread_rank()
    if place is None or not _importing():
        return False
    world = place[0]
    with as_rank(None):
        call()
    for rank in range(world.size):
        with as_rank((world, rank)):
            call()
    return True


def _importing() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


class Screen:
    """A `Console` for several threads, which keeps quiet while somebody is at a prompt.

    Args:
        console: shows lines.
        logs: keep them.
        hold: knows who is at the prompt.
    """

    def __init__(self, console: Console, logs: RankLogs, hold: Hold) -> None:
        self._console, self._logs, self._hold = console, logs, hold
        self._lock = threading.RLock()
        self._waiting: list[tuple[int, int, bytes]] = []
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # another thread may have held it
        self._waiting = []

    def feed(self, rank: int, stream: int, data: bytes) -> None:
        """Show output of a rank; while another rank is at the prompt, after that."""
        with self._lock:
            self._logs.write(rank, data)
            prompt = self._hold.at_prompt
            if prompt is not None and prompt != rank:
                self._waiting.append((rank, stream, data))
            else:
                self._console.feed(rank, stream, data)

    def release(self) -> None:
        """Show what came while somebody was at the prompt."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for rank, stream, data in waiting:
                self._console.feed(rank, stream, data)

    def others(self, stream: int, data: bytes, file: BinaryIO) -> None:
        """Output of threads that are no rank's."""
        with self._lock:
            if stream == 1:
                file.write(data)
                file.flush()
            else:
                self._console.launcher(data)

    def log(self, rank: int, text: str) -> None:
        """Into the rank's log only."""
        with self._lock:
            self._logs.write(rank, text.encode(errors="replace"))

    def close(self, rank: int) -> None:
        """Write the unfinished lines of a rank that has ended."""
        with self._lock:
            self._console.close(rank)

    def say(self, line: str) -> None:
        """Write a message of our own."""
        with self._lock:
            self._console.say(line)


class _RankBytes(io.RawIOBase):
    """``sys.stdout.buffer``: bytes to the screen."""

    def __init__(self, screen: Screen, stream: int, original: BinaryIO) -> None:
        self._screen, self._stream, self._original = screen, stream, original

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._original.fileno()

    def write(self, data: Any) -> int:
        payload = bytes(data)
        rank = current_rank()
        if rank is None:
            self._screen.others(self._stream, payload, self._original)
        else:
            self._screen.feed(rank, self._stream, payload)
        return len(payload)


class RankStream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of all ranks.

    Args:
        screen: where lines go.
        stream: 1 or 2.
        original: the process's own stream.
        terminal: whether ranks may take it for a terminal (one rank only).
    """

    def __init__(self, screen: Screen, stream: int, original: Any, terminal: bool) -> None:
        self.buffer = _RankBytes(screen, stream, original.buffer)
        self._original, self._terminal = original, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    @property
    def name(self) -> str:
        return str(self._original.name)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.buffer.write(text.encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return self._terminal and self._original.isatty()

    def reconfigure(self, **options: Any) -> None:
        """Accepted, as for a file: lines go out as they come."""


class RankInput:
    """``sys.stdin``: rank 0 reads the job's input, the others find it empty, as under mpiexec.

    Args:
        original: the process's own stdin.
        at_prompt: whether the calling rank is at the prompt of its debugger.
    """

    def __init__(self, original: IO[str], at_prompt: Callable[[], bool]) -> None:
        self._original, self._at_prompt = original, at_prompt
        self._empty = open(os.devnull)  # noqa: SIM115 - lives as long as the process

    def _file(self) -> IO[str]:
        return self._original if current_rank() in (None, 0) or self._at_prompt() else self._empty

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file(), name)

    def __iter__(self) -> Iterable[str]:
        return iter(self._file())


def install(screen: Screen, nproc: int, at_prompt: Callable[[], bool]) -> None:
    """Give the process streams that know ranks."""
    sys.stdout = RankStream(screen, 1, sys.__stdout__, nproc == 1)
    sys.stderr = RankStream(screen, 2, sys.__stderr__, nproc == 1)
    if sys.__stdin__ is not None:
        sys.stdin = RankInput(sys.__stdin__, at_prompt)
