"""Adafactor. The update itself is the kernel ``adafactor_step``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..tensors import Tensor
from .checks import as_float, check_implementation_flags
from .kernel import KernelOptimizer, Update, numbers, scalar, zeros_like
from .optimizer import Params


class Adafactor(KernelOptimizer):
    r"""Adafactor: of the squared gradients of a matrix only the means of rows and columns are kept.

    .. math::
        \rho_t &= \min(\text{lr}, 1/\sqrt t), \quad
            \alpha_t = \max(\epsilon_2, \text{RMS}(\theta_{t-1})) \rho_t, \quad
            \beta_t = 1 - t^{\text{beta2\_decay}} \\
        R_t &= \beta_t R_{t-1} + (1 - \beta_t) \operatorname{mean}_{cols}(g_t^2), \quad
            C_t = \beta_t C_{t-1} + (1 - \beta_t) \operatorname{mean}_{rows}(g_t^2) \\
        \hat v_t &= R_t C_t / \max(\operatorname{mean}(R_t), \epsilon_1), \quad
            u_t = g_t / \sqrt{\max(\hat v_t, \epsilon_1^2)} \\
        \theta_t &= (1 - \text{lr} \cdot \text{weight\_decay}) \theta_{t-1}
            - \alpha_t u_t / \max(1, \text{RMS}(u_t) / d)

    A parameter of fewer than two dimensions keeps the running mean of all its squares instead.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of groups.
        lr: upper bound of the relative step size, >= 0; a float or a tensor of one element.
        beta2_decay: the power in :math:`\beta_t`, <= 0.
        eps: :math:`(\epsilon_1, \epsilon_2)`; the first None means the resolution of the dtype.
        d: threshold of the update's root mean square, >= 1.
        weight_decay: factor of the parameter's shrinking, >= 0.
        foreach: choice between PyTorch's implementations; accepted, no effect.
        maximize: climb instead of descend.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.
        RuntimeError: (in `step`) a parameter is complex.

    State per parameter: ``step``; ``row_var`` and ``col_var``, :math:`R_t, C_t`, size 1 along the
    last and the last but one dimension; or ``variance``.

    Source: Shazeer and Stern 2018, "Adafactor: Adaptive learning rates with sublinear memory
    cost", algorithms 4 and 5, with PyTorch's handling of lr.

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adafactor([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.9
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, came shape {tuple(lr.shape)}")
        if not as_float(lr) >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        check_implementation_flags("Adafactor", foreach, None, False)
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        array = p._array
        if array.dtype.kind == "c":
            raise RuntimeError("Adafactor does not support complex parameters")
        if array.ndim < 2:
            return {"step": scalar(0), "variance": zeros_like(p)}
        rows, columns = array.shape[-2:]
        return {
            "step": scalar(0),
            "row_var": Tensor(np.zeros_like(array, shape=(*array.shape[:-2], rows, 1))),
            "col_var": Tensor(np.zeros_like(array, shape=(*array.shape[:-2], 1, columns))),
        }

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        step = super()._tick(p, values, group)
        return step, "row_var" in values, str(p.dtype)

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        step, factored, dtype = clock
        eps1, eps2 = group["eps"]
        settings = {
            "step": step,
            **numbers(group, "lr", "beta2_decay", "d", "weight_decay"),
            "eps1": _resolution(dtype) if eps1 is None else as_float(eps1),
            "eps2": as_float(eps2),
            "maximize": group["maximize"],
        }
        state = ("row_var", "col_var", None) if factored else (None, None, "variance")
        return Update("adafactor_step", state, settings)


def _resolution(dtype: str) -> float:
    name = dtype.rpartition(".")[2]
    return 2.0**-7 if name == "bfloat16" else float(np.finfo(name).eps)
