"""One rank: runs the user's script in a child process, watches it and reports to the supervisor.

``mpiexec`` starts ``python .../worker.py script.py args``. By path and with the standard library
only (nothing of ``allgrad`` is imported here): the watcher stays small, the script starts at once.

Why two processes per rank: the parent of a process is the only one that learns for certain how it
ended. Exit codes of ``mpiexec`` differ between MPIs and name no rank, and an MPI that sees one rank
die kills the others before their last lines of output are out. Here the watcher of each rank
carries its output and its end over a socket, and leaves only when the supervisor says so.

Note [No orphans]: the script dies with its watcher (the kernel's parent-death signal), and the
watcher ends the script's process group when its socket to the supervisor closes. So whichever
process is killed, by ``kill -9`` too, nothing of the job stays behind.

The supervisor may be on another host; then it is this process that removes the shared memory of a
failed job here, and what the script announces (`allgrad.ddp.events`) travels through it.

Without ``ALLGRAD_SUPERVISOR`` (the command of ``--dry-run`` typed by hand) the script just runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING or __package__:
    from allgrad.launch import worker_link
else:  # by path: a plain import would look at sys.path first, where the user's modules are
    from importlib.util import module_from_spec, spec_from_file_location

    _beside = os.path.join(os.path.dirname(__file__), "worker_link.py")
    _spec = spec_from_file_location("worker_link", _beside)
    worker_link = module_from_spec(_spec)
    _spec.loader.exec_module(worker_link)

# Frames of both directions: kind, length, then as many bytes.
_HEADER = struct.Struct(">cI")
# worker -> supervisor
HELLO, STDOUT, STDERR, FAILED, ENDED, EVENT = b"H", b"O", b"E", b"F", b"X", b"V"
SIGNAL, LEAVE = b"S", b"L"  # supervisor -> worker

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DRAIN_S = 0.3  # output of processes that the script left behind
LEAVE_S = 5.0  # for the supervisor's answer to a failure
_LOOK_S = (0.2, 2.0)  # between two looks for shared memory: until some was seen, afterwards
EVENTS = "ALLGRAD_EVENTS"  # names the file that the script writes its events into
_CHUNK_BYTES = 1 << 16


def frame(kind: bytes, payload: bytes | dict[str, Any] = b"") -> bytes:
    """Return one message as bytes; a dict travels as JSON."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return _HEADER.pack(kind, len(data)) + data


