"""Parameters averaged over the ranks every few steps, instead of gradients at every step.

Stage of the flow: after the optimizer's step. May import: `process_group`, `communicators.base`,
``allgrad``. Names as ``torch.distributed.algorithms.model_averaging.averagers`` and
``torch.distributed.optim.PostLocalSGDOptimizer``; `comm_hooks.post_localSGD_hook` is the half that
sees gradients.

Source: Lin, Stich, Patel, Jaggi, "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import ReduceOp
from allgrad.ddp.process_group import ProcessGroup, default_group, met
from allgrad.errors import OptionError
from allgrad.optim import Optimizer
from allgrad.optim.hooks import HookTable
from allgrad.tensors.graph import compute_all

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


def average_parameters(params: Params, process_group: ProcessGroup | None = None) -> None:
    """Collective. Replace every parameter by its mean over the ranks, the same bits on all.

    Args:
        params: parameters of a model, or parameter groups of an optimizer, in the same order on all
            ranks; those that do not require grad stay as they are.
        process_group: default: the default group.
    """
    group = met(process_group)
    compute_all()
    kinds: dict[np.dtype, list[Tensor]] = {}
    for param in _tensors(params):
        if param.requires_grad:
            kinds.setdefault(param._array.dtype, []).append(param)
    for dtype, tensors in kinds.items():
        flat = np.concatenate([t._canonical().reshape(-1) for t in tensors]).astype(dtype)
        group.communicator.note = "parameters of a ModelAverager"
        group.communicator.of(flat).all_reduce(flat, ReduceOp.AVG)
        group.communicator.note = ""
        start = 0
        for tensor in tensors:
            mean = flat[start : start + tensor._array.size]
            tensor._array[...] = mean.reshape(tensor._array.shape)
            tensor._bump_version()
            start += mean.size


def _tensors(params: Params) -> Iterable[Tensor]:
    for item in params:
        if isinstance(item, dict):
            yield from item["params"]
        else:
            yield item


class ModelAverager(ABC):
    """Decides at which steps parameters are averaged.

    Args:
        process_group: default: the default group.

    Attributes:
        step: calls of `average_parameters` so far.
    """

    def __init__(self, process_group: ProcessGroup | None = None) -> None:
        self.process_group = process_group or default_group()
        self.step = 0

    @abstractmethod
    def average_parameters(self, params: Params) -> None:
        """Call after every step of the optimizer, on all ranks."""


class PeriodicModelAverager(ModelAverager):
    """Averages at every `period`-th step after a warm-up.

    Args:
        period: steps from one average to the next, 2 or more: with 1, averaging gradients costs no
            more.
        warmup_steps: steps without averages; the `start_localSGD_iter` of the hook.
        process_group: default: the default group.

    Raises:
        OptionError: a number is too small.

    Example:
        >>> import allgrad as ag
        >>> from allgrad import ddp
        >>> ddp.init_process_group()
        >>> averager = PeriodicModelAverager(period=4, warmup_steps=100)
        >>> averager.average_parameters([ag.ones(3, requires_grad=True)])
        >>> averager.step
        1
        >>> ddp.destroy_process_group()
    """

    def __init__(
        self, period: int, warmup_steps: int = 0, process_group: ProcessGroup | None = None
    ) -> None:
        super().__init__(process_group)
        if warmup_steps < 0:
            raise OptionError(
                f"PeriodicModelAverager: warmup_steps={warmup_steps}, expected 0 or more"
            )
        if period < 1:
            raise OptionError(f"PeriodicModelAverager: period={period}, expected 1 or more")
        if period == 1:
            warnings.warn(
                "PeriodicModelAverager with period=1 sends as much as DistributedDataParallel "
                "alone; use that without a hook",
                stacklevel=2,
            )
        self.period, self.warmup_steps = period, warmup_steps

    def average_parameters(self, params: Params) -> None:
        """Average now, if it is time; collective then."""
        since = self.step - self.warmup_steps
        if since >= 0 and since % self.period == 0:
            average_parameters(params, self.process_group)
        self.step += 1


class PostLocalSGDOptimizer(Optimizer):
    """An optimizer that lets an averager look at the parameters after every step.

    Its `state_dict` is that of `optim` and the averager's step.

    Args:
        optim: makes the steps on each rank.
        averager: says when to average.
    """

    def __init__(self, optim: Optimizer, averager: ModelAverager) -> None:
        # no super().__init__: groups, state and defaults are those of `optim`, see __getattr__
        self.optim, self.averager = optim, averager
        self._hooks, self._inside_step = HookTable(), False
        self._opt_called = False

    def __getattr__(self, name: str) -> Any:
        if name in ("optim", "averager"):  # asked for by copy and pickle, before they are there
            raise AttributeError(name)
        return getattr(self.optim, name)

    def __repr__(self) -> str:
        return repr(self.optim)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = self.optim.step(closure)
        self.averager.average_parameters(self.optim.param_groups)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optim.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optim.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return {**self.optim.state_dict(), "step": self.averager.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also take over the averager's step; 0, with a warning, if the state has none."""
        self.optim.load_state_dict({k: v for k, v in state_dict.items() if k != "step"})
        if "step" not in state_dict:
            warnings.warn(
                "PostLocalSGDOptimizer: the state has no step of an averager; it starts at 0",
                stacklevel=2,
            )
        self.averager.step = state_dict.get("step", 0)
