"""The process whose threads are the ranks: runs the script once per rank, and ends the job.

Below ``debug``; above the thread communicator. What makes a thread look like a process of its own
is in ``debug_process``, ``debug_state`` and ``debug_streams``; ``debug_pdb`` is its debugger.
"""

from __future__ import annotations

import argparse
import atexit
import bdb
import contextlib
import importlib.util
import io
import os
import signal
import sys
import termios
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib.machinery import SourceFileLoader
from typing import Any, NoReturn

from allgrad.ddp.communicators.thread import RankThreads, ThreadWorld
from allgrad.ddp.communicators.thread_job import RankStoppedError
from allgrad.ddp.failure import INTERRUPTED, exit_code
from allgrad.ddp.schedule import Schedule
from allgrad.errors import LaunchError
from allgrad.launch import debug_process, debug_state, debug_streams
from allgrad.launch.console import Console
from allgrad.launch.debug_pdb import Debuggers
from allgrad.launch.debug_process import HardExit, Signals, interrupt_thread
from allgrad.launch.debug_streams import Screen
from allgrad.launch.logs import RankLogs
from allgrad.launch.outcome import Failure, Outcome, closing_lines
from allgrad.launch.spec import LaunchSpec
from allgrad.launch.stop import Step, StopPlan
from allgrad.launch.supervisor import TIMEOUT_CODE
from allgrad.launch.worker import FORWARDED

_STACK_BYTES = 64 << 20  # of each rank: at least that of a process's main thread; paged in as used
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class JobStopped(BaseException):
    """Raised in a rank that goes on although the job is over; it is nobody's failure."""


def run_job(spec: LaunchSpec, options: argparse.Namespace, seed: int | None) -> int:
    """Run all ranks in this process and return the job's exit code.

    Where a rank cannot be stopped, or has failed, the process ends here: its threads may still run.

    Args:
        spec: the job.
        options: of the command line.
        seed: of the schedule; None: the threads run freely.
    """
    with closing(RankLogs(options.log_dir)) as logs, _terminal_restored() as restore:
        job = DebugJob(spec, options, seed, logs)
        outcome = job.run()
        for line in closing_lines(outcome):
            job.screen.say(line)
        if outcome.code != 0 or job.abandoned:
            restore()
            _end_now(outcome.code, run_exit_handlers=not job.abandoned)
    return 0


def _end_now(code: int, run_exit_handlers: bool) -> NoReturn:
    """End the process whatever its other threads do, as the supervisor ends failed ranks."""
    if run_exit_handlers:
        atexit._run_exitfuncs()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)


@contextmanager
def _terminal_restored() -> Iterator[Callable[[], None]]:
    """A debugger's line editor leaves the terminal without echo if it is cut off."""
    try:
        before = termios.tcgetattr(0)
    except (termios.error, OSError):
        yield lambda: None  # no terminal
        return
    try:
        yield lambda: _restore_terminal(before)
    finally:
        _restore_terminal(before)


