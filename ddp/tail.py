"""What ranks tell each other with the last bucket: which parameters they have used.

Stage of the flow: beside `reducer`. May import: `communicators.base`, `allgrad.errors`.

Note [Tail]
    The last bucket has a tail of a few elements that is averaged with it, so that ranks learn of
    each other what they must know without one more collective: element 0 is positive if on some
    rank the set of used parameters has changed although the graph is static; element 1 + i is the
    share of ranks that have used parameter i, where a rank that has not, but holds a gradient of it
    from backward runs under `no_sync`, counts half. All ranks see the same tail and so take the
    same way: all raise, or none; all report, or none; all cut their buckets anew, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from allgrad.ddp.communicators.base import Array, Communicator
from allgrad.errors import DistributedError

_log = logging.getLogger("allgrad.ddp")

HELD = 0.5
RELEARNINGS = 4  # a model that uses other parameters in every phase would cut its buckets for ever


class Tail:
    """The tail's memory and its meaning. See Note [Tail].

    Args:
        array: the elements behind the last bucket's gradients.
        count: parameters.
        size: ranks.
    """

    def __init__(self, array: Array, count: int, size: int) -> None:
        self.array = array
        self._size = size
        self._used = array[1 : 1 + count]
        self._content = array[: 1 + count]
        self._usual = np.array([0] + [1] * count, array.dtype).tobytes()

    @staticmethod
    def elements(count: int) -> int:
        """Room that the tail of `count` parameters needs."""
        return 1 + count

    def write(self, used: Sequence[float], changed: bool) -> None:
        """Before the tail is sent: say which parameters this rank has used.

        Args:
            used: per parameter 1, or `HELD` if it only has a gradient from before, or 0.
            changed: see Note [Tail].
        """
        self.array[0] = changed
        self._used[...] = used

    @property
    def changed(self) -> bool:
        """Whether on some rank other parameters were used than in the first step."""
        return bool(self.array[0] > 0)

    @property
    def usual(self) -> bool:
        """Whether every rank has used every parameter, and nothing has changed."""
        return self._content.tobytes() == self._usual

    def used_by(self) -> list[float]:
        """Per parameter, the number of ranks that have used it, and half of those that hold it."""
        counts = self._used.astype(np.float64) * self._size
        return [float(n) for n in np.rint(counts / HELD) * HELD]


class Unused:
    """Acts on parameters that took no part in a backward: reports, raises, or moves them last.

    Args:
        names: of the parameters.
        policy: "report" (a warning, once), "error", or "ignore".
        static: whether the set of used parameters may not change.
    """

    def __init__(self, names: Sequence[str], policy: str, static: bool) -> None:
        self._names, self._policy, self._static = names, policy, static
        self._reported = policy != "report"
        self._last: frozenset[int] | None = None  # unused somewhere in the step before
        self._planned: frozenset[int] | None = None  # placed last by the current order
        self._learnt = 0
        self._first: list[bool] | None = None  # what the first step used

    @property
    def settled(self) -> bool:
        """Whether the order of the buckets is known."""
        return self._planned is not None

    def has_changed(self, used: list[bool]) -> bool:
        """Whether the graph is static and this step has used other parameters than the first."""
        if not self._static:
            return False
        if self._first is None:
            self._first = used
        return used != self._first

    def look(
        self,
        tail: Tail,
        used: Sequence[bool],
        order: list[int],
        communicator: Communicator,
        stepping: Sequence[int],
    ) -> list[int] | None:
        """Collective. Act on the tail.

        Args:
            tail: as it came from the other ranks.
            used: per parameter, whether this rank has used it, or need not.
            order: parameters in the order in which their gradients became ready on this rank.
            communicator: of all ranks.
            stepping: the ranks that make this step.

        Returns:
            A new order of the parameters, if there is one.
        """
        usual = tail.usual
        if usual and self._planned is not None:
            self._last = frozenset()
            return None
        active = len(stepping)
        late: frozenset[int] = frozenset()
        if not usual:
            if tail.changed:
                self._raise_changed(used, communicator)
            late = frozenset(i for i, n in enumerate(tail.used_by()) if n < active)
        if late and self._policy == "error":
            self._raise(used, communicator)
        if late and not self._reported:
            self._reported = True
            self._report(used, communicator, stepping[0])
        settled, self._last = late == self._last, late
        if self._planned is not None and (
            late <= self._planned or not settled or self._learnt > RELEARNINGS
        ):
            return None
        return self._learn(late, order, communicator, stepping[0])

    def _learn(
        self, late: frozenset[int], order: list[int], communicator: Communicator, root: int
    ) -> list[int]:
        """The order in which gradients became ready on the root, those that may be missing last."""
        self._planned = late
        self._learnt += 1
        ready = [i for i in order if i not in late]
        missing = [i for i in range(len(self._names)) if i not in set(ready)]
        mine = np.array(ready + missing[::-1], np.int64)
        communicator.note = "order of the gradients"
        communicator.broadcast(mine, root)
        communicator.note = ""
        return [int(i) for i in mine]

    def _gather(self, used: Sequence[bool], communicator: Communicator) -> str:
        mine = [name for name, there in zip(self._names, used, strict=True) if not there]
        everywhere = communicator.all_gather_object(mine)
        return "; ".join(
            f"rank {rank}: {quoted(missing)}" for rank, missing in enumerate(everywhere) if missing
        )

    def _raise(self, used: Sequence[bool], communicator: Communicator) -> None:
        raise DistributedError(
            f"{communicator.where} no gradient arrived in this backward for "
            f"{self._gather(used, communicator)}. These parameters took no part in the loss "
            'there, and unused_parameters="error" forbids that. Use them in forward, set '
            "requires_grad=False, or leave unused_parameters out (then they count as zero)"
        )

    def _raise_changed(self, used: Sequence[bool], communicator: Communicator) -> None:
        assert self._first is not None
        now, before = list(used), self._first
        mine = [
            f"{name!r} {'used now' if there else 'not used now'}"
            for name, there, then in zip(self._names, now, before, strict=True)
            if there != then
        ]
        everywhere = communicator.all_gather_object(mine)
        told = "; ".join(f"rank {r}: {', '.join(m[:8])}" for r, m in enumerate(everywhere) if m)
        raise DistributedError(
            f"{communicator.where} static_graph=True, but step {communicator.step} uses other "
            f"parameters than the first one: {told}. Leave static_graph out"
        )

    def _report(self, used: Sequence[bool], communicator: Communicator, root: int) -> None:
        lacking = self._gather(used, communicator)
        if communicator.rank == root:
            _log.warning(
                "step %d: no gradient arrived for %s. They count as zero there; without gradient "
                "on any rank, they keep theirs. Reported once; silence it with "
                'unused_parameters="ignore"',
                communicator.step,
                lacking,
            )


def quoted(names: Sequence[str], most: int = 8) -> str:
    """The names in quotes, or the first of them and how many there are more."""
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
