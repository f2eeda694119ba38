"""RAdam. The update itself is the kernel ``radam_step``."""

from __future__ import annotations

import math
from typing import Any

from ..tensors import Tensor
from .checks import check_betas, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, betas_of, numbers, scalar, zeros_like
from .optimizer import Params


class RAdam(KernelOptimizer):
    r"""RAdam: Adam that does not trust its second moment before it has seen enough gradients.

    .. math::
        \rho_\infty &= 2 / (1 - \beta_2) - 1, \quad
            \rho_t = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t) \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
            {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot \frac{m_t}{1 - \beta_1^t} \cdot \left\{
            r_t \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \text{eps}} \text{ if } \rho_t > 5,
            \text{ else } 1 \right\}

    with :math:`m_t, v_t` and weight decay as in `Adam`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        decoupled_weight_decay: shrink the parameter itself, as `AdamW` does.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``exp_avg``, :math:`m_t`; ``exp_avg_sq``, :math:`v_t`.

    Source: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond",
    algorithm 2.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.RAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.8
    """

    _state_like_param = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("epsilon value", eps)
        betas = check_betas(betas)
        check_not_negative("weight_decay value", weight_decay)
        check_implementation_flags("RAdam", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        betas = betas_of(group)
        settings = {
            **numbers(group, "lr", "eps", "weight_decay"),
            **betas,
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
            "bias_correction": 1 - betas["beta1"] ** clock,
            "rectification": _rectification(betas["beta2"], clock),
        }
        return Update("radam_step", ("exp_avg", "exp_avg_sq"), settings)


def _rectification(beta2: float, step: int) -> float | None:
    """The factor of m / (sqrt(v) + eps), or None while the variance is not tractable."""
    correction = 1 - beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / correction
    if length <= 5.0:
        return None
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt(ratio) * math.sqrt(correction)
