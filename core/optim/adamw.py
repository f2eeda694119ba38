"""AdamW: Adam whose weight decay acts on the parameter, not through the gradient."""

from __future__ import annotations

from typing import Any

from ..tensors import Tensor
from .adam import Adam
from .optimizer import Params


class AdamW(Adam):
    r"""Adam with decoupled weight decay.

    .. math::
        \theta_{t-1} \leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta_{t-1}

    before the step that `Adam` makes without weight decay.

    Args:
        params, lr, betas, eps, amsgrad, maximize, foreach, capturable, differentiable, fused:
            as `Adam`.
        weight_decay: factor of the shrinking, >= 0; 0.01 by default.

    Raises:
        ValueError, ShapeError, DtypeError: as `Adam`.

    State per parameter: as `Adam`.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2
    (with lr as the schedule multiplier, as PyTorch).

    >>> from allgrad import optim, tensor
    >>> w = tensor([1.0], requires_grad=True)
    >>> optimizer = optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 3)
    0.85
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `Optimizer.load_state_dict`; the weight decay stays decoupled whatever was saved."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