def _restore_terminal(before: list[Any]) -> None:
    with contextlib.suppress(termios.error, OSError):
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class DebugJob:
    """One job whose ranks are threads of this process. Make it, call ``run`` once.

    Attributes:
        screen: shows the ranks' output.
        abandoned: whether threads of ranks are still running.
    """

    def __init__(
        self, spec: LaunchSpec, options: argparse.Namespace, seed: int | None, logs: RankLogs
    ) -> None:
        self._spec, self._options = spec, options
        self._schedule = None if seed is None else Schedule(seed)
        self._world = ThreadWorld(spec.nproc, self._schedule)
        self._job = self._world.job
        self.screen = Screen(_console(spec, options), logs, self._job.hold)
        self.abandoned = False
        self._failures: dict[int, Failure] = {}
        self._signals: deque[int] = deque()
        self._signal: int | None = None
        self._lock = threading.Lock()
        self._debuggers = Debuggers(self._job, self.screen)
        self._run_script = _prepare(spec)
        self._threads = RankThreads(self._world, self._rank, _STACK_BYTES)

    def run(self) -> Outcome:
        """Run the ranks to their end, and tell how it was."""
        spec, threads = self._spec, self._threads.threads
        signals = Signals(lambda rank, error: interrupt_thread(threads[rank], type(error)))
        self._install(signals)
        if spec.nproc > spec.cores and self._schedule is None:
            self.screen.say(f"allgrad: {spec.nproc} ranks share {spec.cores} cores")
        with nullcontext() if self._schedule is None else self._schedule.running(spec.nproc):
            self._threads.start()
            self._watch(signals)
        for rank in range(spec.nproc):
            self.screen.close(rank)
        return self._outcome()

    def _install(self, signals: Signals) -> None:
        """From here on this process is made for ranks that are threads."""
        spec, hold = self._spec, self._job.hold
        for number in FORWARDED:
            signal.signal(number, lambda number, _: self._signals.append(number))
        debug_streams.install(
            self.screen, spec.nproc, lambda: hold.at_prompt == debug_streams.current_rank()
        )
        mains = [self._run_script.module() for _ in range(spec.nproc)]
        self._mains = mains
        debug_process.install(mains, self._threads.threads, signals, self._thread_failed)
        debug_state.install(spec.nproc, None if self._schedule is None else self._schedule.seed)
        self._debuggers.install()
        self._excepthook, self._thread_hook = sys.excepthook, threading.excepthook

    # ---- in the thread of a rank -----------------------------------------------------------

    def _rank(self, rank: int) -> None:
        """The life of one rank; what it raises ends the job."""
        if self._spec.bind:
            os.sched_setaffinity(0, self._spec.bind[rank])  # of this thread
        try:
            self._run_script.run(self._mains[rank])
        except SystemExit as leaving:
            if code := exit_code(leaving):
                self._fail(rank, leaving, Failure("", code, f"sys.exit({leaving.code!r})"))
            raise
        except HardExit as leaving:
            if leaving.code == 0:
                return
            self._fail(rank, leaving, Failure("", leaving.code, f"exit code {leaving.code}"))
            raise
        except (RankStoppedError, JobStopped):
            raise
        except bdb.BdbQuit as quit_:
            if self._job.error is None:
                self._fail(rank, quit_, Failure("", 1, "quit in the debugger"))
            raise
        except BaseException as error:
            self._failed(rank, error)
            raise

    def _failed(self, rank: int, error: BaseException) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        if sys.excepthook is not self._excepthook:
            sys.excepthook(type(error), error, error.__traceback__)  # the user's own
        if self._options.pdb and not interrupted:
            self._debuggers.post_mortem(rank, error)
        code = INTERRUPTED if interrupted else 1
        message = "".join(traceback.format_exception_only(error)).strip()
        self._fail(rank, error, Failure("", code, message, _traceback(error)))

    def _thread_failed(self, rank: int, error: BaseException) -> None:
        """A thread that a rank has started has died of an exception."""
        if isinstance(error, RankStoppedError | JobStopped):
            return
        if threading.excepthook is not self._thread_hook:
            arguments = (type(error), error, error.__traceback__, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(arguments))
        self._failed(rank, error)

    def _fail(self, rank: int, error: BaseException, failure: Failure) -> None:
        self.screen.log(rank, failure.traceback)
        with self._lock:
            self._failures.setdefault(
                rank,
                Failure(
                    f"rank {rank}", failure.code, failure.what, failure.traceback, rank, time.time()
                ),
            )
        self._world.fail(rank, error)

    # ---- in the main thread ----------------------------------------------------------------

    def _watch(self, signals: Signals) -> None:
        """Wait for all ranks; pass signals on; end ranks that go on after a failure."""
        stop, threads = StopPlan(), self._threads.threads
        limit_s = self._options.timeout
        end_at = time.monotonic() + (limit_s or float("inf"))
        waiting = deque(threads)
        while waiting:
            waiting[0].join(0.05)
            if not waiting[0].is_alive():
                waiting.popleft()
            now = time.monotonic()
            while self._signals:
                self._pass_signal(self._signals.popleft(), signals, stop)
            if now > end_at and not stop.begun:
                self._job_failed(TIMEOUT_CODE, f"time limit of {limit_s:g} s reached")
            if self._job.error is not None:
                stop.begin(now)
            for step in stop.due(now, all_ended=False):
                if step is Step.TERM:
                    self._interrupt(JobStopped)
                elif step is Step.KILL:
                    self.abandoned = any(thread.is_alive() for thread in threads)
                    return

    def _job_failed(self, code: int, what: str) -> None:
        with self._lock:
            self._failures.setdefault(-1, Failure("the job", code, what, time=time.time()))
        self._world.fail(-1, LaunchError(what))

    def _pass_signal(self, number: int, signals: Signals, stop: StopPlan) -> None:
        alive = [r for r, thread in enumerate(self._threads.threads) if thread.is_alive()]
        handled = [signals.deliver((self._world, rank), number) for rank in alive]
        if number not in _ENDING and all(handled):
            return
        now, again = time.monotonic(), self._signal is not None
        self._signal = number
        if again:
            stop.begin(now)
            stop.hurry(now, Step.KILL)
        elif number == signal.SIGINT:
            self._interrupt(
                KeyboardInterrupt, [r for r, h in zip(alive, handled, strict=True) if not h]
            )
            stop.begin(now, self._options.grace if all(handled) else 1.0)
        else:
            stop.begin(now, self._options.grace if all(handled) else 0.0)

    def _interrupt(self, kind: type[BaseException], ranks: list[int] | None = None) -> None:
        threads = self._threads.threads
        for rank in range(len(threads)) if ranks is None else ranks:
            if threads[rank].is_alive():
                interrupt_thread(threads[rank], kind)

    def _outcome(self) -> Outcome:
        with self._lock:
            found = sorted(self._failures.values(), key=lambda failure: failure.time)
        error = self._job.error
        if not found and error is not None and error[0] == -1:
            # the job as a whole: a deadlock
            found = [Failure("the job", 1, str(error[1]), str(error[1]))]
        if found:
            return Outcome(found[0].code, tuple(found), self._signal)
        if self._signal is not None and (self.abandoned or error is not None):
            return Outcome(128 + self._signal, (), self._signal)
        return Outcome(0, (), self._signal)


