"""Adagrad. The update itself is the kernel ``adagrad_step``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensors import Tensor
from .checks import as_float, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, numbers, scalar
from .on_device import Recipe
from .optimizer import Params


class Adagrad(KernelOptimizer):
    r"""Adagrad: the gradient divided by the root of the sum of all its squares so far.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        s_t &= s_{t-1} + g_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\text{lr}}{1 + (t - 1) \text{lr\_decay}}
            \cdot \frac{g_t}{\sqrt{s_t} + \text{eps}}

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        lr_decay: how fast the rate falls with the steps, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        initial_accumulator_value: :math:`s_0`, >= 0.
        eps: added to the denominator, >= 0.
        foreach, fused: choices between PyTorch's implementations; accepted, no effect.
        maximize: climb instead of descend: the gradient's sign is changed first.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter, from the beginning on: ``step``; ``sum``, :math:`s_t`.

    Source: Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    _state_like_param = ("sum",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative("lr_decay value", lr_decay)
        check_not_negative("weight_decay value", weight_decay)
        check_not_negative("initial_accumulator_value value", initial_accumulator_value)
        check_not_negative("epsilon value", eps)
        check_implementation_flags("Adagrad", foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = self._start_state(p, group)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        start = as_float(group["initial_accumulator_value"])
        if p._array.dtype.kind == "c":
            start = complex(start, start)  # type: ignore[assignment]
        return {"step": scalar(0), "sum": Tensor(np.full_like(p._array, start))}

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        settings = tuple(numbers(group, "lr", "lr_decay", "eps", "weight_decay").values())
        return Recipe("adagrad", ("sum",), settings, group["maximize"])

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = numbers(group, "lr", "eps", "weight_decay")
        settings["lr"] /= 1 + (clock - 1) * as_float(group["lr_decay"])
        return Update("adagrad_step", ("sum",), settings | {"maximize": group["maximize"]})
