"""Stochastic gradient descent with momentum. The update itself is the kernel ``sgd_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..tensors import Tensor
from .checks import check_implementation_flags, check_lr, check_not_negative
from .kernel import Batch, KernelOptimizer, Ready, Update, numbers
from .on_device import Recipe
from .optimizer import Params


class SGD(KernelOptimizer):
    r"""Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.

    With gradient :math:`g_t` of parameter :math:`\theta`, for every step :math:`t = 1, 2, ...`:

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        b_t &= \text{momentum} \cdot b_{t-1} + (1 - \text{dampening}) \cdot g_t
            \qquad (b_1 = g_1) \\
        d_t &= g_t + \text{momentum} \cdot b_t \text{ if nesterov, else } b_t \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot d_t

    Without momentum :math:`d_t = g_t`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        momentum: >= 0.
        dampening: part of the new gradient kept out of the momentum, from the second step on.
        weight_decay: factor of the L2 penalty, >= 0.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening 0.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, fused: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``momentum_buffer``, :math:`b_t`, shape and dtype of the parameter;
    only when momentum is not 0, from the first step with a gradient on.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", equations 1 to 4, in PyTorch's form: lr multiplies :math:`b_t` and is not part of it.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.8
    """

    _state_like_param = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative("momentum value", momentum)
        check_not_negative("weight_decay value", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening, came "
                f"momentum={momentum}, dampening={dampening}"
            )
        check_implementation_flags("SGD", foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _batches(self, group: dict[str, Any], params: list[Ready]) -> dict[Hashable, Batch]:
        if group["momentum"] or not params:
            return super()._batches(group, params)
        return {False: Batch([p for _, p, _ in params], [g for _, _, g in params], [])}

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        """Whether the momentum buffer is new, so that this step fills it."""
        if values.get("momentum_buffer") is not None:
            return False
        values["momentum_buffer"] = Tensor(np.zeros_like(p._array))
        return True

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        settings = numbers(group, "lr", "momentum", "dampening", "weight_decay")
        return Recipe(
            "sgd",
            ("momentum_buffer" if group["momentum"] else None,),
            tuple(settings.values()),
            group["maximize"],
            group["nesterov"],
            counts_first=bool(group["momentum"] and group["dampening"]),
        )

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = {
            **numbers(group, "lr", "momentum", "dampening", "weight_decay"),
            "nesterov": group["nesterov"],
            "maximize": group["maximize"],
            "first": clock,
        }
        return Update("sgd_step", ("momentum_buffer" if group["momentum"] else None,), settings)
