"""When something is wrong: every rank says where it is, one writes the report, all raise it.

Stage of the flow: inside the communicators of ranks that share memory. May import: the rest of this
package, `communicators.base`, `board` and `operations`.

A rank that notices something raises an alarm on the board and waits shortly for the statements of
the others. Ranks that wait in a collective see the alarm there; for a rank that is busy its watch
thread speaks, or, where ranks are threads, whoever asks reads its stack; of a rank that does not
answer, the kernel tells what it knows. The lowest rank with an alarm composes the text.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.board import Board
from allgrad.ddp.communicators.operations import describe_signature
from allgrad.ddp.diagnosis import process
from allgrad.ddp.diagnosis.causes import GONE, MISMATCH, TIMEOUT, Finding
from allgrad.ddp.diagnosis.flight import FlightRecorder
from allgrad.ddp.diagnosis.report import by_name, compose, stall_warning
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.ddp.diagnosis.statement import Call, Speaker, Statement
from allgrad.errors import DistributedError

_log = logging.getLogger("allgrad.ddp")

_TICK_S = 0.005  # between two looks for the statements of others
_WATCH_S = 0.25  # between two looks of the watch thread
_COMING_S = 0.15  # how long ranks that have not come to a disputed collective are waited for
_REPORT_S = 2.0  # how long the report of another rank is waited for


class Peers(Protocol):
    """How the ranks of a communicator can be looked at; part of its `SharedMemory`."""

    def speakers(self, mine: Speaker) -> list[Speaker] | None:
        """Collective. The speakers of all ranks if they are threads of this process."""

    def process_of(self, rank: int) -> process.Identity | None:
        """The rank's process, if it is another one on this host."""

    def notify(self) -> None:
        """Wake ranks that wait."""


