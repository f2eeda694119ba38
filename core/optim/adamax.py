"""Adamax. The update itself is the kernel ``adamax_step``."""

from __future__ import annotations

from typing import Any

from ..tensors import Tensor
from .checks import check_betas, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, betas_of, numbers, scalar, zeros_like
from .optimizer import Params


class Adamax(KernelOptimizer):
    r"""Adamax: Adam with the largest recent gradient in place of the root mean square.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        u_t &= \max(\beta_2 u_{t-1}, |g_t| + \text{eps}) \\
        \theta_t &= \theta_{t-1} - \frac{\text{lr}}{1 - \beta_1^t} \cdot \frac{m_t}{u_t}

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        betas: decay rates of the two, each in [0, 1).
        eps: added to the gradient's size, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``exp_avg``, :math:`m_t`; ``exp_inf``, :math:`u_t`.

    Source: Kingma and Ba 2015, "Adam: A method for stochastic optimization", algorithm 2.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adamax([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    _state_like_param = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("epsilon value", eps)
        betas = check_betas(betas)
        check_not_negative("weight_decay value", weight_decay)
        check_implementation_flags("Adamax", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "exp_avg": zeros_like(p), "exp_inf": zeros_like(p)}

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = numbers(group, "lr", "eps", "weight_decay") | betas_of(group)
        settings["lr"] /= 1 - settings["beta1"] ** clock
        return Update(
            "adamax_step", ("exp_avg", "exp_inf"), settings | {"maximize": group["maximize"]}
        )
