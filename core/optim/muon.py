"""Muon. The update itself is the kernel ``muon_step``."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from ..errors import OptionError
from ..tensors import Tensor
from .checks import as_float
from .kernel import KernelOptimizer, Update, numbers, zeros_like
from .optimizer import Params

_ADJUSTMENTS = ("original", "match_rms_adamw")
_MOST_STEPS = 100


class Muon(KernelOptimizer):
    r"""Muon: momentum whose matrix is made orthogonal before it is applied. For 2-D parameters.

    .. math::
        b_t &= \text{momentum} \cdot b_{t-1} + (1 - \text{momentum}) g_t, \quad
            u_t = \text{momentum} \cdot b_t + (1 - \text{momentum}) g_t
            \text{ if nesterov, else } b_t \\
        \theta_t &= (1 - \text{lr} \cdot \text{weight\_decay}) \theta_{t-1}
            - \gamma \cdot \text{NewtonSchulz}(u_t)

    Give it the matrices of the hidden layers, and embeddings, heads and vectors to `AdamW`.

    Args:
        params: tensors of two dimensions, (name, tensor) pairs, or dicts of groups.
        lr: learning rate, >= 0.
        weight_decay: factor of the parameter's shrinking, >= 0.
        momentum: in [0, 1).
        nesterov: look ahead along the momentum.
        ns_coefficients: of the polynomial :math:`a x + b x^3 + c x^5` that is iterated.
        eps: lower bound of the norm divided by before the iteration.
        ns_steps: number of iterations, below 100.
        adjust_lr_fn: None or "original": :math:`\gamma = \text{lr} \sqrt{\max(1, rows/columns)}`;
            "match_rms_adamw": :math:`\gamma = 0.2\, \text{lr} \sqrt{\max(rows, columns)}`, so
            that rates and weight decays of AdamW fit.

    Raises:
        ValueError: a setting is out of range.
        ShapeError, DtypeError: (in `step`) a gradient does not fit its parameter.

    State per parameter: ``momentum_buffer``, :math:`b_t`.

    The iteration is computed in the parameter's dtype (at least float32); PyTorch rounds it to
    bfloat16, so its updates differ by about 1 %.

    Source: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al.
    2025, "Muon is scalable for LLM training" (match_rms_adamw, weight decay).

    >>> from allgrad import optim, tensor
    >>> w = tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> optimizer = optim.Muon([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> bool(w[0, 0].item() < 2.95)
    True
    """

    _state_like_param = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, came shape {tuple(lr.shape)}")
        if not as_float(lr) >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn is not None and adjust_lr_fn not in _ADJUSTMENTS:
            raise OptionError(
                f"Adjust learning rate function {adjust_lr_fn} is not supported; known: "
                f"{', '.join(_ADJUSTMENTS)}"
            )
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        "Muon only supports 2D parameters whereas we found a parameter with size: "
                        f"{tuple(p.shape)}; give the others to another optimizer"
                    )

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if p._array.dtype.kind == "c":
            raise RuntimeError("Muon does not support complex parameters")
        return {"momentum_buffer": zeros_like(p)}

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        return tuple(p.shape)

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        rows, columns = clock
        if group["ns_steps"] >= _MOST_STEPS:
            raise ValueError(
                f"Muon: expected ns_steps below {_MOST_STEPS}, came {group['ns_steps']}"
            )
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1.0, rows / columns)) if columns else 1.0
        settings = {
            **numbers(group, "lr", "weight_decay", "momentum", "eps"),
            "nesterov": group["nesterov"],
            "coefficients": tuple(as_float(c) for c in group["ns_coefficients"]),
            "steps": group["ns_steps"],
        }
        settings["adjusted_lr"] = settings["lr"] * ratio
        return Update("muon_step", ("momentum_buffer",), settings)
