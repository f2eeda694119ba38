"""Random numbers: functions that draw them, and methods that fill a tensor with them.

Every function takes `generator`, a `random.Generator`; None is the one of this thread, for a tensor
on a GPU that of the GPU. There, weights and probabilities are not looked at, which would wait for
the device: impossible ones give meaningless numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import devices, dtypes, random
from ..backend.arrays import by_host, index_of, on_device
from ..errors import DtypeError, ShapeError
from .filling import draw
from .graph import TensorBase
from .inplace import check_in_place

__all__ = ["bernoulli", "binomial", "multinomial", "normal", "poisson"]


def _stream(generator: random.Generator | None) -> np.random.Generator:
    return (generator or random.default_generator()).numpy


def uniform_beside(
    array: Any, shape: tuple[int, ...], generator: random.Generator | None = None
) -> Any:
    """Uniform numbers in [0, 1) where `array` lies: float64, beside a GPU's float32 float32."""
    index = index_of(array)
    if index is None:
        return _stream(generator).random(shape)
    to = np.float64 if array.dtype.itemsize > 4 else np.float32
    return devices.generator_of(index, generator).uniform(shape, to)


def _floating(name: str, t: Any) -> None:
    if t._array.dtype.kind not in dtypes.FLOATING:
        raise DtypeError(f"{name}: expected a floating point tensor, came {t.dtype}")


def _need(holds: Any, name: str, expected: str, came: Any) -> None:
    """Raise unless the numbers of a distribution are possible ones (nan is not)."""
    if not holds:
        raise ShapeError(f"{name}: expected {expected}, came {came}")


def _probabilities(name: str, p: Any) -> Any:
    array = p._array if isinstance(p, TensorBase) else np.asarray(p, np.float64)
    if on_device(array):
        return array
    _need(((array >= 0) & (array <= 1)).all(), name, "probabilities within 0..1", array.tolist())
    return array if array.ndim else float(array)


def bernoulli(
    input: Any, p: float | None = None, *, generator: random.Generator | None = None
) -> Any:
    """1 with the probability that each element gives (or with `p` for all), else 0.

    Args:
        input: probabilities within 0..1; with `p`, only its shape and dtype count.
        p: one probability for all elements.
        generator: where the numbers come from.

    Raises:
        RuntimeError: integers without `p`, or a probability outside 0..1.
    """
    if p is None:
        _floating("bernoulli", input)
    chances = _probabilities("bernoulli", input if p is None else p)
    hits = uniform_beside(input._array, input._array.shape, generator) < chances
    return input._new(hits.astype(input._array.dtype))


def multinomial(
    input: Any,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Any:
    """Indices drawn with the given weights, int64.

    Without replacement, an index of weight w gets the number e / w, e exponentially distributed,
    and the smallest numbers win (Efraimidis & Spirakis 2006).

    Args:
        input: (C,) or (N, C) weights >= 0, not all of a row 0; they need not sum to 1.
        num_samples: how many indices per row.
        replacement: whether an index may be drawn again.
        generator: where the numbers come from.

    Returns:
        (num_samples,) or (N, num_samples).

    Raises:
        RuntimeError: integers, other shapes, impossible weights or too many samples.
    """
    weights = input._array
    _floating("multinomial", input)
    _need(weights.ndim in (1, 2), "multinomial", "(C,) or (N, C)", tuple(input.shape))
    _need(num_samples > 0, "multinomial", "num_samples > 0", num_samples)
    rows = np.atleast_2d(weights).astype(np.float64)
    if not on_device(rows):
        possible = np.isfinite(rows).all() and (rows >= 0).all() and (rows.sum(axis=1) > 0).all()
        _need(possible, "multinomial", "weights >= 0 with a positive sum", "others")
    classes = rows.shape[1]
    if replacement:
        bounds = np.cumsum(rows, axis=1)
        targets = uniform_beside(rows, (len(rows), num_samples), generator) * bounds[:, -1:]
        drawn = np.stack(
            [np.searchsorted(b, t, side="right") for b, t in zip(bounds, targets, strict=True)]
        )
    else:
        _need(num_samples <= classes, "multinomial", f"at most {classes} samples", num_samples)
        with np.errstate(divide="ignore"):
            drawn = np.argsort(_exponential(rows, generator) / rows, axis=1)
        drawn = drawn[:, :num_samples]
    return input._new((drawn if weights.ndim == 2 else drawn[0]).astype(np.int64))


def _exponential(rows: Any, generator: random.Generator | None) -> Any:
    if on_device(rows):
        return -np.log(1 - uniform_beside(rows, rows.shape, generator))
    return _stream(generator).standard_exponential(rows.shape)


def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    requires_grad: bool = False,
) -> Any:
    """Normally distributed numbers.

    Args:
        mean, std: tensors, broadcast, or numbers; with two numbers `size` gives the shape.
        size: the shape.
        generator: where the numbers come from.
        dtype: with two numbers, the type of the result; the default floating type if left out.
        requires_grad: with two numbers, whether the result requires grad.

    Raises:
        RuntimeError: a negative `std`, shapes that do not broadcast.
        TypeError: two numbers without `size`, or a tensor with it.
    """
    from .tensor import Tensor  # noqa: PLC0415 - tensor.py imports the methods below

    tensors = [v for v in (mean, std) if isinstance(v, TensorBase)]
    spread = std._array if isinstance(std, TensorBase) else np.asarray(std)
    if not on_device(spread):
        _need((spread >= 0).all(), "normal", "std >= 0", spread.tolist())
    if (size is None) != bool(tensors):
        raise TypeError("normal(): expected a size beside two numbers, and none beside a tensor")
    if not tensors:
        to = dtypes.get_default_dtype().numpy if dtype is None else dtypes.to_numpy(dtype)
        return Tensor(draw("normal", tuple(size), to, generator) * to.type(std) + to.type(mean),
                      requires_grad)  # fmt: skip
    to = tensors[0]._array.dtype
    centre = mean._array if isinstance(mean, TensorBase) else np.asarray(mean)
    try:
        shape = np.broadcast_shapes(centre.shape, spread.shape)
    except ValueError as err:
        raise ShapeError(
            f"normal: shapes {centre.shape} and {spread.shape} do not broadcast"
        ) from err
    index = index_of(tensors[0]._array)
    factor, offset = (v._array if isinstance(v, TensorBase) else v for v in (std, mean))
    numbers = draw("normal", shape, to, generator, index) * factor + offset
    return tensors[0]._new(numbers.astype(to, copy=False))


