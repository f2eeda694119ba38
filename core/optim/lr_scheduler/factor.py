"""Rates as the initial rate times a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler, per_group, saved_function


class LambdaLR(LRScheduler):
    r""":math:`\text{lr}_t = \text{lr}_0 \cdot f(t)`.

    Args:
        optimizer: whose rates change.
        lr_lambda: :math:`f`, from the step number to a factor; or a list, one per group.
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: a list of another length than there are groups.

    Functions are not saved by `state_dict`; the attributes of callable objects are.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas = per_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        return [
            base_lr * factor(self.last_epoch)
            for factor, base_lr in zip(self.lr_lambdas, self.base_lrs, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and plain functions."""
        state = super().state_dict()
        state["lr_lambdas"] = [saved_function(f) for f in self.lr_lambdas]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the functions stay those of this object."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for factor, saved in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if saved is not None:
                vars(factor).update(saved)


class MultiplicativeLR(LambdaLR):
    r""":math:`\text{lr}_t = \text{lr}_{t-1} \cdot f(t)`.

    Args:
        optimizer, lr_lambda, last_epoch: as `LambdaLR`.

    Raises:
        ValueError: a list of another length than there are groups.
    """

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        if self._is_initial:
            return self._rates()
        return [
            lr * factor(self.last_epoch)
            for factor, lr in zip(self.lr_lambdas, self._rates(), strict=True)
        ]
