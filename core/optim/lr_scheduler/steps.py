"""Rates that are multiplied by gamma: every few steps, at given steps, at every step."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler


class StepLR(LRScheduler):
    r""":math:`\text{lr}_t = \text{lr}_0 \cdot \gamma^{\lfloor t / \text{step\_size} \rfloor}`.

    Args:
        optimizer: whose rates change.
        step_size: steps between two multiplications.
        gamma: the factor.
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: `step_size` is not positive.
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        if step_size <= 0:
            raise ValueError(f"Expected positive integer step_size, but got {step_size}")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return self._rates()
        return [lr * self.gamma for lr in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        factor = self.gamma ** (self.last_epoch // self.step_size)
        return [base_lr * factor for base_lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    r""":math:`\text{lr}_t = \text{lr}_0 \cdot \gamma^{n(t)}`, :math:`n` the milestones up to t.

    Args:
        optimizer: whose rates change.
        milestones: step numbers; one that stands there twice counts twice.
        gamma: the factor.
        last_epoch: as `LRScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        times = self.milestones[self.last_epoch]
        if times == 0:
            return self._rates()
        return [lr * self.gamma**times for lr in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [base_lr * self.gamma**passed for base_lr in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self.milestones = Counter(self.milestones)  # a saved file holds a plain dict


class ExponentialLR(LRScheduler):
    r""":math:`\text{lr}_t = \text{lr}_0 \cdot \gamma^t`.

    Args:
        optimizer: whose rates change.
        gamma: the factor of every step.
        last_epoch: as `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        if self._is_initial:
            return self._rates()
        return [lr * self.gamma for lr in self._rates()]

    def _get_closed_form_lr(self) -> list[float]:
        return [base_lr * self.gamma**self.last_epoch for base_lr in self.base_lrs]