class Frames:
    """Cuts a byte stream back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (kind, payload) of each message that is complete now."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            yield kind, bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]


class Watcher:
    """Parent of the script: relays its output, its failure and its end; forwards signals to it."""

    def __init__(
        self,
        address: str,
        link: socket.socket,
        child: int,
        pipes: dict[bytes, int],
        events: int | None = None,
    ) -> None:
        self._address = address
        self._far = address.startswith("tcp:")
        self._segments: set[str] = set()
        self._look_at = 0.0
        self._link = link
        self._child = child
        self._selector = selectors.DefaultSelector()
        self._open = set(pipes.values())
        self._frames = Frames()
        self._failure = bytearray()
        self._status: int | None = None
        self._dismissed = False
        for kind, fd in pipes.items():
            self._selector.register(fd, selectors.EVENT_READ, kind)
        if events is not None:
            self._selector.register(events, selectors.EVENT_READ, EVENT)
        self._selector.register(link, selectors.EVENT_READ, None)
        self._wake_on_signals()

    def _wake_on_signals(self) -> None:
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        self._wakeup = (read, write)
        signal.set_wakeup_fd(write.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: self._signal(number))
        self._selector.register(read, selectors.EVENT_READ, b"")

    def run(self) -> NoReturn:
        """Relay until the script has ended, then leave with its exit code."""
        drained_at = float("inf")
        while drained_at > time.monotonic() and (self._status is None or self._open):
            self._step()
            if self._status is None:
                self._see_segments()
                self._reap()
                if self._status is not None:
                    drained_at = time.monotonic() + DRAIN_S
        self._signal_group(signal.SIGKILL)
        code = os.waitstatus_to_exitcode(self._status or 0)
        self._send(frame(ENDED, {"status": code, "time": self._ended_at}))
        leave_at = time.monotonic() + LEAVE_S
        while code != 0 and not self._dismissed and time.monotonic() < leave_at:
            self._step()
        if self._far and code != 0:
            worker_link.unlink_all(self._segments)
        # A signal's number as shells report it: the launcher's own code then is one of theirs.
        os._exit(code if code >= 0 else 128 - code)

    def _step(self) -> None:
        for key, _ in self._selector.select(timeout=0.1):
            if key.data is None:
                self._obey()
            elif key.data == b"":
                self._wakeup[0].recv(_CHUNK_BYTES)
            else:
                self._relay(key.fd, key.data)

    def _relay(self, fd: int, kind: bytes) -> None:
        data = os.read(fd, _CHUNK_BYTES)
        if not data:
            self._selector.unregister(fd)
            self._open.discard(fd)
        elif kind != FAILED:
            self._send(frame(kind, data))
        else:
            self._failure += data
            if self._failure.endswith(b"\n"):
                self._send(frame(FAILED, bytes(self._failure)))
                self._failure.clear()

    def _obey(self) -> None:
        try:
            data = self._link.recv(_CHUNK_BYTES)
        except OSError:  # also a time-out: the supervisor's host is gone
            data = b""
        if not data:
            self._abandon()
        for kind, payload in self._frames.feed(data):
            if kind == SIGNAL:
                number = signal.Signals(json.loads(payload)["signal"])
                if number == signal.SIGKILL:
                    self._see_segments(now=True)
                self._signal(number)
                if number == signal.SIGKILL:
                    self._signal_group(number)
            elif kind == LEAVE:
                self._dismissed = True

    def _send(self, message: bytes) -> None:
        try:
            self._link.sendall(message)
        except OSError:
            self._abandon()

    def _abandon(self) -> NoReturn:
        """End everything: the supervisor is gone. See Note [No orphans]."""
        import shutil  # noqa: PLC0415 - only here

        self._see_segments(now=True)
        self._signal_group(signal.SIGKILL)
        self._signal(signal.SIGKILL)
        worker_link.unlink_all(self._segments)  # which its own job removes only if it ends well
        if not self._far:
            shutil.rmtree(os.path.dirname(self._address), ignore_errors=True)  # its folder, for it
        os._exit(1)

    def _see_segments(self, now: bool = False) -> None:
        """Remember the shared memory of the script; the supervisor of this host does it itself."""
        if self._status is None and (now or (self._far and time.monotonic() > self._look_at)):
            self._segments |= worker_link.shared_memory_of(self._child)
            self._look_at = time.monotonic() + _LOOK_S[bool(self._segments)]

    def _reap(self) -> None:
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid == self._child:
            self._status = status
            self._ended_at = time.time()

    def _signal(self, number: int) -> None:
        if self._status is None:  # not reaped yet, so the number still is our child's
            os.kill(self._child, number)

    def _signal_group(self, number: int) -> None:
        # Nobody may be left; macOS answers with a permission error for zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, number)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only here, it is slow to import

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


class Reporter:
    """In the script's process: tells the watcher of an exception instead of printing it here."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._told: BaseException | None = None
        sys.excepthook = self.exception
        threading.excepthook = self.thread_exception

    def exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Stand in for ``sys.excepthook``: print only what could not be reported."""
        if error is not self._told and not self.report(error, trace):
            sys.__excepthook__(kind, error, trace)

    def report(self, error: BaseException, trace: Any) -> bool:
        """Send an exception to the watcher; tell whether that worked."""
        import traceback  # noqa: PLC0415 - only where something failed

        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # frames of this file say nothing to the user
        interrupted = isinstance(error, KeyboardInterrupt)
        report = {
            "code": 128 + signal.SIGINT if interrupted else 1,
            "message": "".join(traceback.format_exception_only(error)).strip(),
            "traceback": "".join(traceback.format_exception(type(error), error, trace)),
        }
        # A forked child (a data loader's worker) has this hook too, but its end is not the rank's.
        if os.getpid() == self._pid and self._write(report):
            self._told = error
            return True
        return False

    def thread_exception(self, args: threading.ExceptHookArgs) -> None:
        """Stand in for ``threading.excepthook``: a thread's failure alone does not end the rank."""
        if args.exc_value is None or threading.excepthook == self.thread_exception:
            threading.__excepthook__(args)
        else:  # called by the hooks of allgrad.ddp.failure, which end the process next
            self.exception(args.exc_type, args.exc_value, args.exc_traceback)

    def exit(self, leaving: SystemExit) -> None:
        """Report ``sys.exit(code)`` with a code other than 0."""
        code = leaving.code
        if code is None or code == 0:
            return
        number = code & 0xFF if isinstance(code, int) else 1
        message = f"sys.exit({code!r})"
        # allgrad.ddp.GracefulExit: the rank has saved and leaves because of this signal
        asked = getattr(leaving, "signal", None)
        self._write({"code": number, "message": message, "traceback": "", "left_after": asked})

    def _write(self, report: dict[str, Any]) -> bool:
        # The time tells who was first: reports of ranks that this one took along may overtake it.
        data = json.dumps(report | {"time": time.time()}).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return False  # the script closed our pipe, or the watcher is gone
        return True


