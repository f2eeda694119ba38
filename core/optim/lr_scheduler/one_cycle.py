"""One cycle: the rate up and far down again while the momentum goes down and up."""

from __future__ import annotations

import math
from typing import Any, Literal

from ...errors import OptionError
from ..optimizer import Optimizer
from .base import LRScheduler, check_optimizer, per_group
from .momentum import cycles_beta1, set_momentum


class OneCycleLR(LRScheduler):
    """From ``max_lr / div_factor`` up to `max_lr`, then down to ``initial / final_div_factor``.

    `step` is called after every batch. The momentum (or Adam's first beta) moves the other way.

    Args:
        optimizer: whose rates (and momenta) change.
        max_lr: highest rate; one number or one per group.
        total_steps: length of the cycle; or give `epochs` and `steps_per_epoch`.
        epochs, steps_per_epoch: their product is the length.
        pct_start: part of the cycle spent rising, between 0 and 1.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: also move the momentum, between `base_momentum` and `max_momentum`.
        base_momentum, max_momentum: one number or one per group.
        div_factor: `max_lr` over the rate at the start.
        final_div_factor: rate at the start over the rate at the end.
        three_phase: fall back to the start symmetrically first, then to the end.
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: the length is not given or not positive, `pct_start` is out of range, the
            optimizer has neither momentum nor betas, or (in `step`) the cycle is over.

    Source: Smith and Topin 2018, "Super-convergence: Very fast training of neural networks using
    large learning rates"; two phases as fastai and PyTorch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _length(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in _ANNEAL:
            raise OptionError.unknown("anneal_strategy", anneal_strategy, _ANNEAL)
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        max_lrs = per_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, high in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = high / div_factor
                group["max_lr"] = high
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._start_momentum(base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group; also sets the momenta."""
        self._warn_outside_step()
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(
                f"Tried to step {t} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        start, phase = 0.0, self._schedule_phases[0]
        for phase in self._schedule_phases:
            if t <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        done = (t - start) / (phase["end_step"] - start)
        anneal = _ANNEAL[self._anneal_func_type]
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(anneal(group[phase["start_lr"]], group[phase["end_lr"]], done))
            if self.cycle_momentum:
                low, high = group[phase["start_momentum"]], group[phase["end_momentum"]]
                set_momentum(group, self.use_beta1, anneal(low, high, done))
        return rates

    def _start_momentum(self, base: Any, top: Any, last_epoch: int) -> None:
        self.use_beta1 = cycles_beta1(self.optimizer)
        tops = per_group("max_momentum", self.optimizer, top)
        bases = per_group("base_momentum", self.optimizer, base)
        if last_epoch != -1:
            return
        for group, high, low in zip(self.optimizer.param_groups, tops, bases, strict=True):
            set_momentum(group, self.use_beta1, high)
            group["max_momentum"], group["base_momentum"] = high, low


def _length(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    given = {"total_steps": total_steps}
    if total_steps is None:
        given = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        if epochs is None or steps_per_epoch is None:
            raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    product = 1
    for name, value in given.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
        product *= value
    return product


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Each phase: its last step, and between which entries of a group it moves."""

    def phase(end: float, lr: tuple[str, str], momentum: tuple[str, str]) -> dict[str, Any]:
        return {
            "end_step": end,
            "start_lr": lr[0],
            "end_lr": lr[1],
            "start_momentum": momentum[0],
            "end_momentum": momentum[1],
        }

    top = float(pct_start * total_steps) - 1
    up = phase(top, ("initial_lr", "max_lr"), ("max_momentum", "base_momentum"))
    last = total_steps - 1
    if not three_phase:
        return [up, phase(last, ("max_lr", "min_lr"), ("base_momentum", "max_momentum"))]
    back = float(2 * pct_start * total_steps) - 2
    return [
        up,
        phase(back, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum")),
        phase(last, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
    ]


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * done) + 1)


def _linear(start: float, end: float, done: float) -> float:
    return (end - start) * done + start


_ANNEAL = {"cos": _cosine, "linear": _linear}