def _console(spec: LaunchSpec, options: argparse.Namespace) -> Console:
    only_first = options.log_dir is not None and not options.tee
    return Console(
        sys.stdout.buffer,
        sys.stderr.buffer,
        prefix=options.prefix and spec.nproc > 1,
        raw=spec.nproc == 1,
        shows=lambda rank: rank == 0 or not only_first,
    )


def _traceback(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next  # frames of this file say nothing to the user
    return "".join(traceback.format_exception(type(error), error, trace))


class Script:
    """What the ranks run, compiled once; each runs it in a module of its own."""

    def __init__(self, code: types.CodeType, attributes: dict[str, Any]) -> None:
        self._code, self._attributes = code, attributes

    def module(self) -> types.ModuleType:
        """A new ``__main__``."""
        main = types.ModuleType("__main__")
        main.__dict__.update(self._attributes)
        main.__dict__["__builtins__"] = __builtins__
        return main

    def run(self, main: types.ModuleType) -> None:
        """Run the script in a module that `module` made."""
        exec(self._code, main.__dict__)


def _prepare(spec: LaunchSpec) -> Script:
    """Read the script or find the module, and set what ``python`` would set for it."""
    if not sys.flags.safe_path:
        del sys.path[0]  # python put it there for `-m allgrad.launch.cli`
    if spec.module:
        return _prepare_module(spec)
    full = os.path.abspath(spec.target)
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(spec.target)))
    sys.argv = [spec.target, *spec.args]
    with io.open_code(full) as file:
        source = file.read()
    code = compile(source, full, "exec", dont_inherit=True)
    return Script(code, {"__file__": full, "__loader__": SourceFileLoader("__main__", full)})


def _prepare_module(spec: LaunchSpec) -> Script:
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    found = importlib.util.find_spec(spec.target)
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{spec.target}.__main__")
    loader: Any = None if found is None else found.loader
    code = loader.get_code(found.name) if found is not None and loader is not None else None
    if found is None or code is None:
        raise LaunchError(f"module {spec.target} cannot be run: it has no code or no __main__")
    sys.argv = [found.origin or spec.target, *spec.args]
    attributes = {"__file__": found.origin, "__loader__": loader, "__spec__": found}
    return Script(code, attributes | {"__package__": found.parent, "__cached__": found.cached})
