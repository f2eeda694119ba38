"""Cosine annealing, without and with restarts."""

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


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Half a cosine from the initial rate down to `eta_min`, then again from the top.

    Args:
        optimizer: whose rates change.
        T_0: steps until the first restart.
        T_mult: each cycle is this many times as long as the one before.
        eta_min: the lowest rate.
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: `T_0` is not positive, `T_mult` below 1, `eta_min` not a number.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic gradient descent with warm restarts",
    equation 5.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,  # noqa: N803 - PyTorch's spelling
        T_mult: int = 1,  # noqa: N803
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, float | int):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at the present place in the cycle."""
        self._warn_outside_step()
        low, angle = self.eta_min, math.pi * self.T_cur / self.T_i
        return [low + (base_lr - low) * (1 + math.cos(angle)) / 2 for base_lr in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go to the next rate, or to that of `epoch`, which may be a fraction (per batch).

        Raises:
            ValueError: `epoch` is negative.
        """
        if epoch is None and self.last_epoch >= 0:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            epoch = 0 if epoch is None else epoch
            self._go_to(epoch)
        self.last_epoch = math.floor(epoch)
        self._get_lr_called_within_step = True
        try:
            self._write(self.get_lr())
        finally:
            self._get_lr_called_within_step = False

    def _go_to(self, epoch: float) -> None:
        if epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        if epoch < self.T_0:
            self.T_cur, self.T_i = epoch, self.T_0
        elif self.T_mult == 1:
            self.T_cur, self.T_i = epoch % self.T_0, self.T_0
        else:
            cycles = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            before = self.T_0 * (self.T_mult**cycles - 1) / (self.T_mult - 1)
            self.T_cur, self.T_i = epoch - before, self.T_0 * self.T_mult**cycles