def run_target(argv: list[str]) -> None:
    """Run ``["script.py", ...]`` or ``["-m", "module", ...]`` as ``python`` would.

    Raises:
        SystemExit: the program left by ``sys.exit``. Any other exception of the program passes too.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]  # python put it there for this file
    if argv[0] == "-m":
        import runpy  # noqa: PLC0415 - not needed for scripts

        sys.argv = argv[1:]
        if not sys.flags.safe_path:
            sys.path.insert(0, os.getcwd())
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = argv
    _run_script(argv[0])


def _run_script(path: str) -> None:
    """Execute a file in a new ``__main__`` that stays: threads and pickles look there later."""
    import importlib.machinery  # noqa: PLC0415 - after the fork
    import types  # noqa: PLC0415

    full = os.path.abspath(path)
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    with io.open_code(full) as file:
        code = compile(file.read(), full, "exec", dont_inherit=True)
    main = types.ModuleType("__main__")
    main.__file__ = full
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _rank() -> int:
    return worker_link.rank_of(os.environ)


def _watch(address: str, argv: list[str]) -> None:
    """Fork; the child runs the script, the parent watches it and does not return."""
    try:
        link = worker_link.connect(address, float(os.environ.get("ALLGRAD_HOST_TIMEOUT") or 30))
    except OSError as error:
        sys.exit(f"allgrad: rank {_rank()}: {error}")
    events = worker_link.event_pipe(os.environ, EVENTS) if address.startswith("tcp:") else None
    pipes = {kind: os.pipe() for kind in (STDOUT, STDERR, FAILED)}
    parent = os.getpid()
    child = os.fork()
    if child != 0:
        hello = {"rank": _rank(), "pid": os.getpid(), "script": child, "time": time.time()}
        link.sendall(frame(HELLO, hello | {"host": socket.gethostname()}))
        for _, write in pipes.values():
            os.close(write)
        reads = {kind: read for kind, (read, _) in pipes.items()}
        Watcher(address, link, child, reads, events).run()
    os.setpgid(0, 0)
    _die_with_parent(parent)
    link.close()
    for read, _ in pipes.values():
        os.close(read)
    for fd, kind in ((1, STDOUT), (2, STDERR)):
        os.dup2(pipes[kind][1], fd)
        os.close(pipes[kind][1])
    if _rank() != 0:  # the launcher gives its input to rank 0; the others would wait for ever
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # As on a terminal. In blocks, which is Python's way with pipes, output would come minutes late.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    # This process only: a job that the script starts by itself is not watched from here.
    os.environ["ALLGRAD_SUPERVISED"] = str(os.getpid())
    reporter = Reporter(pipes[FAILED][1])
    try:
        run_target(argv)
    except SystemExit as leaving:
        reporter.exit(leaving)
        raise
    except BaseException as error:
        # Here and not only in the hook: the script may have set a hook of its own.
        reporter.report(error, error.__traceback__)
        raise


def main() -> None:
    """Entry of the rank's process."""
    argv = sys.argv[1:]
    address = os.environ.pop("ALLGRAD_SUPERVISOR", "")
    worker_link.restore_tmpdir(os.environ)
    worker_link.name_as_torchrun(os.environ)
    worker_link.divide_cores(os.environ)
    worker_link.bind(os.environ)
    if address:
        _watch(address, argv)
    else:
        run_target(argv)


if __name__ == "__main__":
    main()
