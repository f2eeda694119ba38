"""Adam. The update itself is the kernel ``adam_step``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend
from ..tensors import Tensor
from .optimizer import Optimizer, Params, as_float, check_implementation_flags


class Adam(Optimizer):
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
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, came shape {tuple(lr.shape)}")
        if not as_float(lr) >= 0.0:  # "not >=" also refuses NaN
            raise ValueError(f"Invalid learning rate: {lr}")
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        beta1, beta2 = (as_float(b) for b in betas)
        for i, beta in enumerate((beta1, beta2)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        if not weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        check_implementation_flags(type(self).__name__, foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "betas": (beta1, beta2),
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

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; see the class for the equations.

        Args:
            closure: computes the loss again (with ``backward``) and returns it.

        Returns:
            What `closure` returned, or None.
        """
        loss = self._begin_step(closure)
        adam_step = backend.get().adam_step
        for group in self.param_groups:
            settings = {
                "lr": as_float(group["lr"]),
                "beta1": as_float(group["betas"][0]),
                "beta2": as_float(group["betas"][1]),
                "eps": as_float(group["eps"]),
                "weight_decay": as_float(group["weight_decay"]),
                "decoupled": group["decoupled_weight_decay"],
                "maximize": group["maximize"],
            }
            amsgrad = group["amsgrad"]
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                array, g = p._array, grad._array
                if array.shape != g.shape or array.dtype != g.dtype:
                    raise self._misfit(p, grad)
                values = self.state[p] or self._start_state(p)
                largest = self._largest(p, values)._array if amsgrad else None
                count = values["step"]._array
                count += 1
                m, v = values["exp_avg"]._array, values["exp_avg_sq"]._array
                adam_step(array, g, m, v, largest, step=int(count), **settings)
                p._bump_version()
        return loss

    def _start_state(self, p: Tensor) -> dict[str, Any]:
        values = self.state[p]
        values["step"] = Tensor(np.zeros((), dtype=np.float32))
        values["exp_avg"] = Tensor(np.zeros_like(p._array))
        values["exp_avg_sq"] = Tensor(np.zeros_like(p._array))
        return values

    @staticmethod
    def _largest(p: Tensor, values: dict[str, Any]) -> Tensor:
        """``max_exp_avg_sq`` of `p`; amsgrad may be switched on later than the first step."""
        if "max_exp_avg_sq" not in values:
            values["max_exp_avg_sq"] = Tensor(np.zeros_like(p._array))
        largest: Tensor = values["max_exp_avg_sq"]
        return largest
