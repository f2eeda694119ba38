"""Where ranks meet before they communicate: each says what it is about to do, and hears the others.

Stage of the flow: between `reducer`, which begins steps, and the communicator. May import:
`communicators.base`, `whereabouts`, `allgrad`. One gate per process group, made with its first
wrapped model.

Note [Step header]
    At the beginning of a synchronised backward every rank contributes one row of a few numbers to
    a small asynchronous all-reduce. Buckets are launched once it has arrived; nothing is lost by
    that, for no bucket is complete before all ranks have come. A rank that is about to enter a
    collective of the user's sends the same kind of row and says USER. So all ranks always know of
    each other whether they train on or are done, and ranks that disagree find out before anything
    can hang. All ranks see the same rows and judge them by the same rules, so they all raise, or
    none.

Note [Order of collectives]
    Ranks must issue the same collectives in the same order, but a header arrives when it arrives.
    So what may be issued during backward is issued from one queue: models whose backward runs at
    the same time take turns, in the order in which they began. Whoever issues other collectives
    during backward calls `ProcessGroup.meet` (or `Gate.fence`) first, which brings the queue to
    a state that depends on the program alone. Collectives that follow a backward (`epilogues`)
    wait until the last model has finished.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from allgrad.autograd.engine import backward_is_running
from allgrad.ddp import whereabouts
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.process_group import ProcessGroup
from allgrad.errors import DistributedError
from allgrad.utils.data.progress import Progress, take_hand_outs

_log = logging.getLogger("allgrad.ddp")


class Kind(IntEnum):
    """What a rank is about to do."""

    STEP = 1
    USER = 2  # a collective of the user's, or the end of the program
    EPOCH = 3  # the first forward after its batches were used up


# The columns of a row.
KIND, MODEL, RUNS, SAMPLES, STEP, STRUCTURE, FLAGS, PARAMETERS = range(8)
COLUMNS = 8
MAY_JOIN, THROW, CAPTURED = 1, 2, 4  # bits of FLAGS
_SIGNAL_SHIFT = 8  # above them: the signal that asks a rank to leave, see `graceful`


class Header:
    """One exchange of rows; `rows` holds those of all ranks once `arrived` says so."""

    __slots__ = ("_done", "_work", "rows")

    def __init__(self, communicator: Communicator, row: Sequence[float]) -> None:
        self.rows: Array = np.zeros((communicator.size, COLUMNS))
        self.rows[communicator.rank, : len(row)] = row
        if communicator.asked_to_leave:
            self.rows[communicator.rank, FLAGS] += communicator.asked_to_leave << _SIGNAL_SHIFT
        self._done = False
        before, communicator.note = communicator.note, "step header"
        self._work = communicator.all_reduce(self.rows, ReduceOp.SUM, async_op=True)
        communicator.note = before

    def arrived(self, wait: bool = False) -> bool:
        """Push the exchange on, or wait for its end; whether `rows` is complete."""
        if not self._done:
            if wait:
                self._work.wait()
                self._done = True
            else:
                self._done = self._work.test()
        return self._done

    @property
    def uniform(self) -> bool:
        """Whether all ranks sent the same row."""
        data = self.rows.tobytes()
        return data == data[: COLUMNS * 8] * len(self.rows)

    def ranks(self, kind: Kind) -> list[int]:
        """The ranks whose row is of the kind."""
        return [rank for rank, k in enumerate(self.rows[:, KIND].tolist()) if k == kind]


class Model(Protocol):
    """What the gate knows of a wrapped model's reducer."""

    label: str

    def advance(self, wait: bool) -> bool:
        """Issue what may be issued now; True once all collectives of this backward were."""

    def abandon(self) -> None:
        """Forget the backward that is under way."""

    def serve(self, header: Header) -> None:
        """Take part, with nothing to contribute, in a step that other ranks make."""

    def explain(self, rows: Array, stepping: list[int]) -> None:
        """Collective of all ranks. Raise if the rows of ranks that step do not go together."""

    def take_over(self, root: int) -> None:
        """Collective. Take all that training has changed from the root."""


