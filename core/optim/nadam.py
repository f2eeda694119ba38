"""NAdam. The update itself is the kernel ``nadam_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import as_float, check_betas, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, betas_of, numbers, scalar, zeros_like
from .optimizer import Params


class NAdam(KernelOptimizer):
    r"""NAdam: Adam with Nesterov's look ahead along the average gradient.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1}
            \quad\text{(or decoupled, as Adam)} \\
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \cdot \text{momentum\_decay}}), \quad
            \pi_t = \mu_1 \cdots \mu_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot
            \frac{(1 - \mu_t) g_t / (1 - \pi_t) + \mu_{t+1} m_t / (1 - \pi_{t+1})}
            {\sqrt{v_t / (1 - \beta_2^t)} + \text{eps}}

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        momentum_decay: how slowly :math:`\mu_t` rises, >= 0.
        decoupled_weight_decay: shrink the parameter itself, as `AdamW` does.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``mu_product``, :math:`\pi_t`; ``exp_avg``, ``exp_avg_sq``.

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam".

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.NAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.894
    """

    _state_like_param = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
        check_not_negative("momentum_decay value", momentum_decay)
        check_implementation_flags("NAdam", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": scalar(0),
            "mu_product": scalar(1),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        step = super()._tick(p, values, group)
        product = values["mu_product"]._array
        product *= _momentum(group, step)
        return step, float(product)

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        step, product = clock
        here, ahead = _momentum(group, step), _momentum(group, step + 1)
        settings = {
            **numbers(group, "lr", "eps", "weight_decay"),
            **betas_of(group),
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
            "grad_share": (1 - here) / (1 - product),
            "avg_share": ahead / (1 - product * ahead),
        }
        settings["correction"] = 1 - settings["beta2"] ** step
        return Update("nadam_step", ("exp_avg", "exp_avg_sq"), settings)


def _momentum(group: dict[str, Any], step: Any) -> float:
    decay = 0.96 ** (step * as_float(group["momentum_decay"]))
    return as_float(group["betas"][0]) * (1.0 - 0.5 * decay)
