"""Rates that go up and down between two bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from ...errors import OptionError
from ..optimizer import Optimizer
from .base import LRScheduler, per_group, saved_function
from .momentum import cycles_beta1, set_momentum

_MODES = ("triangular", "triangular2", "exp_range")


class CyclicLR(LRScheduler):
    """Straight up from `base_lr` to `max_lr` and down again, over and over; step per batch.

    Args:
        optimizer: whose rates (and momenta) change.
        base_lr, max_lr: the bounds; one number or one per group.
        step_size_up, step_size_down: steps up, and down (None: as many).
        mode: "triangular"; "triangular2" halves the height with every cycle; "exp_range"
            multiplies it by `gamma` with every step.
        gamma: of "exp_range".
        scale_fn: a height of your own, as a function of `scale_mode`; `mode` is then ignored.
        scale_mode: "cycle" (number of the cycle, from 1) or "iterations" (steps made).
        cycle_momentum: also move the momentum, the other way.
        base_momentum, max_momentum: its bounds; one number or one per group.
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: a list of another length than there are groups, an unknown `mode`, or an
            optimizer without momentum or betas while `cycle_momentum` is set.

    Source: Smith 2017, "Cyclical learning rates for training neural networks".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        lows = per_group("base_lr", optimizer, base_lr)
        self.optimizer = optimizer
        if last_epoch == -1:
            self._write(lows)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        down = float(step_size_up if step_size_down is None else step_size_down)
        self.total_size = float(step_size_up) + down
        self.step_ratio = float(step_size_up) / self.total_size
        if scale_fn is None and mode not in _MODES:
            raise OptionError.unknown("mode", mode, _MODES)
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        by_step = scale_fn is None and mode == "exp_range"
        self.scale_mode = "iterations" if by_step else "cycle" if scale_fn is None else scale_mode
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = cycles_beta1(optimizer)
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                for group, low, high in zip(
                    optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
                ):
                    set_momentum(group, self.use_beta1, high)
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)
        self.base_lrs = lows

    def scale_fn(self, x: float) -> float:
        """The height at cycle or step `x`."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / (2.0 ** (x - 1))
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        """The next rate of each group; also sets the momenta."""
        self._warn_outside_step()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        up = x <= self.step_ratio
        share = x / self.step_ratio if up else (x - 1) / (self.step_ratio - 1)
        height = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        lows = self.base_lrs
        rates = [
            low + (high - low) * share * height
            for low, high in zip(lows, self.max_lrs, strict=True)
        ]
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                set_momentum(group, self.use_beta1, high - (high - low) * share * height)
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and a plain `scale_fn`."""
        state = super().state_dict()
        custom = self._scale_fn_custom
        state["_scale_fn_custom"] = None if custom is None else saved_function(custom)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the function stays that of this object."""
        saved = dict(state_dict)
        attributes = saved.pop("_scale_fn_custom", None)
        super().load_state_dict(saved)
        if attributes is not None and self._scale_fn_custom is not None:
            vars(self._scale_fn_custom).update(attributes)
