"""Moving an optimizer's momentum, or Adam's first beta, along with the rate."""

from __future__ import annotations

from typing import Any

from ..optimizer import Optimizer


def cycles_beta1(optimizer: Optimizer) -> bool:
    """Whether the first beta stands for the momentum.

    Raises:
        ValueError: the optimizer has neither.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(
            "optimizer must support momentum or beta1 with `cycle_momentum` option enabled; "
            f"{type(optimizer).__name__} has {sorted(optimizer.defaults)}"
        )
    return "betas" in optimizer.defaults


def set_momentum(group: dict[str, Any], use_beta1: bool, value: float) -> None:
    """Set the momentum of `group`, or its first beta."""
    if use_beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
