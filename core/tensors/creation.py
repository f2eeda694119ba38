"""Functions that make tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import devices, dtypes, random
from ..errors import ArgumentError, DtypeError
from .filling import draw
from .shaping import sizes_of
from .tensor import Tensor

__all__ = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "get_rng_state",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "set_rng_state",
    "tensor",
    "zeros",
    "zeros_like",
]


def _dtype(dtype: Any) -> np.dtype[Any]:
    return dtypes.get_default_dtype().numpy if dtype is None else dtypes.to_numpy(dtype)


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of `data`: numbers, nested lists, NumPy arrays or tensors.

    Args:
        data: Python floats give the default dtype, integers int64, bools bool; arrays keep
            their dtype.
        dtype: type of the elements instead.
        requires_grad: whether `backward` computes its gradient.

    Raises:
        ValueError: lists of unequal lengths.
        TypeError: elements that are not numbers.

    >>> tensor([[1, 2], [3, 4]]).dtype
    allgrad.int64
    """
    devices.require(device)
    array = _array_of(data, dtype)
    return Tensor(np.array(array, order="C"), requires_grad)


def _array_of(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, Tensor):
        array = data._array
    elif isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
    else:
        array = _from_nested(data)
    return array if dtype is None else array.astype(dtypes.to_numpy(dtype), copy=False)


def _from_nested(data: Any) -> np.ndarray:
    if isinstance(data, list | tuple) and data and isinstance(data[0], Tensor | np.ndarray):
        return np.stack([_array_of(d, None) for d in data])
    try:
        array = np.asarray(data)
    except ValueError as err:
        raise ValueError(f"tensor: expected nested lists of equal lengths ({err})") from err
    if array.dtype == object or array.dtype.kind in "US":
        raise TypeError(f"tensor: expected numbers, came {type(data).__name__} of {array.dtype}")
    if array.size == 0 and isinstance(data, list | tuple):
        return array.astype(dtypes.get_default_dtype().numpy)
    kind = array.dtype.kind
    if kind in dtypes.FLOATING and not _holds_numpy(data):
        return array.astype(dtypes.get_default_dtype().numpy)
    if kind == "c" and not _holds_numpy(data):
        return array.astype(dtypes.scalar_dtype(1j))
    return array


def _holds_numpy(data: Any) -> bool:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, np.generic)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Like `tensor`, but without a copy where memory can be shared."""
    devices.require(device)
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    if isinstance(data, np.ndarray):
        return from_numpy(data) if dtype is None else from_numpy(_array_of(data, dtype))
    return tensor(data, dtype=dtype)


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array.

    Raises:
        TypeError: not an array.
        DtypeError: a dtype that tensors do not have.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, came {type(ndarray).__name__}")
    if not ndarray.dtype.isnative:
        raise DtypeError(f"from_numpy: expected native byte order, came {ndarray.dtype!r}")
    dtypes.from_numpy(ndarray.dtype)
    out = Tensor(ndarray)
    out._exposed = True
    return out


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape, given as arguments or as one sequence."""
    devices.require(device)
    return Tensor(np.zeros(sizes_of(size), _dtype(dtype)), requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape, given as arguments or as one sequence."""
    devices.require(device)
    return Tensor(np.ones(sizes_of(size), _dtype(dtype)), requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory with arbitrary contents."""
    devices.require(device)
    return Tensor(np.empty(sizes_of(size), _dtype(dtype)), requires_grad)


def full(
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` everywhere; its type gives the dtype unless told otherwise."""
    devices.require(device)
    to = dtypes.scalar_dtype(fill_value) if dtype is None else dtypes.to_numpy(dtype)
    return Tensor(np.full(tuple(size), fill_value, to), requires_grad)


def _like(input: Tensor, dtype: Any) -> np.dtype[Any]:
    return input._array.dtype if dtype is None else dtypes.to_numpy(dtype)


def zeros_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros in the shape and dtype of `input`."""
    return Tensor(np.zeros(input._array.shape, _like(input, dtype)), requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape and dtype of `input`."""
    return Tensor(np.ones(input._array.shape, _like(input, dtype)), requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Memory in the shape and dtype of `input`, contents arbitrary."""
    return Tensor(np.empty(input._array.shape, _like(input, dtype)), requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """`fill_value` in the shape and dtype of `input`."""
    return Tensor(np.full(input._array.shape, fill_value, _like(input, dtype)), requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Numbers from `start` (0 if only one is given) up to but not including `end`."""
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ArgumentError("arange: step must not be 0")
    if dtype is None:
        floating = any(isinstance(v, float | np.floating) for v in (start, end, step))
        dtype = dtypes.get_default_dtype() if floating else dtypes.int64
    return Tensor(np.arange(start, end, step).astype(dtypes.to_numpy(dtype)), requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, at equal distances."""
    return Tensor(np.linspace(start, end, steps, dtype=_dtype(dtype)), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """An n by m matrix with ones on the diagonal."""
    return Tensor(np.eye(n, m, dtype=_dtype(dtype)), requires_grad)


def _stream(generator: random.Generator | None) -> np.random.Generator:
    return (generator or random.default_generator()).numpy


def rand(
    *size: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return Tensor(draw("uniform", sizes_of(size), _dtype(dtype), generator), requires_grad)


def randn(
    *size: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normally distributed numbers of mean 0 and variance 1."""
    return Tensor(draw("normal", sizes_of(size), _dtype(dtype), generator), requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
) -> Tensor:
    """Uniform integers in [low, high); ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    to = dtypes.int64.numpy if dtype is None else dtypes.to_numpy(dtype)
    return Tensor(np.asarray(_stream(generator).integers(low, high, tuple(size))).astype(to))


def randperm(n: int, *, generator: random.Generator | None = None, dtype: Any = None) -> Tensor:
    """The integers 0 to n-1 in random order."""
    to = dtypes.int64.numpy if dtype is None else dtypes.to_numpy(dtype)
    return Tensor(_stream(generator).permutation(n).astype(to))


def get_rng_state() -> Tensor:
    """The position of this thread's random stream, as a uint8 tensor."""
    return Tensor(random.default_generator().get_state())


def set_rng_state(new_state: Tensor) -> None:
    """Return this thread's random stream to a position that `get_rng_state` gave.

    Raises:
        CheckpointError: `new_state` came from elsewhere.
    """
    random.default_generator().set_state(new_state.numpy())


def rand_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`rand` in the shape and dtype of `input`."""
    return rand(tuple(input.shape), dtype=_like(input, dtype), requires_grad=requires_grad)


def randn_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`randn` in the shape and dtype of `input`."""
    return randn(tuple(input.shape), dtype=_like(input, dtype), requires_grad=requires_grad)
