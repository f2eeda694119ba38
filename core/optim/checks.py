"""Checks of settings that many optimizers share; PyTorch's exception types and wording."""

from __future__ import annotations

from typing import Any

from ..errors import OptionError
from ..tensors import Tensor


def as_float(value: Any) -> float:
    """A setting as a Python float; it may be given as a tensor of one element."""
    return value if type(value) is float else float(value)


def check_lr(lr: float | Tensor) -> None:
    """Refuse a learning rate that is negative, NaN or a tensor of several elements.

    Raises:
        ValueError: one of these.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, came shape {tuple(lr.shape)}")
    check_not_negative("learning rate", lr)


def check_not_negative(what: str, value: float | Tensor) -> None:
    """Refuse a `value` that is negative or NaN, with a ValueError that calls it `what`."""
    if not as_float(value) >= 0.0:  # "not >=" also refuses NaN
        raise ValueError(f"Invalid {what}: {value}")


def check_betas(betas: tuple[float | Tensor, float | Tensor]) -> tuple[float, float]:
    """The two decay rates as floats; ValueError unless both are in [0, 1)."""
    first, second = (as_float(beta) for beta in betas)
    for i, beta in enumerate((first, second)):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    return first, second


def check_implementation_flags(
    name: str, foreach: bool | None, fused: bool | None, differentiable: bool
) -> None:
    """Accept PyTorch's choices between its implementations; allgrad has one.

    Raises:
        RuntimeError: `foreach` and `fused` together, as PyTorch.
        OptionError: `differentiable`, which would have to change the result.
    """
    if foreach and fused:
        raise RuntimeError(f"{name}: `fused` and `foreach` cannot be `True` together.")
    if differentiable:
        raise OptionError(
            f"{name}: differentiable=True is not available: step() changes the parameters in "
            "place and is not recorded by autograd. Leave it False"
        )
