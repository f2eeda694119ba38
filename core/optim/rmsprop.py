"""RMSprop. The update itself is the kernel ``rmsprop_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, numbers, scalar, zeros_like
from .on_device import Recipe
from .optimizer import Params


class RMSprop(KernelOptimizer):
    r"""RMSprop: the gradient divided by the root of its running mean square.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        v_t &= \alpha v_{t-1} + (1 - \alpha) g_t^2 \\
        \bar g_t &= \alpha \bar g_{t-1} + (1 - \alpha) g_t, \quad
            \tilde v_t = v_t - \bar g_t^2 \text{ if centered, else } v_t \\
        b_t &= \text{momentum} \cdot b_{t-1} + g_t / (\sqrt{\tilde v_t} + \text{eps}) \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot b_t

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        alpha: decay rate of the averages, >= 0.
        eps: added to the denominator, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        momentum: >= 0.
        centered: divide by the standard deviation instead of the root of the mean square.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``square_avg``, :math:`v_t`; with momentum ``momentum_buffer``,
    :math:`b_t`; when centered ``grad_avg``, :math:`\bar g_t`.

    Source: Hinton 2012, "Neural networks for machine learning", lecture 6; centered: Graves 2013,
    "Generating sequences with recurrent neural networks", equations 38 to 45.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.RMSprop([w], lr=0.1, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.8
    """

    _state_like_param = ("square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("epsilon value", eps)
        check_not_negative("momentum value", momentum)
        check_not_negative("weight_decay value", weight_decay)
        check_not_negative("alpha value", alpha)
        check_implementation_flags("RMSprop", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "square_avg": zeros_like(p)}

    def _complete(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> None:
        if group["momentum"] and "momentum_buffer" not in values:
            values["momentum_buffer"] = zeros_like(p)
        if group["centered"] and "grad_avg" not in values:
            values["grad_avg"] = zeros_like(p)

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        buffer = "momentum_buffer" if group["momentum"] else None
        names = ("square_avg", buffer, "grad_avg" if group["centered"] else None)
        settings = tuple(numbers(group, "lr", "alpha", "eps", "weight_decay", "momentum").values())
        return Recipe("rmsprop", names, settings, group["maximize"])

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        super()._tick(p, values, group)
        return None  # no number depends on the count

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        buffer = "momentum_buffer" if group["momentum"] else None
        mean = "grad_avg" if group["centered"] else None
        settings = numbers(group, "lr", "alpha", "eps", "weight_decay", "momentum")
        return Update(
            "rmsprop_step", ("square_avg", buffer, mean), settings | {"maximize": group["maximize"]}
        )
