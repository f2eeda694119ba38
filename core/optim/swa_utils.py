"""Averages of weights over training: stochastic weight averaging and exponential moving averages.

`AveragedModel` keeps the average, `SWALR` is its learning-rate schedule, `update_bn` renews the
statistics of batch norms, which belong to no average of weights. Imports nn besides optim.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..autograd import no_grad
from ..dtypes import FLOATING
from ..errors import OptionError
from ..nn import Module
from ..nn.modules.norm import _BatchNorm
from ..tensors import Tensor
from .lr_scheduler.base import LRScheduler, per_group
from .on_device import EQUAL, average_on_device
from .optimizer import Optimizer

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

AvgFn = Callable[[Tensor, Tensor, Any], Tensor]
MultiAvgFn = Callable[[list[Tensor], list[Tensor], Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAvgFn:
    """avg = decay * avg + (1 - decay) * new, for lists of tensors. ValueError: not in [0, 1]."""
    one = get_ema_avg_fn(decay)
    return _ForLists(one)


def get_swa_multi_avg_fn() -> MultiAvgFn:
    """avg = avg + (new - avg) / (n + 1), for lists of tensors."""
    return _ForLists(get_swa_avg_fn())


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """avg = decay * avg + (1 - decay) * new, for one tensor. ValueError: not in [0, 1]."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )

    return _Exponential(decay)


def get_swa_avg_fn() -> AvgFn:
    """avg = avg + (new - avg) / (n + 1), for one tensor."""
    return _Equal()


class AveragedModel(Module):
    """A copy of a model whose parameters are the average of all that `update_parameters` saw.

    Args:
        model: the model; it is copied.
        device: as `Module.to`; None leaves the copy where the model is.
        avg_fn: ``(averaged, new, number averaged) -> averaged`` for one parameter; None: the
            equal average of all (SWA).
        multi_avg_fn: the same for lists of parameters, changing the first list in place.
        use_buffers: also average buffers (running statistics); False copies the model's.

    Raises:
        AssertionError: both functions are given, as PyTorch.

    State: ``n_averaged`` (int64), and the copy's parameters as ``module.*``.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better
    generalization".

    >>> from allgrad import nn, optim
    >>> model = nn.Linear(1, 1)
    >>> average = optim.swa_utils.AveragedModel(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     average.update_parameters(model)
    >>> average.module.weight.item(), average.n_averaged.item()
    (3.0, 3)
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", Tensor(np.zeros((), np.int64)))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model computes."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the present parameters of `model` into the average."""
        mine = [p.detach() for p in self.module.parameters()]
        theirs = [p.detach() for p in model.parameters()]
        if self.use_buffers:
            mine += [b.detach() for b in self.module.buffers()]
            theirs += [b.detach() for b in model.buffers()]
        function: Any = self.multi_avg_fn or self.avg_fn or get_swa_avg_fn()
        decay = getattr(function, "decay", None)
        with no_grad():
            if decay is not None and average_on_device(mine, theirs, self.n_averaged, decay):
                pass
            elif int(self.n_averaged) == 0:
                _copy(mine, theirs)
            elif self.multi_avg_fn is not None:
                self.multi_avg_fn(mine, theirs, self.n_averaged)
            else:
                _ForLists(self.avg_fn or get_swa_avg_fn())(mine, theirs, self.n_averaged)
            if not self.use_buffers:
                _copy(
                    [b.detach() for b in self.module.buffers()],
                    [b.detach() for b in model.buffers()],
                )
            self.n_averaged += 1


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch norms of `model` anew from the data.

    Args:
        loader: batches; of a list or tuple the first entry is the input.
        model: it sees all batches once, in training mode, without gradients.
        device: where to bring the inputs; None leaves them.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches, each weighing the same
    try:
        with no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, list | tuple) else batch
                model(x if device is None else x.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    r"""From the present rate to `swa_lr` within `anneal_epochs` steps, then constant.

    Args:
        optimizer: whose rates change.
        swa_lr: the last rate; one number or one per group.
        anneal_epochs: steps until then; 0 goes there at once.
        anneal_strategy: "cos" or "linear".
        last_epoch: as `LRScheduler`.

    Raises:
        ValueError: `anneal_epochs` is negative, another strategy, a list of another length.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = per_group("swa_lr", optimizer, swa_lr)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise OptionError.unknown("anneal_strategy", anneal_strategy, ("cos", "linear"))
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The next rate of each group."""
        self._warn_outside_step()
        # `_step_count - 1` is what PyTorch counts by: 0 at the start, whatever last_epoch is
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        result = []
        for group, lr in zip(self.optimizer.param_groups, self._rates(), strict=True):
            target = group["swa_lr"]
            start = target if before == 1 else (lr - before * target) / (1 - before)
            result.append(target * now + start * (1 - now))
        return result

    def _share(self, step: int) -> float:
        """How much of the way is done at `step`."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class _Exponential:
    decay: float  # by which a GPU's kernel knows the average

    def __call__(self, averaged: Tensor, new: Tensor, num_averaged: Any) -> Tensor:
        return self.decay * averaged + (1 - self.decay) * new


@dataclass(frozen=True)
class _Equal:
    decay: float = EQUAL

    def __call__(self, averaged: Tensor, new: Tensor, num_averaged: Any) -> Tensor:
        return averaged + (new - averaged) / (int(num_averaged) + 1)


class _ForLists:
    def __init__(self, average: AvgFn) -> None:
        self.average = average
        self.decay = getattr(average, "decay", None)

    def __call__(self, averaged: list[Tensor], new: list[Tensor], num_averaged: Any) -> None:
        for mine, theirs in zip(averaged, new, strict=True):
            _copy([mine], [self.average(mine, theirs, num_averaged)])


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        if target._array.dtype.kind in FLOATING:
            target.copy_(source)
        else:  # counters: averages are cut to whole numbers
            target._array[...] = source._array.astype(target._array.dtype)
            target._bump_version()
