"""Negative log-likelihoods of counts and of normally distributed values. Compositions."""

from __future__ import annotations

import math

import numpy as np

from ...autograd import no_grad
from ...backend.arrays import on_device
from ...errors import ArgumentError
from ...tensors import Tensor
from ...tensors.arithmetic import where
from ...tensors.autocasting import widens
from .checks import need_fit, need_floating, reduced, reduction_of

Flag = bool | None


@widens
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Flag = None,
    eps: float = 1e-8,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of counts under a Poisson distribution, reduced.

    Args:
        input: the logarithm of the rate, or with ``log_input=False`` the rate.
        target: the counts.
        full: add Stirling's approximation of log(target!) for counts above 1.
        eps: added to the rate before its logarithm is taken.
    """
    name = "poisson_nll_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_floating(name, input)
    need_fit(name, input, target)
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        large = where(target > 1, target, 1)
        stirling = large * large.log() - large + 0.5 * (2 * math.pi * large).log()
        loss = loss + where(target > 1, stirling, 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """0.5 * (log var + (input - target)**2 / var), reduced (Nix & Weigend 1994).

    Args:
        input: expectations.
        target: observations.
        var: variances: a number, of the shape of `input`, or with one
            dimension of size 1, or without the last one.
        full: add the constant 0.5 * log(2 pi).
        eps: least variance, whose clamping has no gradient.

    Raises:
        ValueError: `var` has another shape or a negative element (not looked for on a GPU), or
            an unknown reduction.
    """
    name = "gaussian_nll_loss"
    spread = _spread(name, input, var)
    shape = input._array.shape
    found = spread._array.shape
    if found != shape:
        if found == shape[:-1]:
            spread = spread.unsqueeze(-1)
        elif not _one_differs(shape, found):
            raise ArgumentError(f"{name}: var of shape {found} does not fit input {shape}")
    reduction = reduction_of(name, reduction)
    values = spread._array
    if values.size and not on_device(values) and values.min() < 0:
        raise ArgumentError(f"{name}: var has a negative entry, {values.min()}")
    need_fit(name, input, target)
    spread = spread.clone()
    with no_grad():
        spread.clamp_(min=eps)
    difference = input - target
    loss = 0.5 * (spread.log() + difference * difference / spread)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


def _spread(name: str, input: Tensor, var: Tensor | float) -> Tensor:
    """The variance as a tensor."""
    if isinstance(var, Tensor):
        return var
    if var < 0:
        raise ArgumentError(f"{name}: var has a negative entry, {var}")
    return Tensor(
        np.full_like(input._array, var, input._array.dtype, shape=input._array.shape, order="C")
    )


def _one_differs(shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether `found` is `shape` with one of its sizes replaced by 1."""
    if len(shape) != len(found):
        return False
    return [b for a, b in zip(shape, found, strict=True) if a != b] == [1]
