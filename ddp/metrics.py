"""Numbers that concern all ranks: exact sums of counts, and a check for NaN.

Stage of the flow: called by training loops. May import: `process_group`, `allgrad.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from allgrad import Tensor
from allgrad.ddp.process_group import ProcessGroup, met
from allgrad.errors import DistributedError, NonFiniteError

Number = float | int | Tensor


def reduce_sum(values: Mapping[str, Number], group: ProcessGroup | None = None) -> dict[str, float]:
    """Sum plain numbers over the ranks, in float64: whole numbers up to 2**53 stay exact.

    Evaluation counts every sample once if each rank passes its own sums and divides afterwards.

    Args:
        values: the same names on every rank; one-element tensors are read.
        group: default: the default group.

    Returns:
        The sums, the same bits on all ranks.

    Raises:
        DistributedError: the ranks passed a different number of values.

    Example:
        >>> from allgrad import ddp
        >>> ddp.init_process_group()
        >>> ddp.reduce_sum({"correct": 90, "seen": 100})
        {'correct': 90.0, 'seen': 100.0}
        >>> ddp.destroy_process_group()
    """
    communicator = met(group).communicator
    sums = np.array([float(value) for value in values.values()], np.float64)
    if sums.size == 0:
        raise DistributedError(f"{communicator.where} reduce_sum: no values given")
    communicator.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


def check_finite(loss: Number, step: int, group: ProcessGroup | None = None) -> None:
    """Collective. Raise on every rank if the loss is NaN or infinite on any.

    Args:
        loss: this rank's loss, a number or a one-element tensor.
        step: for the message.
        group: default: the default group.

    Raises:
        NonFiniteError: names the step, the ranks and their losses.
    """
    communicator = met(group).communicator
    losses = communicator.all_gather(np.array(float(loss), np.float64)).tolist()
    bad = [f"{value} on rank {r}" for r, value in enumerate(losses) if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(
            f"{communicator.where} loss is not finite at step {step}: {', '.join(bad)}. Lower the "
            "learning rate, clip gradients, or look for the first bad batch"
        )
