"""Averaged SGD. The update itself is the kernel ``asgd_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ..tensors import Tensor
from .checks import as_float, check_implementation_flags, check_lr, check_not_negative
from .kernel import KernelOptimizer, Update, numbers, scalar, zeros_like
from .optimizer import Params


class ASGD(KernelOptimizer):
    r"""SGD with a falling rate that also averages the parameters from step `t0` on.

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        \theta_t &= (1 - \text{lambd} \cdot \eta_t) \theta_{t-1} - \eta_t g_t, \quad
            a_t = a_{t-1} + \mu_t (\theta_t - a_{t-1}) \\
        \eta_{t+1} &= \text{lr} / (1 + \text{lambd} \cdot \text{lr} \cdot t)^{\text{alpha}}, \quad
            \mu_{t+1} = 1 / \max(1, t - t_0)

    with :math:`\eta_1 = \text{lr}, \mu_1 = 1`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        lambd: decay of the parameters and of the rate.
        alpha: power of the rate's decay.
        t0: step at which averaging begins.
        weight_decay: factor of the L2 penalty, >= 0.
        foreach, capturable: choices between PyTorch's implementations; accepted, no effect.
        maximize: climb instead of descend: the gradient's sign is changed first.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``eta``, ``mu`` (of the next step, float32); ``ax``,
    :math:`a_t`, the average.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.ASGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.8
    """

    _state_like_param = ("ax",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr(lr)
        check_not_negative("weight_decay value", weight_decay)
        check_implementation_flags("ASGD", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        eta = scalar(as_float(group["lr"]))
        return {"step": scalar(0), "eta": eta, "mu": scalar(1), "ax": zeros_like(p)}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        step: Any = super()._tick(p, values, group)
        eta, mu = values["eta"]._array, values["mu"]._array
        present = float(eta), float(mu)
        lr, lambd, alpha, t0 = numbers(group, "lr", "lambd", "alpha", "t0").values()
        eta[...] = lr / (1 + lambd * lr * step) ** alpha
        mu[...] = 1 / max(1, step - t0)
        return present

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        settings = numbers(group, "lambd", "weight_decay")
        settings["eta"], settings["mu"] = clock
        return Update("asgd_step", ("ax",), settings | {"maximize": group["maximize"]})
