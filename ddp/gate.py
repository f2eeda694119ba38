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

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from allgrad.autograd.engine import backward_is_running
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.process_group import ProcessGroup
from allgrad.ddp.whereabouts import caller
from allgrad.errors import DistributedError


class Kind(IntEnum):
    """What a rank is about to do."""

    STEP = 1
    USER = 2  # a collective of the user's, or the end of the program
    EPOCH = 3  # the first forward after its batches were used up


# The columns of a row.
KIND, MODEL, RUNS, SAMPLES, STEP, STRUCTURE, FLAGS = range(7)
COLUMNS = 7
MAY_JOIN, THROW = 1, 2  # bits of FLAGS


class Header:
    """One exchange of rows; `rows` holds those of all ranks once `arrived` says so."""

    __slots__ = ("_done", "_work", "rows")

    def __init__(self, communicator: Communicator, row: Sequence[float]) -> None:
        self.rows: Array = np.zeros((communicator.size, COLUMNS))
        self.rows[communicator.rank] = row
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


class Gate:
    """The meetings of one process group; calling it is a meeting before a user's collective.

    Attributes:
        served: per rank, how many steps the others have made without it.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.served = [0] * communicator.size
        self._models: list[weakref.ref[Model]] = []
        self._active: deque[Model] = deque()
        self._running = 0
        self._epilogues: list[Callable[[], None]] = []

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
        self._models.append(weakref.ref(model))
        return len(self._models)

    # ---- steps -----------------------------------------------------------------------------

    def begin(self, model: Model) -> None:
        """A synchronised backward of the model has begun."""
        self._active.append(model)
        self._running += 1
        self.advance()

    def advance(self, wait: bool = False) -> None:
        """Issue what may be issued, in the order in which the models began."""
        active = self._active
        while active and active[0].advance(wait):
            active.popleft()

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
        for reference in self._models:
            model = reference()
            if model is not None:
                model.abandon()
        self._active.clear()
        self._epilogues.clear()
        self._running = 0

    def judge(self, header: Header) -> None:
        """Raise on all ranks if what they are about to do does not go together."""
        rows = header.rows
        if header.uniform and rows[0, KIND] == Kind.STEP:
            return
        table = rows.tolist()
        stepping = [rank for rank, row in enumerate(table) if row[KIND] == Kind.STEP]
        if not stepping:
            return
        if len({table[rank][MODEL] for rank in stepping}) > 1:
            self.fail(
                "ranks run backward of different models",
                "every rank must call backward on the same models in the same order",
            )
        self._judge_absent(table, stepping)
        model = self._model(int(table[stepping[0]][MODEL]))
        model.explain(rows, stepping)

    def _judge_absent(self, table: list[list[float]], stepping: list[int]) -> None:
        absent = [rank for rank in range(len(table)) if rank not in stepping]
        others_lag = all(self.served[rank] for rank in stepping)
        for rank in absent:
            if not (int(table[rank][FLAGS]) & MAY_JOIN or others_lag):
                self.fail(
                    f"rank {rank} is done with training steps while others are not",
                    "all ranks must make the same steps. A rank whose DataLoader ends before the "
                    "others' is waited for by itself; without a DataLoader, put the loop into "
                    "`with model.join():`",
                )
        for rank in absent:
            self.served[rank] += 1

    def fail(self, what: str, fix: str) -> None:
        """Collective. Raise on every rank, saying where each of them is."""
        places = self.communicator.all_gather_object(self._whereabouts())
        where = "; ".join(f"rank {rank} {place}" for rank, place in enumerate(places))
        self.abandon()
        raise DistributedError(f"{self.communicator.where} {what}: {where}. Fix: {fix}")

    def _whereabouts(self) -> str:
        name, place = caller()
        if self._active:
            return f"is in backward of {self._active[0].label}, step {self._step}, at {place}"
        return f"called {name}() at {place}" if name else f"is at {place}"

    @property
    def _step(self) -> int:
        return self.communicator.step

    def _model(self, number: int) -> Model:
        model = self._models[number - 1]()
        if model is None:
            self.fail(
                f"backward of model {number}, which no longer exists on rank "
                f"{self.communicator.rank}",
                "keep the DistributedDataParallel as long as other ranks train it",
            )
        assert model is not None
        return model

    # ---- meetings --------------------------------------------------------------------------

    def __call__(self) -> None:
        """Before a collective of the user's: serve the ranks that still make steps."""
        if backward_is_running():
            self.fence()
            return
        if self._active:
            return  # left behind by a backward that raised; whatever comes says so
        self._meet(Kind.USER)

    def _meet(self, kind: Kind) -> None:
        while True:
            row = [float(kind), 0, 0, 0, 0, 0, MAY_JOIN if self._may_join() else 0]
            header = Header(self.communicator, row)
            header.arrived(wait=True)
            self.judge(header)
            kinds = header.rows[:, KIND]
            if (kinds == Kind.STEP).any():
                number = int(header.rows[kinds == Kind.STEP, MODEL][0])
                self._model(number).serve(header)
                continue
            if kind is Kind.EPOCH or (kinds == Kind.USER).all():
                return

    def _may_join(self) -> bool:
        return False