def poisson(input: Any, generator: random.Generator | None = None) -> Any:
    """Poisson distributed numbers with the rates of `input`, in its dtype.

    Raises:
        RuntimeError: integers, or a negative rate.
    """
    _floating("poisson", input)
    rates = input._array
    if not on_device(rates):
        _need((rates >= 0).all(), "poisson", "rates >= 0", "a negative one")
    numbers = by_host("poisson", _array_of(_stream(generator).poisson), rates.astype(np.float64))
    return input._new(numbers.astype(rates.dtype))


def binomial(count: Any, prob: Any, generator: random.Generator | None = None) -> Any:
    """How many of `count` trials succeed, each with probability `prob`; broadcast.

    Raises:
        RuntimeError: integers, or a probability outside 0..1.
    """
    _floating("binomial", count)
    chances = np.multiply(_probabilities("binomial", prob), 1.0, dtype=np.float64)
    trials = count._array.astype(np.int64)
    numbers = by_host("binomial", _array_of(_stream(generator).binomial), trials, chances)
    return count._new(numbers.astype(count._array.dtype))


def _array_of(function: Any) -> Any:
    """`function` with an array as result, also for a single number."""
    return lambda *values: np.asarray(function(*values))


def _open(self: Any, generator: random.Generator | None) -> Any:
    """Uniform numbers in (0, 1], of which a logarithm can be taken."""
    return 1 - uniform_beside(self._array, self._array.shape, generator)


def _fill(self: Any, numbers: Any) -> Any:
    numbers = numbers if on_device(numbers) else np.asarray(numbers)
    return self.copy_(self._new(numbers.astype(self._array.dtype, copy=False)))