class Inquiry:
    """Statements and reports of one rank of a communicator.

    Args:
        communicator: whose ranks these are.
        board: where statements and reports lie.
        peers: how the other ranks can be looked at.
        settings: what is switched on.

    Attributes:
        recorder: the flight record of this rank, or None if diagnosis is off.
    """

    def __init__(
        self, communicator: Communicator, board: Board, peers: Peers, settings: Settings
    ) -> None:
        self.rank, self.size = communicator.rank, communicator.size
        self._communicator = weakref.proxy(communicator)
        self._board, self._peers = board, peers
        self.settings = settings
        self.recorder: FlightRecorder | None = FlightRecorder() if settings.enabled else None
        own = peers.process_of(self.rank)
        self._speaker = Speaker(
            self.rank,
            self.recorder or FlightRecorder(),
            threading.get_ident(),
            own.pid if own else 0,
        )
        self._speakers = peers.speakers(self._speaker)
        self._lock = threading.Lock()
        self._answered = 0
        self._stalled_at, self._warn_after_s = 0, 0.0
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        if settings.enabled and self._speakers is None:
            self._watch = threading.Thread(target=self._look_out, name="allgrad watch", daemon=True)
            self._watch.start()

    # ---- this rank's own statements --------------------------------------------------------

    def answer(self) -> None:
        """Post this rank's statement if somebody has asked since the last one."""
        with self._lock:
            if self._closed.is_set():
                return
            asked = self._board.asked()
            if asked != self._answered:
                self._answered = asked
                self._board.post_statement(self._speaker.statement(), asked)

    def _look_out(self) -> None:
        """Body of the watch thread: answer for a rank that is busy. One look takes some us."""
        while not self._closed.wait(_WATCH_S):
            self.answer()

    def leave(self) -> None:
        """This rank's program has ended: its last statement stays for the others."""
        with self._lock:
            if not self._closed.is_set():
                self._speaker.ended = True
                self._board.post_statement(self._speaker.statement(), self._board.asked())

    def close(self) -> None:
        """Before the board is released."""
        with self._lock:
            self._closed.set()
        if self._watch is not None and self._watch is not threading.current_thread():
            self._watch.join(1.0)

    # ---- failures --------------------------------------------------------------------------

    def fail(self, finding: Finding) -> DistributedError:
        """Raise the alarm, hear all ranks, and return the error that all of them raise."""
        board = self._board
        if finding.kind == MISMATCH:
            # ranks that are just coming tell more there than on their way
            self._wait_until(lambda: board.all_ready(finding.sequence), _COMING_S)
        else:
            time.sleep(_TICK_S)  # ranks on their way into this collective write down that they are
        board.raise_alarm()
        self._peers.notify()
        dead = finding.ranks if finding.kind == GONE else ()
        statements = self._hear([r for r in range(self.size) if r not in dead], finding)
        lower = [rank for rank in board.alarmed() if rank < self.rank]
        # Where a late rank waits for another host, its time may be over just before ours: it knows
        # who is to blame, and most often ends the job before we say that it was late.
        telling = any(statements[r].tells_of_another_failure for r in finding.ranks)
        text = self._report_of_others(_REPORT_S) if lower or telling else None
        if text is None:
            named = by_name(finding, statements, self._communicator.members)
            text = compose(*named, self.settings.show_record)
            board.post_failure(text)
            self._peers.notify()
        return self.error(text)

    def heard(self) -> DistributedError | None:
        """The error of another rank's alarm, once its report is there; None without alarm."""
        if not self._board.is_alarmed():
            return None
        self.answer()
        text = self._report_of_others(self.settings.patience_s + _REPORT_S)
        if text is None:
            ranks = self._board.alarmed()
            text = f"stopped because another rank failed: rank {ranks[0]} has left no report"
        return self.error(text)

    def error(self, text: str) -> DistributedError:
        """The text under this rank's name."""
        return DistributedError(f"{self._communicator.where} {text}")

    def _report_of_others(self, patience_s: float) -> str | None:
        self._wait_until(lambda: self._board.failure() is not None, patience_s)
        failure = self._board.failure()
        return None if failure is None else failure[1]

    def _wait_until(self, ready: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not ready() and time.monotonic() < deadline:
            time.sleep(_TICK_S)

    # ---- stalls ----------------------------------------------------------------------------

    def warn_if_due(
        self, sequence: int, late: Sequence[int], waited_s: float, timeout_s: float
    ) -> None:
        """Log, at growing intervals, who is late in a wait, where it is and why; then go on."""
        if sequence != self._stalled_at:
            self._stalled_at, self._warn_after_s = sequence, self.settings.stall_warning_s
        if not self.settings.enabled or not 0 < self._warn_after_s <= waited_s:
            return
        self._warn_after_s = 2 * waited_s
        finding = Finding(TIMEOUT, sequence, tuple(late), waited_s)
        statements = self._hear(late, finding)
        named = by_name(finding, statements, self._communicator.members)
        _log.warning("%s %s", self._communicator.where, stall_warning(*named, timeout_s))

    # ---- hearing the others ----------------------------------------------------------------

    def _hear(self, ranks: Sequence[int], finding: Finding) -> dict[int, Statement]:
        """Statements of at least these ranks; those of others only as far as they are there."""
        if not self.settings.enabled:
            return {rank: self._from_board(rank, finding) for rank in range(self.size)}
        if self._speakers is not None:
            return {s.rank: s.statement() for s in self._speakers}
        number = self._board.ask()
        self.answer()
        found: dict[int, Statement] = {}

        def complete() -> bool:
            for rank in range(self.size):
                if rank not in found:
                    self._take(rank, number, found)
            return all(rank in found for rank in ranks)

        self._wait_until(complete, self.settings.patience_s)
        for rank in range(self.size):
            if rank not in found:
                found[rank] = self._unheard(rank, finding)
        return found

    def _take(self, rank: int, number: int, found: dict[int, Statement]) -> None:
        statement = self._board.statement(rank, 0 if self._board.has_left(rank) else number)
        if statement is not None:
            found[rank] = statement

    def _unheard(self, rank: int, finding: Finding) -> Statement:
        """What the board and the kernel tell of a rank that does not answer."""
        statement = self._from_board(rank, finding)
        who = self._peers.process_of(rank)
        if who is not None and (finding.kind != TIMEOUT or rank in finding.ranks):
            statement.state, statement.detail = process.describe(who)
            statement.pid = who.pid
        return statement

    def _from_board(self, rank: int, finding: Finding) -> Statement:
        """The operation of a rank at the place of the finding, or its last one before."""
        reached = self._board.last_signed(rank)
        sequence = min(reached, finding.sequence)
        calls = []
        if sequence:
            what = describe_signature(self._board.signature_of(rank, sequence))
            calls = [Call(sequence, sequence, what, "", 0, None, "", 0.0)]
        state = "ended" if self._board.has_left(rank) else "silent"
        detail = "nothing more is known of it"
        return Statement(rank, state, 0, reached, calls, [], detail)
