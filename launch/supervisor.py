"""Runs one job to its end: starts the launcher, listens to the ranks' workers, stops them all.

The job is stopped when one rank fails, when a signal asks for it, or when its time is over;
``stop`` says in which steps. Nothing here knows MPI: the command comes from a launcher, and how
ranks ended comes from their workers. See Note [No orphans] in ``worker``.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from allgrad.errors import LaunchError
from allgrad.launch import leftovers, worker
from allgrad.launch.console import Console
from allgrad.launch.door import Door, is_lost, is_silent
from allgrad.launch.logs import RankLogs
from allgrad.launch.outcome import (
    Failure,
    Outcome,
    ended_by_mpi,
    failure_of_status,
    signal_name,
    tells_of_a_death,
)
from allgrad.launch.stop import Step, StopPlan

TIMEOUT_CODE = 124  # as timeout(1)
LOST_CODE = 255  # as ssh(1)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAUNCHER_END_S = 5.0  # for the launcher, after all ranks ended well
_CHUNK_BYTES = 1 << 16
_LOOK_S = (0.1, 2.0)  # between two looks for the ranks' shared memory: at first, later
_EARLY_S = 10.0


@dataclass
class Rank:
    """What is known of one rank."""

    link: socket.socket
    number: int = -1
    host: str = ""
    ahead_s: float = 0.0  # its host's clock against ours
    script: int = 0  # its process
    ended: bool = False
    well: bool = False  # ended with exit code 0
    left: bool = False  # saved and left because a signal asked for it
    frames: worker.Frames = field(default_factory=worker.Frames)

    def send(self, message: bytes) -> None:
        """Send to the worker; one that has left meanwhile needs nothing any more."""
        try:
            self.link.sendall(message)
        except OSError:
            return

    def signal(self, number: int) -> None:
        """Let the worker pass a signal to the script."""
        self.send(worker.frame(worker.SIGNAL, {"signal": int(number)}))


class Supervisor:
    """One job. Make it, call ``run`` once.

    Args:
        argv: the launcher's command.
        env: its whole environment.
        nproc: number of ranks.
        door: where the workers connect.
        console: where output is shown.
        logs: where output is kept.
        grace_s: how long ranks may go on after SIGTERM, to save their state.
        timeout_s: longest time of the whole job; None: no limit.
        end_at: when that is over, in seconds of `time.monotonic`; default: counted from `run`.
        report: called with what happened and its values, for the file of events.
        relay: called with lines for that file from other hosts.
        kill_others: end the other ranks of a failed one by SIGKILL at once: the job is started
            again from a checkpoint, and what they could still save nobody would read.
    """

    def __init__(
        self,
        argv: tuple[str, ...],
        env: Mapping[str, str],
        nproc: int,
        door: Door,
        console: Console,
        logs: RankLogs,
        *,
        grace_s: float = 30.0,
        timeout_s: float | None = None,
        end_at: float | None = None,
        report: Callable[..., None] = lambda event, **fields: None,
        relay: Callable[[bytes], None] = lambda lines: None,
        kill_others: bool = False,
    ) -> None:
        self._argv = argv
        self._env = env
        self._nproc = nproc
        self._console = console
        self._logs = logs
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._end_at = end_at
        self._report, self._relay = report, relay
        self._kill_others = kill_others
        self._selector = selectors.DefaultSelector()
        self._door = door
        self._selector.register(door.listener, selectors.EVENT_READ, self._accept)
        self._ranks: list[Rank] = []
        self._failures: dict[int, Failure] = {}
        self._job_failure: Failure | None = None
        self._signals: deque[int] = deque()  # arrived, not yet treated
        self._signal: int | None = None  # the last one that asked the job to end
        self.segments: set[Path] = set()  # shared memory that ranks were seen to use
        self._began = time.monotonic()
        self._look_at = 0.0  # when to look for it next
        self._left_after: int | None = None  # the signal after which ranks left in good order
        self._stop = StopPlan()
        self._held_output = bytearray()
        self._well_ended_at: float | None = None
        self.lost_ranks: set[int] = set()  # whose hosts do not answer any more

    @property
    def started(self) -> int:
        """How many ranks have said that they are there."""
        return sum(rank.number >= 0 for rank in self._ranks)

    @property
    def timed_out(self) -> bool:
        """Whether the time limit ended the job."""
        return self._job_failure is not None

    def run(self) -> Outcome:
        """Run the job and return how it ended; no process of it is alive afterwards.

        Raises:
            LaunchError: the launcher cannot be started.
            BrokenPipeError: the reader of our output is gone.
        """
        with self._listen_to_signals():
            self._launcher = self._start_launcher()
            end_at = self._end_at or time.monotonic() + (self._timeout_s or float("inf"))
            try:
                for pipe in (self._launcher.stdout, self._launcher.stderr):
                    assert pipe is not None
                    self._selector.register(pipe, selectors.EVENT_READ, self._launcher_output)
                while self._launcher.poll() is None or self._left():
                    self._step(end_at)
                self._read_events(timeout=0.0)
            finally:
                self._end_launcher()
        return self._outcome()

    def _start_launcher(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._argv,
                stdin=None if _may_read_stdin() else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                start_new_session=True,  # Ctrl-C reaches the job through us only, and only once
            )
        except OSError as error:
            raise LaunchError(f"cannot start {self._argv[0]}: {error}") from error

    # -- events ------------------------------------------------------------------------------------

    @contextmanager
    def _listen_to_signals(self) -> Iterator[None]:
        """Collect signals in a queue; a byte in a socket wakes the loop up."""
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        self._selector.register(read, selectors.EVENT_READ, lambda end: end.recv(_CHUNK_BYTES))
        previous_fd = signal.set_wakeup_fd(write.fileno())
        previous = {
            number: signal.signal(number, lambda number, _: self._signals.append(number))
            for number in worker.FORWARDED
        }
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_fd)
            read.close()
            write.close()

    def _step(self, end_at: float) -> None:
        self._read_events(timeout=0.1)
        while self._signals:
            self._pass_signal(self._signals.popleft())
        now = time.monotonic()
        if self._launcher.poll() is not None:
            self._stop.begin(now)  # ranks that are left have lost their launcher
        if now > end_at and self._job_failure is None:
            what = f"time limit of {self._timeout_s:g} s reached"
            self._job_failure = Failure("the job", TIMEOUT_CODE, what)
            self._stop.begin(now)
        self._watch_good_end(now)
        if now > self._look_at and not (self.segments or self._stop.begun):
            self._look_at = now + _LOOK_S[now > self._began + _EARLY_S]
            self._see_segments()
        self._advance_stop(now)

    def _read_events(self, timeout: float) -> None:
        events = self._selector.select(timeout)
        while events:
            for key, _ in events:
                key.data(key.fileobj)
            events = self._selector.select(0)

    def _accept(self, listener: socket.socket) -> None:
        link = self._door.accept()
        self._selector.register(link, selectors.EVENT_READ, lambda _: self._admit(link))
        self._admit(link)

    def _admit(self, link: socket.socket) -> None:
        """Make a connection a rank's, once it has said the word of this job."""
        admitted = self._door.admits(link)
        if admitted is None:
            return
        if not admitted:
            self._selector.unregister(link)
            link.close()
            return
        rank = Rank(link)
        self._ranks.append(rank)
        self._selector.modify(link, selectors.EVENT_READ, lambda _: self._receive(rank))
        if self._stop.was(Step.TERM):
            rank.signal(signal.SIGKILL)  # it comes too late

    def _receive(self, rank: Rank) -> None:
        lost = False
        try:
            data = rank.link.recv(_CHUNK_BYTES)
        except OSError as error:
            data, lost = b"", is_lost(error)
        for kind, payload in rank.frames.feed(data):
            self._handle(rank, kind, payload)
        if data:
            return
        self._selector.unregister(rank.link)
        rank.link.close()
        if not rank.ended and lost:
            self._lose(rank.host)
        elif not rank.ended:
            # Its worker was killed: by MPI_Abort, or from outside.
            rank.ended = True
            self._console.close(rank.number)
            self._stop.begin(time.monotonic())

    def _handle(self, rank: Rank, kind: bytes, payload: bytes) -> None:
        if kind in (worker.STDOUT, worker.STDERR):
            self._logs.write(rank.number, payload)
            self._console.feed(rank.number, 1 if kind == worker.STDOUT else 2, payload)
        elif kind == worker.HELLO:
            hello = json.loads(payload)
            rank.number, rank.script, rank.host = hello["rank"], hello["script"], hello["host"]
            if self._door.to_other_hosts:
                rank.ahead_s = hello["time"] - time.time()
            self._report("rank", rank=rank.number, watcher=hello["pid"], script=hello["script"])
        elif kind == worker.EVENT:
            self._relay(payload)
        elif kind == worker.FAILED:
            report = json.loads(payload)
            if report.get("left_after") is not None:
                self._leave(rank, report["left_after"])
                return
            trace = report["traceback"]
            self._logs.write(rank.number, trace.encode())
            who, what = f"rank {rank.number}", report["message"]
            when = report["time"] - rank.ahead_s
            self._fail(Failure(who, report["code"], what, trace, rank.number, when))
        elif kind == worker.ENDED:
            rank.ended = True
            self._console.close(rank.number)
            end = json.loads(payload)
            status = end["status"]
            rank.well = status == 0
            # Deaths after our own SIGTERM and SIGKILL are nobody's fault.
            if status != 0 and not rank.left and not self._stop.was(Step.TERM):
                self._fail(failure_of_status(rank.number, status, end["time"] - rank.ahead_s))

    def _leave(self, rank: Rank, number: int) -> None:
        """A rank leaves in good order; the others do so at the same step."""
        rank.left = True
        self._left_after = number
        self._stop.begin(time.monotonic(), self._grace_s)

    def _lose(self, host: str) -> None:
        """A host does not answer any more; its ranks are taken for ended."""
        ranks = [rank for rank in self._ranks if rank.host == host and not rank.ended]
        if not ranks:
            return
        for rank in ranks:
            rank.ended = True
            self._console.close(rank.number)
        numbers = sorted(rank.number for rank in ranks)
        what = f"does not answer any more; it had {_ranks_text(numbers)}"
        failure = Failure(f"host {host}", LOST_CODE, what, rank=numbers[0], time=time.time())
        self.lost_ranks |= set(numbers)
        self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        assert failure.rank is not None
        self._failures.setdefault(failure.rank, failure)
        # A single rank ends by itself, however long its exit handlers take.
        if self._nproc > 1 or not self._left():
            # After SIGTERM the others may be writing a checkpoint.
            patience_s = self._grace_s if self._signal == signal.SIGTERM else 0.0
            self._stop.begin(time.monotonic(), patience_s)

    def _launcher_output(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not data:
            self._selector.unregister(pipe)
        elif self._stop.begun:
            self._held_output += data  # how it sees the ranks' end; ours is better if we have one
        else:
            self._console.launcher(data)

    # -- end ---------------------------------------------------------------------------------------

    def _pass_signal(self, number: int) -> None:
        again = number in _ENDING and self._signal is not None
        for rank in self._ranks:
            rank.signal(number)
        if number not in _ENDING:
            return
        now = time.monotonic()
        self._signal = number
        if again or len(self._ranks) < self._nproc:
            self._stop.begin(now)
            self._stop.hurry(now, Step.KILL)
        else:
            self._stop.begin(now, self._grace_s)

    def _left(self) -> bool:
        return any(not rank.ended for rank in self._ranks)

    def _see_segments(self) -> None:
        """Remember the shared memory of the ranks, which they leave behind if they are killed."""
        for rank in self._ranks:
            here = not self._door.to_other_hosts or rank.host == socket.gethostname()
            if here and not rank.ended and rank.script:
                self.segments |= set(leftovers.mapped_by(rank.script))

    @property
    def _went_wrong(self) -> bool:
        return bool(self._failures) or self._left_after is not None

    def _watch_good_end(self, now: float) -> None:
        if len(self._ranks) < self._nproc or not all(rank.well for rank in self._ranks):
            return
        if self._well_ended_at is None:
            self._well_ended_at = now
        elif now > self._well_ended_at + _LAUNCHER_END_S:
            self._stop.begin(now)

    def _advance_stop(self, now: float) -> None:
        everyone = len(self._ranks) == self._nproc and not self._left()
        if self._stop.begun and not self.segments:
            self._see_segments()
        for step in self._stop.due(now, everyone and self._went_wrong):
            for rank in self._ranks:
                if step is Step.TERM and not rank.ended:
                    killed = self._kill_others and self._signal is None
                    rank.signal(signal.SIGKILL if killed else signal.SIGTERM)
                elif step is Step.KILL and not rank.ended:
                    rank.signal(signal.SIGKILL)
                elif step is Step.LEAVE:
                    rank.send(worker.frame(worker.LEAVE))
            if step is Step.LAUNCHER:
                if self._door.to_other_hosts:
                    for rank in self._ranks:
                        if not rank.ended and is_silent(rank.link):
                            self._lose(rank.host)
                self._kill_launcher()

    def _kill_launcher(self) -> None:
        try:
            os.killpg(self._launcher.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has ended and so have its helpers

    def _end_launcher(self) -> None:
        """Close the links, at which the workers end what is left; leave no process behind."""
        for rank in self._ranks:
            rank.link.close()
        self._kill_launcher()
        self._launcher.wait()
        for pipe in (self._launcher.stdout, self._launcher.stderr):
            assert pipe is not None
            pipe.close()
        self._selector.close()

    def _outcome(self) -> Outcome:
        failures = tuple(sorted(self._failures.values(), key=self._order))
        if self._job_failure is not None:
            failures = (self._job_failure, *failures)
        if failures:
            return Outcome(failures[0].code, failures, self._signal)
        if self._left_after is not None:
            return Outcome(128 + self._left_after, (), self._left_after, in_good_order=True)
        if self._well_ended_at is not None:
            return Outcome(0, (), self._signal)
        if self._signal is not None:
            return Outcome(128 + self._signal, (), self._signal)
        self._console.launcher(bytes(self._held_output))
        return self._launcher_outcome(self._launcher.returncode)

    def _order(self, failure: Failure) -> tuple[bool, bool, float]:
        """First come hosts that are gone, last those who fail because another process is dead.

        Who is dead may be known to another rank before its own watcher has been told.
        """
        lost = failure.code == LOST_CODE and failure.rank in self.lost_ranks
        after = tells_of_a_death(failure) or ended_by_mpi(failure, self._failures.values())
        return not lost, after, failure.time

    def _launcher_outcome(self, status: int) -> Outcome:
        name = os.path.basename(self._argv[0])
        if status >= 0 and not self._ranks:
            what = "ended without starting a rank"
        elif status >= 0:
            what = "ended the job: MPI_Abort was called, or a process of it was killed from outside"
        else:
            what = f"killed by {signal_name(-status)}"
        code = status if status > 0 else 128 - status if status < 0 else 1
        return Outcome(code, (Failure(name, code, what),))


def _may_read_stdin() -> bool:
    """Tell whether the job may have our stdin: not a terminal that now belongs to another job."""
    if sys.stdin is None or sys.stdin.closed:
        return False
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _ranks_text(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"rank {listed}" if len(numbers) == 1 else f"ranks {listed}"
