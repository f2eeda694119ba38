"""The base class of all schedules: counting steps and writing the rates into the groups."""

from __future__ import annotations

import types
import warnings
from typing import Any

from ...tensors import Tensor
from ..optimizer import Optimizer, as_float
from ..users import note_user

_ADVICE = (
    "call optimizer.step() first, then scheduler.step(); otherwise the first value of the "
    "schedule is skipped"
)


class LRScheduler:
    """Base class of the schedules, with PyTorch's interface.

    Args:
        optimizer: its groups' ``"lr"`` is what changes; ``"initial_lr"`` is added to them.
        last_epoch: -1 (default) starts the schedule; otherwise the number of steps already made,
            and every group must have ``"initial_lr"``.

    Raises:
        TypeError: `optimizer` is not an `Optimizer`.
        KeyError: `last_epoch` is given and a group has no ``"initial_lr"``.

    A subclass defines `get_lr`, and may define ``_get_closed_form_lr``. Make the scheduler before
    loading a saved optimizer state: making it sets the rates to their start.
    See Note [Chainable and closed form] in the package.

    Source: PyTorch manual, torch.optim.lr_scheduler.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        note_user(optimizer, self)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _number(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                    f"scheduler with last_epoch={last_epoch}. Load the optimizer's state first, "
                    "or leave last_epoch at -1"
                )
        self.base_lrs: list[float] = [_number(g["initial_lr"]) for g in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def get_lr(self) -> list[float]:
        """The next rate of each group; called by `step` only. Subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} must define get_lr()")

    def get_last_lr(self) -> list[float]:
        """The rate of each group that the last `step` set."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go to the next rate: once per epoch, or per batch, after ``optimizer.step()``.

        Args:
            epoch: (deprecated in PyTorch) go to this step instead, in closed form where the
                schedule has one.

        Warns:
            UserWarning: there was no ``optimizer.step()`` before the first call.
        """
        if self._step_count == 1:
            self._check_order()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                "scheduler.step(epoch) is deprecated: call scheduler.step() without it",
                UserWarning,
                stacklevel=2,
            )
        self._update_lr(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the optimizer's groups are not touched."""
        self.__dict__.update(state_dict)

    # -- for the subclasses ---------------------------------------------------------------------

    def _initial_step(self) -> None:
        """The step that sets the first rate."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def _write(self, rates: list[float]) -> None:
        """Set the rate of every group; a tensor stays the same tensor."""
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"]._array.fill(lr)
                group["lr"]._bump_version()
            else:
                group["lr"] = lr
        self._last_lr = self._rates()

    def _rates(self) -> list[float]:
        """The present rate of each group."""
        return [_number(group["lr"]) for group in self.optimizer.param_groups]

    def _warn_outside_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use "
                "`get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _update_lr(self, epoch: int | None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed_form = getattr(self, "_get_closed_form_lr", None)
        self._get_lr_called_within_step = True
        try:
            rates = self.get_lr() if epoch is None or closed_form is None else closed_form()
        finally:
            self._get_lr_called_within_step = False
        self._write(rates)

    def _check_order(self) -> None:
        if not hasattr(self.optimizer.step, "_tracks_calls"):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate "
                f"scheduler initialization, so its calls cannot be followed; {_ADVICE}",
                UserWarning,
                stacklevel=3,
            )
        elif not self.optimizer._opt_called:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: " + _ADVICE,
                UserWarning,
                stacklevel=3,
            )


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is not an `Optimizer` with a TypeError."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """`value` once per group, or the list itself when it has one entry per group.

    Raises:
        ValueError: the list has another length; `name` is what it is called.
    """
    check_optimizer(optimizer)
    count = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups: expected {count}, "
            f"came {len(value)}"
        )
    return list(value)


def _number(lr: Any) -> float:
    return as_float(lr) if isinstance(lr, Tensor) else lr


def saved_function(function: Any) -> dict[str, Any] | None:
    """What `state_dict` keeps of a user's function: the attributes of a callable object."""
    return None if isinstance(function, types.FunctionType) else dict(vars(function))
