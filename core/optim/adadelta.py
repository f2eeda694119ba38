"""Adadelta. The update itself is the kernel ``adadelta_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, numbers, scalar, zeros_like
from .optimizer import Params


class Adadelta(KernelOptimizer):
    r"""Adadelta: the gradient scaled by running averages of past updates over past gradients.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        v_t &= \rho v_{t-1} + (1 - \rho) g_t^2 \\
        \Delta_t &= \sqrt{u_{t-1} + \text{eps}} / \sqrt{v_t + \text{eps}} \cdot g_t \\
        u_t &= \rho u_{t-1} + (1 - \rho) \Delta_t^2 \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot \Delta_t

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        rho: decay rate of both averages, in [0, 1].
        eps: added under the roots, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``square_avg``, :math:`v_t`; ``acc_delta``, :math:`u_t`.

    Source: Zeiler 2012, "ADADELTA: An adaptive learning rate method", algorithm 1.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adadelta([w], lr=10.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.968
    """

    _state_like_param = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check_not_negative("epsilon value", eps)
        check_not_negative("weight_decay value", weight_decay)
        check_implementation_flags("Adadelta", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "square_avg": zeros_like(p), "acc_delta": zeros_like(p)}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        super()._tick(p, values, group)
        return None  # no number depends on the count

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = numbers(group, "lr", "rho", "eps", "weight_decay")
        return Update(
            "adadelta_step",
            ("square_avg", "acc_delta"),
            settings | {"maximize": group["maximize"]},
        )
