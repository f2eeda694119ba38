"""A rate that falls when a figure (the validation loss) no longer improves."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from ...errors import OptionError
from ..optimizer import Optimizer
from ..users import note_user
from .base import LRScheduler, check_optimizer


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by `factor` when the metric has not improved for `patience` steps.

    Args:
        optimizer: whose rates change.
        mode: "min": less is better; "max": more is.
        factor: below 1.
        patience: steps without improvement that are let pass.
        threshold: what counts as improvement.
        threshold_mode: "rel" (a share of the best) or "abs".
        cooldown: steps after a reduction in which nothing is counted.
        min_lr: lower bound; one number or one per group.
        eps: a change smaller than this is not made.

    Raises:
        ValueError: `factor` >= 1, an unknown mode, or a list of another length than groups.

    >>> from allgrad import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    >>> scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.05]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if not factor < 1.0:
            raise ValueError(f"Factor should be < 1.0, came {factor}")
        check_optimizer(optimizer)
        if mode not in ("min", "max"):
            raise OptionError.unknown("mode", mode, ("min", "max"))
        if threshold_mode not in ("rel", "abs"):
            raise OptionError.unknown("threshold_mode", threshold_mode, ("rel", "abs"))
        self.factor = factor
        self.optimizer = optimizer
        note_user(optimizer, self)
        count = len(optimizer.param_groups)
        bounds = list(min_lr) if isinstance(min_lr, list | tuple) else None
        if bounds is not None and len(bounds) != count:
            raise ValueError(f"expected {count} min_lrs, got {len(bounds)}")
        self.default_min_lr = min_lr if bounds is None else None
        self.min_lrs: list[Any] = [min_lr] * count if bounds is None else bounds
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = self._rates()
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self._reset()

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Look at the metric of this epoch; call it after validation.

        Args:
            metrics: a number or a tensor of one element.
            epoch: (deprecated in PyTorch) the number of the epoch.
        """
        current = float(metrics)
        if epoch is not None:
            warnings.warn(
                "scheduler.step(metrics, epoch) is deprecated: call it without epoch",
                UserWarning,
                stacklevel=2,
            )
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(current, self.best):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._rates()

    def is_better(self, a: float, best: float) -> bool:
        """Whether `a` is an improvement on `best` by more than the threshold."""
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "rel":
            limit = best * (1.0 + sign * self.threshold)
        else:
            limit = best + sign * self.threshold
        return a > limit if self.mode == "max" else a < limit

    @property
    def in_cooldown(self) -> bool:
        """Whether bad steps are not counted yet."""
        return self.cooldown_counter > 0

    def get_lr(self) -> list[float]:
        """The present rate of each group."""
        return self._rates()

    def _reduce(self) -> None:
        rates = self._rates()
        added = len(rates) - len(self.min_lrs)
        if added > 0:  # groups that came later
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the optimizer ({len(rates)}) differs from "
                    f"the length of min_lr ({len(self.min_lrs)}), which was given as a list"
                )
            self.min_lrs += [self.default_min_lr] * added
        new = [max(lr * self.factor, low) for lr, low in zip(rates, self.min_lrs, strict=True)]
        self._write([b if a - b > self.eps else a for a, b in zip(rates, new, strict=True)])
