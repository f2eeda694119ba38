"""One failing rank ends the whole job: hooks that tell the other ranks before this one leaves.

Installed by ``init_process_group``; imports the standard library only. MPI alone does not help: a
rank that ends by an exception or by ``sys.exit(3)`` waits in ``MPI_Finalize`` for ranks that wait
for it. So the hooks here call ``abort`` themselves, at the earliest moment:

* an exception that nobody caught, in the main thread or in another one: as soon as it is printed,
  because threads that are not daemons would keep the process alive until they end;
* ``sys.exit(3)``: when the main thread is over, before other threads are waited for;
* a normal end: ``on_leave`` says so, for ranks that still wait for this one.

``kill -9`` runs no hook; the launcher sees it. Under ``allgrad run`` (``ALLGRAD_SUPERVISED``) the
supervisor stops the other ranks and prints who failed first, so here the process merely ends: an
``MPI_Abort`` would kill the watchers that carry the last lines of output.
"""

from __future__ import annotations

import array
import atexit
import dis
import fcntl
import os
import stat
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended: 128 + SIGINT
DRAIN_SECONDS = 1.0  # a launcher that does not read for so long is not waited for


class FailureHooks:
    """Hooks of one process, made by ``install``; ``uninstall`` restores what stood before."""

    def __init__(
        self,
        abort: Callable[[int], object],
        rank: int,
        size: int,
        on_leave: Callable[[], object] | None,
        supervised: bool,
    ) -> None:
        self._end = os._exit if supervised else abort
        self._label = f"[rank {rank}/{size}] "
        self._on_leave = on_leave
        self._pid = os.getpid()
        self._exit: tuple[int, FrameType] | None = None
        self._installed = True
        self._previous_excepthook = sys.excepthook
        self._previous_thread_hook = threading.excepthook
        self._previous_exit = sys.exit

    def uninstall(self) -> None:
        """Put the previous hooks back; hooks that others set on top of ours stay. Idempotent."""
        self._installed = False
        atexit.unregister(self._at_exit)
        if sys.excepthook == self._on_exception:
            sys.excepthook = self._previous_excepthook
        if threading.excepthook == self._on_thread_exception:
            threading.excepthook = self._previous_thread_hook
        if sys.exit == self._sys_exit:
            sys.exit = self._previous_exit
        self._exit = None

    def _install(self) -> None:
        sys.excepthook = self._on_exception
        threading.excepthook = self._on_thread_exception
        sys.exit = self._sys_exit
        atexit.register(self._at_exit)
        # The public atexit comes too late: Python waits for non-daemon threads before it. This is
        # the hook by which concurrent.futures stops its own threads.
        threading._register_atexit(self._main_thread_over)  # type: ignore[attr-defined]

    @property
    def _active(self) -> bool:
        # A forked child (a data loader's worker) inherits the hooks, but its end is not the rank's.
        return self._installed and os.getpid() == self._pid

    def _on_exception(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._show(self._previous_excepthook, kind, error, trace)
        if self._active:
            self._leave(INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1)

    def _on_thread_exception(self, args: threading.ExceptHookArgs) -> None:
        if issubclass(args.exc_type, SystemExit):
            return  # sys.exit in a thread ends that thread only
        if self._previous_thread_hook is threading.__excepthook__:
            error = args.exc_value if args.exc_value is not None else args.exc_type()
            self._show(sys.__excepthook__, args.exc_type, error, args.exc_traceback)
        else:
            self._previous_thread_hook(args)
        if self._active:
            self._leave(1)

    def _show(
        self,
        previous: Callable[..., object],
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        if previous is not sys.__excepthook__ or not self._active:
            previous(kind, error, trace)  # the user's own printer, or the reporter of `allgrad run`
            return
        lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
        # One write, so that the tracebacks of two ranks do not mix line by line.
        sys.stderr.write("".join(f"{self._label}{line}\n" for line in lines))

    def _sys_exit(self, code: object = None, /) -> NoReturn:
        # Only noted: somebody up the stack may catch SystemExit and go on.
        leaving = SystemExit(code)
        if self._active and threading.current_thread() is threading.main_thread():
            self._exit = (exit_code(leaving), _outermost_frame())
        raise leaving

    def _main_thread_over(self) -> None:
        if self._active and self._exit is not None:
            code, program = self._exit
            if code != 0 and _was_left_by_exception(program):
                self._leave(code)

    def _leave(self, code: int) -> None:
        self._installed = False
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            # MPI_Abort makes mpiexec end at once, with whatever it has not read yet.
            _wait_until_read([1, 2], DRAIN_SECONDS)
        finally:
            self._end(code)  # also where the reader of our output is gone

    def _at_exit(self) -> None:
        if self._active and self._on_leave is not None:
            self._on_leave()


def install(
    abort: Callable[[int], object],
    *,
    rank: int,
    size: int,
    on_leave: Callable[[], object] | None = None,
    supervised: bool | None = None,
) -> FailureHooks:
    """Make an uncaught exception or a non-zero ``sys.exit`` of this process end the whole job.

    Args:
        abort: ends all ranks with the given exit code, without waiting for them (``MPI_Abort``).
        rank: rank of this process, for the prefix of each line of the traceback.
        size: number of ranks.
        on_leave: called at a normal end of this process, for ranks that still wait for it.
        supervised: whether ``allgrad run`` watches this process and stops the others itself;
            default: whether ``ALLGRAD_SUPERVISED`` holds the number of this process.

    Returns:
        The hooks; their ``uninstall`` restores the previous ones.

    Example:
        >>> hooks = install(print, rank=0, size=1)
        >>> hooks.uninstall()
    """
    if supervised is None:
        supervised = os.environ.get("ALLGRAD_SUPERVISED") == str(os.getpid())
    hooks = FailureHooks(abort, rank, size, on_leave, supervised)
    hooks._install()
    return hooks


def exit_code(leaving: SystemExit) -> int:
    """Return the exit status that Python gives a process which ``leaving`` ends.

    Example:
        >>> [exit_code(SystemExit(code)) for code in ("bad input", None, 3)]
        [1, 0, 3]
    """
    code = leaving.code
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def _wait_until_read(descriptors: list[int], seconds: float) -> None:
    """Wait until the readers of our pipes have taken all that we wrote, at most ``seconds``."""
    deadline = time.monotonic() + seconds
    unread = array.array("i", [0])
    for descriptor in descriptors:
        try:
            while stat.S_ISFIFO(os.fstat(descriptor).st_mode) and time.monotonic() < deadline:
                fcntl.ioctl(descriptor, termios.FIONREAD, unread)
                if unread[0] == 0:
                    break
                time.sleep(0.001)
        except OSError:
            continue  # closed, or of a kind that cannot be asked


def _outermost_frame() -> FrameType:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _was_left_by_exception(frame: FrameType) -> bool:
    """Tell a program that an exception ended from one that caught it and ran to its last line.

    A finished frame keeps its last instruction, which is a return unless an exception passed.
    """
    return not dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
