"""Random tensors of the usual kinds, and the state of the stream that they come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, dtypes, random
from ..errors import ShapeError, Unsupported
from .creation import dtype_like
from .filling import draw
from .tensor import Tensor
from .values import dtype_or_default, shape_of

__all__ = [
    "get_rng_state",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "set_rng_state",
]


def _stream(generator: random.Generator | None) -> np.random.Generator:
    return (generator or random.default_generator()).numpy


def _drawn(
    name: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], generator: Any, device: Any
) -> Any:
    if dtype.kind in "iub":
        raise Unsupported(f"{name}: expected a floating or complex dtype, came {dtype}")
    return draw(kind, shape, dtype, generator, devices.index_of(device))


def rand(
    *sizes: Any,
    size: Any = None,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1); a GPU draws its own."""
    shape, to = shape_of("rand", sizes, size), dtype_or_default(dtype)
    return Tensor(_drawn("rand", "uniform", shape, to, generator, device), requires_grad)


def randn(
    *sizes: Any,
    size: Any = None,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normally distributed numbers of mean 0 and variance 1; a GPU draws its own."""
    shape, to = shape_of("randn", sizes, size), dtype_or_default(dtype)
    return Tensor(_drawn("randn", "normal", shape, to, generator, device), requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform integers in [low, high); ``randint(high, size)`` starts at 0.

    Raises:
        RuntimeError: no integer lies in between.
    """
    index = devices.index_of(device)
    if isinstance(high, list | tuple):
        high, size = None, high
    if high is None:
        low, high = 0, low
    if size is None:
        raise TypeError("randint: expected a size")
    if low >= high:
        raise ShapeError(f"randint: expected low < high, came {low} and {high}")
    to = dtypes.int64.numpy if dtype is None else dtypes.to_numpy(dtype)
    shape = shape_of("randint", (tuple(size),))
    if index is not None:
        there = devices.generator_of(index, generator).integers(low, high, shape)
        return Tensor(there.astype(to, copy=False), requires_grad)
    numbers = _stream(generator).integers(low, high, shape)
    return Tensor(np.asarray(numbers).astype(to), requires_grad)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """`randint` in the shape and dtype of `input`; ``randint_like(input, high)`` starts at 0."""
    bounds = (0, low) if high is None else (low, high)
    to = dtype_like(input, dtype)
    place = input.device if device is None else device
    return randint(*bounds, tuple(input.shape), dtype=to, device=place)


def randperm(
    n: int,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The integers 0 to n-1 in random order."""
    index = devices.index_of(device)
    if n < 0:
        raise ShapeError(f"randperm: expected 0 or more, came {n}")
    to = dtypes.int64.numpy if dtype is None else dtypes.to_numpy(dtype)
    if index is not None:
        there = devices.generator_of(index, generator).permutation(n)
        return Tensor(there.astype(to, copy=False), requires_grad)
    return Tensor(_stream(generator).permutation(n).astype(to), requires_grad)


def rand_like(
    input: Tensor,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`rand` in the shape and dtype of `input`."""
    return rand(
        tuple(input.shape),
        generator=generator,
        dtype=dtype_like(input, dtype),
        device=input.device if device is None else device,
        requires_grad=requires_grad,
    )


def randn_like(
    input: Tensor,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`randn` in the shape and dtype of `input`."""
    return randn(
        tuple(input.shape),
        generator=generator,
        dtype=dtype_like(input, dtype),
        device=input.device if device is None else device,
        requires_grad=requires_grad,
    )


def get_rng_state() -> Tensor:
    """The position of this thread's random stream, as a uint8 tensor."""
    return Tensor(random.default_generator().get_state())


def set_rng_state(new_state: Tensor) -> None:
    """Return this thread's random stream to a position that `get_rng_state` gave.

    Raises:
        CheckpointError: `new_state` came from elsewhere.
    """
    random.default_generator().set_state(new_state.numpy())
