"""When something is wrong between ranks without common memory: what they are told by messages.

Stage of the flow: a part of the MPI communicator, which hands over mpi4py's module; this file
imports none. May import: numpy, `allgrad.ddp.diagnosis`, `allgrad.errors`.

Note [Side channel]
    Everything here travels on a communicator of its own, beside the payload. With every collective
    goes a small non-blocking all-reduce (the greatest of `check` and of `-check`), which shows to
    all ranks whether they have called the same thing. A rank that notices something sends its
    statement with what it has found to all others; whoever receives one answers to all with its
    own, a watch thread for ranks that are busy. Each rank composes the report from what it has
    received, with the finding of the lowest rank that has one, so all reports say the same.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.ddp.diagnosis import process
from allgrad.ddp.diagnosis.causes import GONE, LEFT, MISMATCH, TIMEOUT, Finding
from allgrad.ddp.diagnosis.flight import FlightRecorder, check_word
from allgrad.ddp.diagnosis.report import by_name, compose, stall_warning
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.ddp.diagnosis.statement import Speaker, Statement
from allgrad.errors import DistributedError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.mpi import MpiCommunicator

_log = logging.getLogger("allgrad.ddp")

_ALARM, _LEFT, _ASK, _ANSWER = 1, 2, 3, 4  # tags
_STATEMENT_BYTES = 6000  # short enough to be sent without the receiver's help
_WATCH_S, _LOOK_S, _TICK_S = 0.25, 0.25, 0.005


class MpiInquiry:
    """The side channel of one rank. See Note [Side channel].

    Args:
        c: the communicator concerned.
        side: nothing else may travel on it; freed by `close`.
        settings: what is switched on.

    Attributes:
        recorder: the flight record of this rank, or None if diagnosis is off.
    """

    def __init__(self, c: MpiCommunicator, side: Any, settings: Settings) -> None:
        self._c, self._mpi, self._side, self.settings = c, c.mpi, side, settings
        self.recorder = FlightRecorder()
        self._speaker = Speaker(c.rank, self.recorder, threading.get_ident(), os.getpid())
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sends: list[tuple[Any, bytes]] = []  # kept until they have ended
        self._checks: list[tuple[int, int, Any, Any]] = []
        self._alarms: dict[int, tuple[Finding | None, Statement]] = {}
        self._left: dict[int, Statement] = {}
        self._answers: dict[int, Statement] = {}
        self._alarmed = False
        self._warn = (0, 0.0)
        self._neighbours = self._find_neighbours()
        self._watch: threading.Thread | None = None
        if self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            self._watch = threading.Thread(target=self._look_out, name="allgrad watch", daemon=True)
            self._watch.start()

    def _find_neighbours(self) -> dict[int, process.Identity]:
        """The processes of ranks on this host that this one can see."""
        try:
            space = os.readlink("/proc/self/ns/pid")
        except OSError:
            space = ""
        mine = (socket.gethostname(), space)
        everywhere = self._side.allgather((mine, tuple(process.identity())))
        return {
            rank: process.Identity(*who)
            for rank, (where, who) in enumerate(everywhere)
            if where == mine and rank != self._c.rank
        }

    # ---- beside every collective -----------------------------------------------------------

    def begin(self, what: str) -> int:
        """A collective is issued: write it down, and start to compare it with the others'."""
        c, recorder = self._c, self.recorder
        number = recorder.number + 1
        recorder.add(number, number, what, c.note, c.step)
        check = check_word(word_of(what), c.note)
        values = np.array([check, -check], np.int64)
        request = self._side.Iallreduce(self._mpi.IN_PLACE, values, self._mpi.MAX)
        self._checks.append((number, check, values, request))
        return number

    def checked(self, number: int) -> bool:
        """Whether all ranks are known to have issued the same collective under this number.

        Raises:
            DistributedError: they have issued different ones.
        """
        while self._checks:
            first, check, values, request = self._checks[0]
            if not request.Test():
                break
            del self._checks[0]
            if values[0] != check or values[1] != -check:
                raise self.fail(Finding(MISMATCH, first))
        return not self._checks or self._checks[0][0] > number

    # ---- while waiting ---------------------------------------------------------------------

    def wait_until(
        self, ready: Callable[[], bool], number: int, pause: Callable[[float], None]
    ) -> None:
        """Wait for a collective, and notice what would keep it from ending.

        Args:
            ready: pushes the collective on; true at its end.
            number: as returned by `begin`.
            pause: called between two looks with the seconds waited so far.
        """
        begin = time.monotonic()
        look_s = 0.0
        self.recorder.waiting = number
        try:
            while not ready():
                waited = time.monotonic() - begin
                if waited > look_s:
                    look_s = min(waited + _TICK_S, max(self._c.timeout_s, waited))
                    self._look(number, waited)
                pause(waited)
        finally:
            self.recorder.waiting = 0

    def _look(self, number: int, waited_s: float) -> None:
        self._receive()
        if self._alarms:
            raise self.fail(None)
        left = tuple(r for r, s in self._left.items() if s.reached < number)
        if left:
            raise self.fail(Finding(LEFT, number, left))
        if waited_s > _LOOK_S:
            dead = tuple(self.dead(self._neighbours))
            if dead:
                raise self.fail(Finding(GONE, number, dead, waited_s))
        if waited_s > self._c.timeout_s:
            raise self.fail(Finding(TIMEOUT, number, (), self._c.timeout_s))
        self._warn_if_due(number, waited_s)

    def look_around(self) -> None:
        """While waiting for a message.

        Raises:
            DistributedError: a rank has found that something is wrong.
        """
        self._receive()
        if self._alarms:
            raise self.fail(None)

    def dead(self, ranks: Iterable[int]) -> list[int]:
        """Those of the ranks whose processes have died without a word, as far as can be seen."""
        known = [(rank, self._neighbours.get(rank)) for rank in ranks if rank not in self._left]
        return [rank for rank, who in known if who is not None and not process.is_alive(who)]

    def _warn_if_due(self, number: int, waited_s: float) -> None:
        if self._warn[0] != number:
            self._warn = (number, self.settings.stall_warning_s)
        if not 0 < self._warn[1] <= waited_s:
            return
        self._warn = (number, 2 * waited_s)
        self._answers.clear()
        self._send(_ASK, b"")
        self._gather(self._answers)
        statements = self._statements(self._answers)
        finding = _with_late(Finding(TIMEOUT, number, (), waited_s), statements)
        punctual = [rank for rank in statements if rank not in finding.ranks]
        if finding.ranks and punctual[0] == self._c.rank:  # one rank speaks for all that wait
            named = by_name(finding, statements, self._c.members)
            _log.warning("%s %s", self._c.where, stall_warning(*named, self._c.timeout_s))

    # ---- failures --------------------------------------------------------------------------

    def fail(self, finding: Finding | None) -> DistributedError:
        """Tell all ranks, hear them, and return the error that all of them raise.

        Args:
            finding: what this rank has noticed; None: another rank's alarm.
        """
        mine = self._speaker.statement()
        with self._lock:
            self._raise_alarm(finding, mine)
        self._gather({}, finding.ranks if finding is not None and finding.kind == GONE else ())
        statements = self._statements({rank: said for rank, (_, said) in self._alarms.items()})
        found = {rank: f for rank, (f, _) in self._alarms.items() if f is not None}
        if not found:
            return DistributedError(f"{self._c.where} stopped because another rank failed")
        first = _with_late(found[min(found)], statements)
        named = by_name(first, statements, self._c.members)
        return DistributedError(
            f"{self._c.where} {compose(*named, self.settings.show_record)}"
        )  # fmt: skip

    def convert(self, error: Exception, number: int) -> DistributedError:
        """An error of MPI's own: mostly the consequence of collectives that do not go together."""
        deadline = time.monotonic() + 2 * self.settings.patience_s
        while time.monotonic() < deadline:
            self._receive()
            if self._alarms:
                return self.fail(None)
            try:
                if self.checked(number):
                    break
            except DistributedError as told:
                return told
            time.sleep(_TICK_S)
        calls = self._speaker.statement().calls
        where = f" in {calls[-1].what}, at {calls[-1].place}" if calls else ""
        return DistributedError(f"{self._c.where} MPI failed{where}: {error}")

    def _raise_alarm(self, finding: Finding | None, mine: Statement) -> None:
        """Once. With the lock held."""
        if not self._alarmed:
            self._alarmed = True
            self._alarms[self._c.rank] = (finding, mine)
            parts = None if finding is None else [*finding.__dict__.values()]
            head = json.dumps(parts).encode() + b"\n"
            self._send(_ALARM, head + mine.encode(_STATEMENT_BYTES))

    def _gather(self, answers: dict[int, Statement], dead: Sequence[int] = ()) -> None:
        """Wait until all ranks that live have said something, or patience is over."""
        awaited = [r for r in range(self._c.size) if r != self._c.rank and r not in dead]
        deadline = time.monotonic() + self.settings.patience_s
        while time.monotonic() < deadline:
            self._receive()
            said = answers if not self._alarmed else self._alarms
            if all(rank in said or rank in self._left for rank in awaited):
                return
            time.sleep(_TICK_S)

    def _statements(self, said: dict[int, Statement]) -> dict[int, Statement]:
        """Of all ranks; of those that said nothing, what the kernel knows."""
        found = {**self._left, **said}
        found.setdefault(self._c.rank, self._speaker.statement())
        for rank in range(self._c.size):
            if rank not in found:
                found[rank] = self._unheard(rank)
        return dict(sorted(found.items()))

    def _unheard(self, rank: int) -> Statement:
        who = self._neighbours.get(rank)
        if who is None:
            return Statement(rank, "silent", detail="it is on another host and says nothing")
        state, detail = process.describe(who)
        return Statement(rank, state, detail=detail, pid=who.pid)

    # ---- messages --------------------------------------------------------------------------

    def _look_out(self) -> None:
        """Body of the watch thread: answer for a rank that is busy."""
        while not self._closed.wait(_WATCH_S):
            self._receive()

    def _receive(self) -> None:
        """Take all messages that have come, and answer them."""
        with self._lock:
            while not self._closed.is_set():
                status = self._mpi.Status()
                message = self._side.Improbe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG, status)
                if message is None:
                    return
                data = bytearray(status.Get_count(self._mpi.BYTE))
                message.Recv([data, self._mpi.BYTE])
                self._take(status.Get_source(), status.Get_tag(), bytes(data))

    def _take(self, source: int, tag: int, data: bytes) -> None:
        if tag == _ASK:
            self._send(_ANSWER, self._speaker.statement().encode(_STATEMENT_BYTES), source)
            return
        head, _, body = data.rpartition(b"\n")
        statement = Statement.decode(body)
        if statement is None:
            return
        if tag == _LEFT:
            self._left[source] = statement
        elif tag == _ANSWER:
            self._answers[source] = statement
        else:
            parts = json.loads(head)
            finding = parts and Finding(parts[0], parts[1], tuple(parts[2]), *parts[3:])
            self._alarms[source] = (finding, statement)
            self._raise_alarm(None, self._speaker.statement())

    def _send(self, tag: int, data: bytes, to: int | None = None) -> None:
        """Start to send to one rank or to all others."""
        self._sends = [(request, kept) for request, kept in self._sends if not request.Test()]
        targets = [r for r in range(self._c.size) if r != self._c.rank] if to is None else [to]
        for target in targets:
            request = self._side.Isend([data, self._mpi.BYTE], target, tag)
            self._sends.append((request, data))

    # ---- the end ---------------------------------------------------------------------------

    def leave(self) -> None:
        """This rank's program has ended; say so to all, and say no more."""
        with self._lock:
            if not self._closed.is_set():
                self._speaker.ended = True
                self._send(_LEFT, self._speaker.statement().encode(_STATEMENT_BYTES))
        self._stop()
        deadline = time.monotonic() + 1.0
        while self._sends and time.monotonic() < deadline:
            self._sends = [(request, kept) for request, kept in self._sends if not request.Test()]

    def _stop(self) -> None:
        self._closed.set()
        if self._watch is not None and self._watch is not threading.current_thread():
            self._watch.join(1.0)

    def close(self) -> None:
        """Collective, after a barrier."""
        self._stop()
        self._side.Free()


def word_of(what: str) -> int:
    """A number for the words of a collective, the same on all ranks."""
    return check_word(1, what)


def _with_late(finding: Finding, statements: dict[int, Statement]) -> Finding:
    """A time-out with the ranks that have not come, which are known once all have spoken."""
    if finding.kind != TIMEOUT:
        return finding
    late = tuple(rank for rank, said in statements.items() if said.reached < finding.sequence)
    return replace(finding, ranks=late)
