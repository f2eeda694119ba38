"""Stochastic gradient descent with momentum. The update itself is the kernel ``sgd_step``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import backend
from ..tensors import Tensor
from .optimizer import Optimizer, Params, as_float, check_implementation_flags


class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.

    With gradient :math:`g_t` of parameter :math:`\theta`, for every step :math:`t = 1, 2, ...`:

    .. math::
        g_t &\leftarrow g_t + \text{weight\_decay} \cdot \theta_{t-1} \\
        b_t &= \text{momentum} \cdot b_{t-1} + (1 - \text{dampening}) \cdot g_t
            \qquad (b_1 = g_1) \\
        d_t &= g_t + \text{momentum} \cdot b_t \text{ if nesterov, else } b_t \\
        \theta_t &= \theta_{t-1} - \text{lr} \cdot d_t

    Without momentum :math:`d_t = g_t`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0; a float or a tensor of one element.
        momentum: >= 0.
        dampening: part of the new gradient kept out of the momentum, from the second step on.
        weight_decay: factor of the L2 penalty, >= 0.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening 0.
        maximize: climb instead of descend: the gradient's sign is changed first.
        foreach, fused: choices between PyTorch's implementations; accepted, no effect.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``momentum_buffer``, :math:`b_t`, shape and dtype of the parameter;
    only when momentum is not 0, from the first step with a gradient on.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", equations 1 to 4, in PyTorch's form: lr multiplies :math:`b_t` and is not part of it.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.8
    """

    _state_like_param = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, came shape {tuple(lr.shape)}")
        if not as_float(lr) >= 0.0:  # "not >=" also refuses NaN
            raise ValueError(f"Invalid learning rate: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if not as_float(weight_decay) >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening, came "
                f"momentum={momentum}, dampening={dampening}"
            )
        check_implementation_flags("SGD", foreach, fused, differentiable)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
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
        sgd_step = backend.get().sgd_step
        for group in self.param_groups:
            lr = as_float(group["lr"])
            momentum = as_float(group["momentum"])
            dampening = as_float(group["dampening"])
            weight_decay = as_float(group["weight_decay"])
            nesterov, maximize = group["nesterov"], group["maximize"]
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                array, g = p._array, grad._array
                if array.shape != g.shape or array.dtype != g.dtype:
                    raise self._misfit(p, grad)
                buffer, first = self._buffer(p) if momentum else (None, False)
                sgd_step(
                    array,
                    g,
                    buffer,
                    lr=lr,
                    momentum=momentum,
                    dampening=dampening,
                    weight_decay=weight_decay,
                    nesterov=nesterov,
                    maximize=maximize,
                    first=first,
                )
                p._bump_version()
        return loss

    def _buffer(self, p: Tensor) -> tuple[np.ndarray, bool]:
        """The momentum buffer of `p`, and whether it is new (its content then is undefined)."""
        values = self.state[p]
        held = values.get("momentum_buffer")
        if held is not None:
            return held._array, False
        held = values["momentum_buffer"] = Tensor(np.empty_like(p._array))
        return held._array, True
