"""LARS. The update itself is the kernel ``lars_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, numbers, zeros_like
from .on_device import Recipe
from .optimizer import Params


class LARS(KernelOptimizer):
    r"""SGD with momentum whose rate is scaled per parameter, for training with large batches.

    .. math::
        \lambda_t &= \frac{\text{trust\_coefficient} \cdot \|\theta_{t-1}\|}
            {\|g_t\| + \text{weight\_decay} \cdot \|\theta_{t-1}\| + \text{eps}} \\
        b_t &= \text{momentum} \cdot b_{t-1} + \text{lr} \cdot \lambda_t
            (g_t + \text{weight\_decay} \cdot \theta_{t-1}) \\
        \theta_t &= \theta_{t-1} - b_t

    (with nesterov, :math:`\theta_t = \theta_{t-1} - (b_t - \text{momentum} \cdot b_{t-1}) -
    \text{momentum} \cdot b_t`). :math:`\lambda_t = 1` while one of the norms is 0.

    Not in PyTorch. Unlike in `SGD` the rate is part of the momentum, as in the paper.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: the global learning rate, >= 0; a float or a tensor of one element.
        momentum: >= 0.
        weight_decay: factor of the L2 penalty, >= 0.
        trust_coefficient: share of the parameter's norm that one step may move it, >= 0.
        eps: added to the denominator, >= 0.
        exclude_1d: True (default) steps parameters of fewer than two dimensions (biases, norms)
            with :math:`\lambda_t = 1` and without weight decay.
        nesterov: look ahead along the momentum.
        maximize: climb instead of descend.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``momentum_buffer``, :math:`b_t`.

    Source: You, Gitman and Ginsburg 2017, "Large batch training of convolutional networks",
    algorithm 1.

    >>> from allgrad import optim, tensor
    >>> w = tensor([[1.0]], requires_grad=True)
    >>> optimizer = optim.LARS([w], lr=1.0, trust_coefficient=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    _state_like_param = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        exclude_1d: bool = True,
        *,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("momentum value", momentum)
        check_not_negative("weight_decay value", weight_decay)
        check_not_negative("trust_coefficient value", trust_coefficient)
        check_not_negative("epsilon value", eps)
        if nesterov and momentum <= 0:
            raise ValueError(f"Nesterov momentum requires a momentum, came momentum={momentum}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "exclude_1d": exclude_1d,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": zeros_like(p)}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        """Whether `p` gets a rate of its own."""
        return p.ndim > 1 or not group["exclude_1d"]

    def _recipe(self, group: dict[str, Any]) -> Recipe:
        names = ("lr", "momentum", "weight_decay", "trust_coefficient", "eps")
        return Recipe(
            "lars",
            ("momentum_buffer",),
            tuple(numbers(group, *names).values()),
            group["maximize"],
            group["nesterov"],
            adapts=lambda p: p.ndim > 1 or not group["exclude_1d"],
        )

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = {
            **numbers(group, "lr", "momentum", "weight_decay", "trust_coefficient", "eps"),
            "nesterov": group["nesterov"],
            "maximize": group["maximize"],
            "adapt": clock,
        }
        return Update("lars_step", ("momentum_buffer",), settings)
