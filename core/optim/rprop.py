"""Rprop. The update itself is the kernel ``rprop_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..tensors import Tensor
from .checks import as_float, check_implementation_flags, check_lr
from .kernel import KernelOptimizer, Update, scalar, zeros_like
from .optimizer import Params


class Rprop(KernelOptimizer):
    r"""Resilient propagation: step sizes of their own for all elements; only signs count.

    A step size is multiplied by the second of `etas` while the gradient keeps its sign and by the
    first when the sign changes (and that gradient is then ignored once). For whole batches.

    .. math::
        s_t = \min(\max(s_{t-1} \cdot \{\eta^+, \eta^-, 1\}, s_{min}), s_{max}), \quad
        \theta_t = \theta_{t-1} - \operatorname{sign}(g_t) \cdot s_t

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: :math:`s_0`, >= 0; a float or a tensor of one element.
        etas: :math:`(\eta^-, \eta^+)`, 0 < the first < 1 < the second.
        step_sizes: :math:`(s_{min}, s_{max})`.
        capturable, foreach: choices between PyTorch's implementations; accepted, no effect.
        maximize: climb instead of descend: the gradient's sign is changed first.
        differentiable: must be False.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``step``; ``prev``, the last gradient; ``step_size``, :math:`s_t`.

    Source: Riedmiller and Braun 1993, "A direct adaptive method for faster backpropagation
    learning: the RPROP algorithm".

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Rprop([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    _state_like_param = ("prev", "step_size")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        check_implementation_flags("Rprop", foreach, None, differentiable)
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        start = as_float(group["lr"])
        if p._array.dtype.kind == "c":
            start = complex(start, start)  # type: ignore[assignment]
        return {
            "step": scalar(0),
            "prev": zeros_like(p),
            "step_size": Tensor(np.full_like(p._array, start)),
        }

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        super()._tick(p, values, group)
        return None  # no number depends on the count

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        (minus, plus), (least, most) = group["etas"], group["step_sizes"]
        settings = {
            "eta_minus": as_float(minus),
            "eta_plus": as_float(plus),
            "step_size_min": as_float(least),
            "step_size_max": as_float(most),
            "maximize": group["maximize"],
        }
        return Update("rprop_step", ("prev", "step_size"), settings)
