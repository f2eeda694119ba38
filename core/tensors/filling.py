"""Methods that overwrite a tensor: with one value, another tensor, or random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, random
from ..backend.arrays import module_of
from ..errors import GradientError
from . import graph
from .graph import TensorBase
from .inplace import assign, check_in_place
from .promote import cast


def draw(
    kind: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    generator: random.Generator | None,
    index: int | None = None,
) -> Any:
    """Random array: "uniform" in [0, 1) or "normal" (mean 0, variance 1).

    Uniform complex numbers have uniform parts; normal ones have parts of variance 1/2.

    Args:
        index: the GPU that draws them, which has numbers of its own; None in main memory.
    """
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        pairs = draw(kind, (*shape, 2), part, generator, index)
        if kind == "normal":
            pairs *= part.type(np.sqrt(0.5))
        return pairs.view(dtype)[..., 0]
    if index is not None:
        there = devices.generator_of(index, generator)
        return (there.uniform if kind == "uniform" else there.normal)(shape, dtype)
    stream = (generator or random.default_generator()).numpy
    draw_as: Any = dtype if dtype in (np.float32, np.float64) else np.float32
    function = stream.random if kind == "uniform" else stream.standard_normal
    return np.asarray(function(shape, draw_as)).astype(dtype, copy=False)


class FillingMethods:
    """Overwriting methods of Tensor."""

    _array: np.ndarray
    _version: list[int]
    _requires_grad: bool

    def copy_(self: Any, src: Any, non_blocking: bool = False) -> Any:
        """Overwrite self by `src`, from any device, broadcast and cast; returns self."""
        there = src
        if isinstance(src, TensorBase):
            there = src.to(self.device, non_blocking=non_blocking)  # type: ignore[attr-defined]
        return assign(self, cast(there, self._array.dtype), "copy_")

    def fill_(self: Any, value: Any) -> Any:
        """Set every element to `value`; returns self."""
        check_in_place(self, "fill_")
        if isinstance(value, TensorBase):
            return self.copy_(value)
        if self._requires_grad and graph.mode.enabled:
            return assign(
                self, self._new(module_of(self._array).full((), value, self._array.dtype)), "fill_"
            )
        self._canonical().fill(value)
        self._version[0] += 1
        return self

    def zero_(self) -> Any:
        """Set every element to 0; returns self."""
        return self.fill_(0)

    def apply_(self: Any, callable: Any) -> Any:
        """Replace every element by ``callable(element)``, one by one in Python; returns self.

        Raises:
            RuntimeError: the tensor requires grad; nothing here can be differentiated.
        """
        return self._overwrite("apply_", (callable(v) for v in self._array.ravel().tolist()))

    def map_(self: Any, tensor: Any, callable: Any) -> Any:
        """Replace every element by ``callable(element, other)`` with those of `tensor`.

        Raises:
            RuntimeError: one of the tensors requires grad, or `tensor` does not broadcast to self.
        """
        if tensor.requires_grad:
            raise GradientError("map_: expected a tensor that does not require grad")
        others = tensor.expand(tuple(self.shape))._array.ravel().tolist()
        pairs = zip(self._array.ravel().tolist(), others, strict=True)
        return self._overwrite("map_", (callable(a, b) for a, b in pairs))

    def _overwrite(self: Any, name: str, values: Any) -> Any:
        if self.requires_grad:
            raise GradientError(f"{name}: expected a tensor that does not require grad")
        check_in_place(self, name)
        numbers = np.asarray(list(values), self._array.dtype)
        return self.copy_(self._new(numbers.reshape(self._array.shape)))
