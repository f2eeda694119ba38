"""Adam. The update itself is the kernel ``adam_step``."""

from __future__ import annotations

from typing import Any

from ..tensors import Tensor
from .checks import check_betas, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, betas_of, numbers, scalar, zeros_like
from .on_device import Recipe
from .optimizer import Params


class Adam(KernelOptimizer):
    r"""Adam: step sizes from running averages of the gradient and of its square.

    With gradient :math:`g_t` of parameter :math:`\theta`, for every step :math:`t = 1, 2, ...`:

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1}
            \quad\text{(or, decoupled: } \theta_{t-1} \leftarrow
            (1 - \text{lr} \cdot \text{weight\_decay})\, \theta_{t-1} \text{)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot \frac{m_t / (1 - \beta_1^t)}
            {\sqrt{v_t / (1 - \beta_2^t)} + \text{eps}}

    With `amsgrad` the largest :math:`v_t` so far stands in the denominator.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        amsgrad: never let the denominator shrink.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, capturable, fused: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.
        decoupled_weight_decay: shrink the parameter itself, as `AdamW` does.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``, :math:`t`, shape (), float32; ``exp_avg``, :math:`m_t`,
    ``exp_avg_sq``, :math:`v_t`, and with amsgrad ``max_exp_avg_sq``, of the parameter's shape and
    dtype; from the first step with a gradient on.

    Source: Kingma and Ba 2015, "Adam: A method for stochastic optimization", algorithm 1;
    amsgrad: Reddi et al. 2018, "On the convergence of Adam and beyond", algorithm 2 (with
    bias correction, as PyTorch).

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    _state_like_param = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("epsilon value", eps)
        betas = check_betas(betas)
        check_not_negative("weight_decay value", weight_decay)
        check_implementation_flags(type(self).__name__, foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def _complete(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> None:
        if group["amsgrad"] and "max_exp_avg_sq" not in values:  # switched on at a later step
            values["max_exp_avg_sq"] = zeros_like(p)

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None)
        n = {**numbers(group, "lr", "eps", "weight_decay"), **betas_of(group)}
        settings = (n["lr"], n["beta1"], n["beta2"], n["eps"], n["weight_decay"])
        decoupled = float(group["decoupled_weight_decay"])
        return Recipe("adam", names, (*settings, decoupled), group["maximize"])

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        largest = "max_exp_avg_sq" if group["amsgrad"] else None
        settings = {
            "step": clock,
            **numbers(group, "lr", "eps", "weight_decay"),
            **betas_of(group),
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
        }
        return Update("adam_step", ("exp_avg", "exp_avg_sq", largest), settings)