class SamplingMethods(TensorBase):
    """Methods of Tensor that draw random numbers."""

    bernoulli, multinomial = bernoulli, multinomial

    def normal_(self: Any, mean: float = 0, std: float = 1, *, generator: Any = None) -> Any:
        """Fill with normally distributed numbers; returns self."""
        check_in_place(self, "normal_")
        _need(std >= 0, "normal_", "std >= 0", std)
        if self._array.dtype.kind not in dtypes.DIFFERENTIABLE:
            _floating("normal_", self)
        place = index_of(self._array)
        numbers = draw("normal", self._array.shape, self._array.dtype, generator, place)
        numbers *= std
        numbers += mean
        return self.copy_(self._new(numbers))

    def uniform_(
        self: Any, a: float = 0, b: float = 1, *, generator: Any = None, **ends: Any
    ) -> Any:
        """Fill with uniform numbers in [a, b), PyTorch's ``from`` and ``to``; returns self."""
        check_in_place(self, "uniform_")
        a, b = ends.pop("from", a), ends.pop("to", b)
        if ends:
            raise TypeError(f"uniform_(): unexpected arguments {sorted(ends)}")
        _need(a <= b, "uniform_", "bounds in order", f"{a} and {b}")
        if self._array.dtype.kind not in dtypes.DIFFERENTIABLE:
            _floating("uniform_", self)
        place = index_of(self._array)
        numbers = draw("uniform", self._array.shape, self._array.dtype, generator, place)
        numbers *= b - a
        numbers += a
        return self.copy_(self._new(numbers))

    def bernoulli_(self: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
        """Fill with 1 (probability p, a number or a tensor) and 0; returns self."""
        check_in_place(self, "bernoulli_")
        chances = _probabilities("bernoulli_", p)
        return _fill(self, uniform_beside(self._array, self._array.shape, generator) < chances)

    def exponential_(self: Any, lambd: float = 1, *, generator: Any = None) -> Any:
        """Fill with exponentially distributed numbers of rate `lambd`; returns self."""
        check_in_place(self, "exponential_")
        _floating("exponential_", self)
        _need(lambd > 0, "exponential_", "lambd > 0", lambd)
        return _fill(self, -np.log(_open(self, generator)) / lambd)

    def log_normal_(self: Any, mean: float = 1, std: float = 2, *, generator: Any = None) -> Any:
        """Fill with numbers whose logarithm is normally distributed; returns self."""
        check_in_place(self, "log_normal_")
        _floating("log_normal_", self)
        _need(std > 0, "log_normal_", "std > 0", std)
        index = index_of(self._array)
        if index is None:
            return _fill(self, _stream(generator).lognormal(mean, std, self._array.shape))
        numbers = draw("normal", self._array.shape, self._array.dtype, generator, index)
        return _fill(self, np.exp(numbers * std + mean))

    def cauchy_(self: Any, median: float = 0, sigma: float = 1, *, generator: Any = None) -> Any:
        """Fill with Cauchy distributed numbers; returns self."""
        check_in_place(self, "cauchy_")
        _floating("cauchy_", self)
        _need(sigma > 0, "cauchy_", "sigma > 0", sigma)
        turns = uniform_beside(self._array, self._array.shape, generator) - 0.5
        return _fill(self, median + sigma * np.tan(np.pi * turns))

    def geometric_(self: Any, p: float, *, generator: Any = None) -> Any:
        """Fill with the number of trials up to the first success; returns self."""
        check_in_place(self, "geometric_")
        _need(0 < p < 1, "geometric_", "p within 0..1, both excluded", p)
        if on_device(self._array):
            trials = np.floor(np.log(_open(self, generator)) / math.log1p(-p)) + 1
            return _fill(self, trials)
        return _fill(self, _stream(generator).geometric(p, self._array.shape))

    def random_(self: Any, *bounds: int, generator: Any = None, **named: Any) -> Any:
        """Fill with uniform integers; returns self.

        Args:
            bounds: none (0 up to the largest integer that the dtype stores exactly), `to`, or
                `from` and `to`; `to` is excluded. Both may be given by name.
            generator: where the numbers come from.
            named: ``from`` and ``to``.
        """
        check_in_place(self, "random_")
        low, high = _bounds(self._array.dtype, bounds, named)
        index = index_of(self._array)
        if index is None:
            return _fill(self, _stream(generator).integers(low, high, self._array.shape))
        there = devices.generator_of(index, generator)
        return _fill(self, there.integers(low, high, self._array.shape))


def _bounds(dtype: np.dtype[Any], given: tuple[int, ...], named: dict[str, Any]) -> tuple[int, int]:
    """The range [low, high) that `random_` draws from."""
    if len(given) > 2 or set(named) - {"from", "to"}:
        raise TypeError(f"random_(): expected from and to, came {given} and {sorted(named)}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        least, most = int(limits.min), int(limits.max)
    elif dtype.kind == "b":
        least, most = 0, 1
    else:  # what the mantissa holds
        most = 1 << {2: 11 if dtype.kind == "f" else 8, 4: 24, 8: 53}[dtype.itemsize]
        least = -most
    low = given[0] if len(given) == 2 else named.get("from", 0)
    high = given[-1] if given else named.get("to")
    if high is None:
        high = most + (dtype.kind != "i" or most < np.iinfo(np.int64).max)
    _need(low < high, "random_", "from < to", f"{low} and {high}")
    _need(least <= low and high - 1 <= most, "random_", f"bounds within {least}..{most}",
          f"{low} and {high}")  # fmt: skip
    return low, high