class Gate:
    """The meetings of one process group; calling it is a meeting before a user's collective.

    Attributes:
        joining: whether this rank has come to the end of an explicit `join`.
        throwing: whether a rank without batches is an error (see `DistributedDataParallel.join`).
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.joining = self.throwing = False
        # Kept when their wrappers are gone, until the next meeting: the end of the program is one.
        self._models: list[Model | None] = []
        self._retired: list[int] = []
        self._active: deque[Model] = deque()
        self._running = 0
        self._busy = False  # issuing collectives: those that a hook of the user's issues belong
        self._epilogues: list[Callable[[], None]] = []
        self._feed: list[Progress] = []  # the epochs that this rank's last step came from
        self._empty = False  # its epochs had no batch at all
        self._trained = False
        # The same on all ranks: per model, how many steps each rank has not made since all met;
        # per rank, how many it may make alone because others made theirs without it.
        self._missing: dict[int, list[int]] = {}
        self._lag = [0] * communicator.size
        self._reported = False

    @classmethod
    def of(cls, group: ProcessGroup) -> Gate:
        """The gate of the group, made with the first wrapped model."""
        for meeting in group.meetings:
            if isinstance(meeting, cls):
                return meeting
        gate = cls(group.communicator)
        group.meetings.append(gate)
        return gate

    def register(self, model: Model) -> int:
        """Give the model its number, 1 for the first: the same on all ranks."""
        self._models.append(model)
        return len(self._models)

    def retire(self, number: int) -> None:
        """The model's wrapper is gone; it serves others until the next meeting."""
        self._retired.append(number)

    # ---- steps -----------------------------------------------------------------------------

    def begin(self, model: Model) -> None:
        """A synchronised backward of the model has begun."""
        self._note_feed()
        self._active.append(model)
        self._running += 1
        self.advance()

    def advance(self, wait: bool = False) -> None:
        """Issue what may be issued, in the order in which the models began."""
        active = self._active
        if self._busy or not active:
            return
        self._busy = True
        try:
            while active and active[0].advance(wait):
                active.popleft()
        finally:
            self._busy = False

    def fence(self) -> None:
        """Issue all that a backward under way may issue by now, waiting for its header."""
        self.advance(wait=True)

    def finish(self, epilogue: Callable[[], None]) -> None:
        """The model's collectives are over; run the epilogues after the last model."""
        self._epilogues.append(epilogue)
        self._running -= 1
        if self._running == 0:
            epilogues, self._epilogues = self._epilogues, []
            for function in epilogues:
                function()

    def abandon(self) -> None:
        """Forget the steps under way: all ranks are about to raise."""
        for model in self._models:
            if model is not None:
                model.abandon()
        self._active.clear()
        self._epilogues.clear()
        self._running = 0

    # ---- what ranks may do at the same time ------------------------------------------------

    def judge(self, header: Header) -> None:
        """Raise on all ranks if what they are about to do does not go together."""
        rows = header.rows
        if header.uniform:
            self.communicator.all_asked_to_leave = int(rows[0, FLAGS]) >> _SIGNAL_SHIFT
            return
        self.communicator.all_asked_to_leave = int(rows[:, FLAGS].max()) >> _SIGNAL_SHIFT
        stepping = header.ranks(Kind.STEP)
        if not stepping:
            return
        table = header.rows.tolist()
        if len({table[rank][MODEL] for rank in stepping}) > 1:
            self.fail(
                "ranks run backward of different models",
                "call backward on the same models in the same order on every rank",
            )
        captured = {int(table[rank][FLAGS]) & CAPTURED for rank in stepping}
        if len(captured) > 1:
            self.fail(
                "some ranks capture or replay a step as a CUDA graph, others make it without one",
                "capture the same steps on every rank, and replay them the same number of times",
            )
        number = int(table[stepping[0]][MODEL])
        if len(stepping) < len(table):
            self._judge_absent(table, stepping, number)
        model = self._model(number)
        model.explain(header.rows, stepping)

    def _judge_absent(self, table: list[list[float]], stepping: list[int], number: int) -> None:
        absent = [rank for rank in range(len(table)) if rank not in stepping]
        names = _ranks(absent)
        if int(table[stepping[0]][FLAGS]) & CAPTURED:
            self.fail(
                f"{names} makes no further step while {_ranks(stepping)} captures or replays one "
                "as a CUDA graph, which nobody can serve",
                "give every rank the same number of batches, for instance by drop_last=True",
            )
        if any(int(table[rank][FLAGS]) & THROW for rank in stepping):
            self.fail(
                f"{names} has no batch left, and join(throw_on_early_termination=True) asked for "
                "an error",
                "give every rank the same number of batches",
            )
        catching_up = all(self._lag[rank] for rank in stepping)
        if not catching_up and not all(int(table[rank][FLAGS]) & MAY_JOIN for rank in absent):
            self.fail(
                f"{names} makes no further step while {_ranks(stepping)} trains on",
                "make the same number of steps on every rank. A rank whose DataLoader ended "
                "before the others' would be waited for, but this one's has not ended; with data "
                "from elsewhere, put the training loop into `with model.join():`",
            )
        for rank in stepping:
            self._lag[rank] -= catching_up
        missing = self._missing.setdefault(number, [0] * len(table))
        for rank in absent:
            missing[rank] += 1
            self._lag[rank] += 1

    def fail(self, what: str, fix: str) -> None:
        """Collective. Raise on every rank, saying where each of them is."""
        if self._active:
            mine = f"is in backward of {self._active[0].label} at {whereabouts.line()}"
        else:
            mine = whereabouts.whereabouts()
        mine += f" (step {self.communicator.step})"
        self.communicator.note = "what each rank does"
        places = self.communicator.all_gather_object(mine)
        self.communicator.note = ""
        where = "; ".join(f"rank {rank} {place}" for rank, place in enumerate(places))
        self.abandon()
        raise DistributedError(f"{self.communicator.where} {what}: {where}. To fix it, {fix}")

    def _model(self, number: int) -> Model:
        model = self._models[number - 1]
        if model is None:
            raise DistributedError(
                f"{self.communicator.where} other ranks train wrapped model {number}, of which "
                "nothing is left here; keep the DistributedDataParallel on every rank"
            )
        return model

    # ---- meetings --------------------------------------------------------------------------

    def __call__(self) -> None:
        """Before a collective of the user's: serve the ranks that still make steps."""
        if self._busy:
            return
        if backward_is_running():
            self.fence()
        elif not self._active:  # else a backward has raised; whatever comes next says so
            self._meet(Kind.USER)

    def end_join(self) -> None:
        """This rank has come to the end of an explicit join."""
        before, self.joining = self.joining, True
        try:
            self._meet(Kind.USER)
        finally:
            self.joining = before

    def enter_forward(self) -> None:
        """A forward whose gradient may be wanted: where a new epoch begins, ranks meet."""
        for epoch in self._feed:
            if not epoch.finished:
                continue
            if backward_is_running():  # computed again, for a checkpointed region
                return
            self._meet(Kind.EPOCH)
            break
        self._note_feed()

    def _note_feed(self) -> None:
        self._trained = True
        # an epoch that has ended already was of an evaluation
        fresh = [epoch for epoch in take_hand_outs() if not epoch.finished]
        if fresh:
            self._feed = fresh

    def _meet(self, kind: Kind) -> None:
        """Serve the steps of others until none is left."""
        step = self.communicator.step
        while True:
            flags = MAY_JOIN if kind is Kind.EPOCH or self._may_join() else 0
            header = Header(self.communicator, [kind, 0, 0, 0, 0, 0, flags])
            header.arrived(wait=True)
            self.judge(header)
            stepping = header.ranks(Kind.STEP)
            if stepping:
                self._serve(self._model(int(header.rows[stepping[0], MODEL])), header)
                continue
            self._feed = [epoch for epoch in self._feed if not epoch.finished]
            if self._missing:
                self._even_out()
            for number in self._retired:
                self._models[number - 1] = None
            self._retired.clear()
            if kind is Kind.EPOCH or len(header.ranks(Kind.USER)) == len(header.rows):
                break
        self.communicator.step = max(step, self.communicator.step)

    def _serve(self, model: Model, header: Header) -> None:
        self._running += 1
        self._busy = True
        try:
            model.serve(header)
        finally:
            self._busy = False

    def _may_join(self) -> bool:
        if not self._trained and not self._empty:
            self._empty = any(epoch.finished and not epoch.batches for epoch in take_hand_outs())
        return self.joining or self._empty or any(epoch.finished for epoch in self._feed)

    def _even_out(self) -> None:
        """Collective. All have met after steps that some have not made: see Note [Join]."""
        missing, self._missing = self._missing, {}
        for number, counts in sorted(missing.items()):
            fewest = min(counts)
            model = self._model(number)
            if not self._reported and self.communicator.rank == 0:
                short = ", ".join(
                    f"rank {rank}: {count - fewest}"
                    for rank, count in enumerate(counts)
                    if count > fewest
                )
                _log.warning(
                    "%s: ranks had different numbers of batches; fewer steps than the others made "
                    "%s. They took part with nothing, and took over parameters and optimizer "
                    "state. Reported once",
                    model.label,
                    short,
                )
            model.take_over(counts.index(fewest))
        self._reported = True


def _ranks(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
