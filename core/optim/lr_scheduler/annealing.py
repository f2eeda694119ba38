"""Cosine annealing without restarts."""

from __future__ import annotations

import math

from ..optimizer import Optimizer
from .base import LRScheduler


class CosineAnnealingLR(LRScheduler):
    r"""Half a cosine from the initial rate down to `eta_min`, and up again after `T_max`.

    .. math::
        \text{lr}_t = \text{eta\_min} + \tfrac12 (\text{lr}_0 - \text{eta\_min})
            \left(1 + \cos(\pi t / T_{max})\right)

    Args:
        optimizer: whose rates change.
        T_max: number of steps down.
        eta_min: the lowest rate.
        last_epoch: as `LRScheduler`.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic gradient descent with warm restarts",
    equation 5, without the restarts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # noqa: N803 - PyTorch's spelling
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        t, t_max, low = self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return self._rates()
        if self._step_count == 1 and t > 0:
            return self._get_closed_form_lr()
        if (t - 1 - t_max) % (2 * t_max) == 0:
            # the step after the lowest point, where the quotient below would be x / 0
            rise = 1 - math.cos(math.pi / t_max)
            return [
                lr + (base_lr - low) * rise / 2
                for lr, base_lr in zip(self._rates(), self.base_lrs, strict=True)
            ]
        factor = (1 + math.cos(math.pi * t / t_max)) / (1 + math.cos(math.pi * (t - 1) / t_max))
        return [factor * (lr - low) + low for lr in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        low = self.eta_min
        angle = math.pi * self.last_epoch / self.T_max
        return [low + (base_lr - low) * (1 + math.cos(angle)) / 2 for base_lr in self.base_lrs]
