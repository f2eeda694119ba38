"""LAMB. The update itself is the kernel ``lamb_step``."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import check_betas, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, betas_of, numbers, scalar, zeros_like
from .on_device import Recipe
from .optimizer import Params


class LAMB(KernelOptimizer):
    r"""Adam whose step has per parameter the parameter's norm, for training with large batches.

    .. math::
        r_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \text{eps}}
            + \text{weight\_decay} \cdot \theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot
            \frac{\phi(\|\theta_{t-1}\|)}{\|r_t\|} \cdot r_t

    with :math:`m_t, v_t` as in `Adam`. The ratio is 1 while one of the norms is 0. Not in PyTorch.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor of the decay, >= 0.
        norm_bounds: :math:`\phi` limits the norm to these two; None (default) leaves it.
        exclude_1d: step parameters of fewer than two dimensions (biases, norms) with ratio 1 and
            without weight decay; False (default) treats all alike, as the paper.
        maximize: climb instead of descend.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``exp_avg``, :math:`m_t`; ``exp_avg_sq``, :math:`v_t`.

    Source: You et al. 2020, "Large batch optimization for deep learning: Training BERT in 76
    minutes", algorithm 2.

    >>> from allgrad import optim, tensor
    >>> w = tensor([[2.0]], requires_grad=True)
    >>> optimizer = optim.LAMB([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    1.8
    """

    _state_like_param = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0,
        norm_bounds: tuple[float, float] | None = None,
        exclude_1d: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        check_lr(lr)
        betas = check_betas(betas)
        check_not_negative("epsilon value", eps)
        check_not_negative("weight_decay value", weight_decay)
        if norm_bounds is not None and not 0.0 <= norm_bounds[0] <= norm_bounds[1]:
            raise ValueError(
                f"Invalid norm_bounds: expected 0 <= lower <= upper, came {norm_bounds}"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "norm_bounds": norm_bounds,
            "exclude_1d": exclude_1d,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": scalar(0), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        return super()._tick(p, values, group), p.ndim > 1 or not group["exclude_1d"]

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        n = {**numbers(group, "lr", "eps", "weight_decay"), **betas_of(group)}
        settings = (n["lr"], n["beta1"], n["beta2"], n["eps"], n["weight_decay"], 0.0, 0.0)
        return Recipe(
            "lamb",
            ("exp_avg", "exp_avg_sq"),
            (*settings, *(group["norm_bounds"] or (0.0, math.inf))),
            group["maximize"],
            adapts=lambda p: p.ndim > 1 or not group["exclude_1d"],
        )

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        step, adapt = clock
        settings = {
            "step": step,
            **numbers(group, "lr", "eps", "weight_decay"),
            **betas_of(group),
            "bounds": group["norm_bounds"],
            "maximize": group["maximize"],
            "adapt": adapt,
        }
        return Update("lamb_step", ("exp_avg", "exp_avg_sq"), settings)
