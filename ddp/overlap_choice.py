"""Whether buckets are reduced during backward or all after it: given, or found out by measuring.

Stage of the flow: asked by `reducer` in every step. May import: `communicators.base`.

Note [When overlapping loses]
    Where a link is about as fast as this core copies into sockets (10 Gbit/s, one core per rank),
    communication is not somebody else's work: it evicts the caches of the ops between which it is
    pushed on, and costs more there than after them (-8 % of a step of ResNet-18). Which of both is
    faster depends on link, cores and network, so over a link the wrapper tries: after `WARM_UP`
    steps, `TRIAL` steps, half of them each way in the order on off off on. Then the medians of all
    ranks are combined, the slowest rank counts, and all ranks go one way for good. The way never
    changes which collectives are issued or in which order (Note [Order of collectives] in `gate`),
    hence neither the bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from allgrad.ddp.communicators.base import Communicator, ReduceOp

_log = logging.getLogger("allgrad.ddp")

AUTO = "auto"
WARM_UP, TRIAL = 4, 12  # steps; the second is a multiple of 4
MARGIN = 0.03  # by which not overlapping must be faster


class OverlapChoice:
    """The way of one reducer.

    Args:
        wanted: True, False, or "auto".
        clock: seconds.

    Attributes:
        overlapping: the way of the step that runs.
        decided: whether it stays like that.
    """

    def __init__(self, wanted: bool | str, clock: Callable[[], float] = perf_counter) -> None:
        self.overlapping = bool(wanted)
        self.decided = wanted != AUTO
        self._clock = clock
        self._step = 0
        self._began_s = 0.0
        self._taken_s: dict[bool, list[float]] = {True: [], False: []}

    def begin(self) -> None:
        """A synchronised backward begins; counted alike on ranks that only serve it."""
        if self.decided:
            return
        self._step += 1
        tried = self._step - WARM_UP - 1
        self.overlapping = tried < 0 or tried % 4 in (0, 3)
        self._began_s = self._clock()

    def end(self, serving: bool) -> None:
        """Its gradients have arrived; without a backward of this rank's own, that tells nothing."""
        if not self.decided and self._step > WARM_UP and not serving:
            self._taken_s[self.overlapping].append(self._clock() - self._began_s)

    def settle(self, communicator: Communicator) -> bool:
        """Collective at the end of the trial, else nothing; whether a collective was issued."""
        if self.decided or self._step < WARM_UP + TRIAL:
            return False
        self.decided = True
        taken = np.array([median(self._taken_s[way] or [0.0]) for way in (True, False)])
        before, communicator.note = communicator.note, "whether overlapping pays"
        communicator.all_reduce(taken, ReduceOp.MAX)
        communicator.note = before
        during, after = taken.tolist()
        self.overlapping = after >= during * (1 - MARGIN)
        _log.info(
            "%s reduces %s backward: %.2f ms against %.2f ms (overlap=True or False to choose)",
            communicator.where,
            "during" if self.overlapping else "after",
            1e3 * (during if self.overlapping else after),
            1e3 * (after if self.overlapping else during),
        )
        return True
