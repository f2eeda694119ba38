"""Conversions of a tensor: to another dtype, to a device, and the names of both.

May import: graph, promote, devices, dtypes, errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import devices, dtypes
from ..errors import OptionError, ShapeError
from ..ops.elementwise import Clone
from .graph import TensorBase, apply
from .layouts import in_format, preserve_format
from .promote import cast, result_dtype

__all__ = ["can_cast", "is_complex", "is_floating_point", "is_nonzero", "numel", "result_type"]

# The names of PyTorch's first tensor types, still in use as constructors.
LEGACY_NAMES = {
    "float16": "HalfTensor",
    "bfloat16": "BFloat16Tensor",
    "float32": "FloatTensor",
    "float64": "DoubleTensor",
    "uint8": "ByteTensor",
    "int8": "CharTensor",
    "int16": "ShortTensor",
    "int32": "IntTensor",
    "int64": "LongTensor",
    "bool": "BoolTensor",
    "complex64": "ComplexFloatTensor",
    "complex128": "ComplexDoubleTensor",
}
_DTYPE_OF = {legacy: name for name, legacy in LEGACY_NAMES.items()}
_PYTHON_TYPES = (bool, int, float, complex)


def is_dtype(value: Any) -> bool:
    """Whether `value` stands for a dtype: one of ours, of NumPy, or Python's own number types."""
    return isinstance(value, dtypes.dtype | np.dtype) or value in _PYTHON_TYPES


def _target(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, bool]:
    """(dtype or None, copy) from the arguments of `Tensor.to`; the device is checked."""
    rest, dtype, device = list(args), options.pop("dtype", None), options.pop("device", None)
    other = options.pop("other", None)
    if rest and isinstance(rest[0], TensorBase):
        other = rest.pop(0)
    elif rest and is_dtype(rest[0]):
        dtype = rest.pop(0)
    elif rest and not isinstance(rest[0], bool):
        device = rest.pop(0)
        if rest and (rest[0] is None or is_dtype(rest[0])):
            dtype = rest.pop(0)
    flags = dict(zip(("non_blocking", "copy"), rest, strict=False)) | options
    unknown = flags.keys() - {"non_blocking", "copy"}
    if unknown or len(rest) > 2 or any(not isinstance(f, bool) for f in flags.values()):
        raise TypeError(
            f"{name}: expected (dtype), (device, dtype) or (tensor), then non_blocking and copy as "
            f"bools; came {args} {options}"
        )
    if device is not None:
        devices.require(device)
    if other is not None:
        dtype = other.dtype
    return dtype, flags.get("copy", False)


class ConversionMethods(TensorBase):
    """Methods of Tensor that concern its dtype and its device."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The tensor in another dtype, or on another device; itself if nothing changes.

        Takes ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(other_tensor)``, then:

        Args:
            non_blocking: accepted; moves within main memory have nothing to wait for.
            copy: make a copy even if nothing changes.
            memory_format: how the memory is laid out; see `tensors/layouts.py`.

        Raises:
            RuntimeError: an unknown device, or one that this build cannot compute on.

        >>> import allgrad as ag
        >>> ag.ones(2).to("cpu", ag.float64)
        tensor([1., 1.], dtype=allgrad.float64)
        """
        wanted = kwargs.pop("memory_format", preserve_format)
        dtype, copy = _target("to", args, kwargs)
        out = self if dtype is None else cast(self, dtypes.to_numpy(dtype))
        out = apply(Clone(), self) if copy and out is self else out
        return out if wanted is preserve_format else in_format(out, wanted, "to")

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """The tensor in `dtype`; without one, the name of its type.

        Args:
            dtype: a dtype, a legacy type such as ``allgrad.FloatTensor``, or its name.

        >>> import allgrad as ag
        >>> ag.ones(2).type(), ag.ones(2).type(ag.int64).type()
        ('allgrad.FloatTensor', 'allgrad.LongTensor')
        """
        if dtype is None:
            return f"allgrad.{LEGACY_NAMES[self.dtype.name]}"
        if isinstance(dtype, str):
            dtype = _named(dtype)
        return self.to(getattr(dtype, "dtype", dtype))

    def type_as(self, other: Any) -> Any:
        """The tensor in the dtype of `other`."""
        return self.to(other.dtype)

    def cpu(self) -> Any:
        """The tensor in main memory: itself."""
        return self

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Any:
        """The tensor on a GPU.

        Raises:
            RuntimeError: there is no CUDA backend; see `allgrad.cuda.is_available`.
        """
        return self.to("cuda" if device is None else device)

    def pin_memory(self, device: Any = None) -> Any:
        """The tensor itself: without a GPU there is nobody to pin memory for."""
        return self

    def is_pinned(self, device: Any = None) -> bool:
        """Whether the memory is pinned for a GPU: no."""
        return False

    @property
    def device(self) -> devices.device:
        """Where the memory is."""
        return devices.CPU

    def get_device(self) -> int:
        """The number of the GPU; -1 on the CPU."""
        return -1

    is_cpu = property(lambda self: True, doc="Whether the memory is main memory.")
    is_cuda = property(lambda self: False, doc="Whether the memory is that of a GPU.")
    is_mps = property(lambda self: False, doc="Whether the memory is that of an Apple GPU.")
    is_meta = property(lambda self: False, doc="Whether there is no memory at all.")
    is_sparse = property(lambda self: False, doc="Whether only some elements are stored.")
    is_quantized = property(lambda self: False, doc="Whether elements are quantized.")

    def is_floating_point(self) -> bool:
        """True for the floating dtypes."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """True for the complex dtypes."""
        return self.dtype.is_complex

    def is_signed(self) -> bool:
        """True for dtypes that have negative numbers."""
        return self.dtype.name not in ("bool", "uint8")


def _named(name: str) -> Any:
    """The dtype of a type's name, as `Tensor.type` gives it."""
    legacy = name.removeprefix("allgrad.").removeprefix("torch.")
    if legacy not in _DTYPE_OF:
        raise OptionError.unknown("tensor type", name, _DTYPE_OF)
    return dtypes.from_name(_DTYPE_OF[legacy])


def _converter(method: str, dtype_name: str) -> Callable[[Any], Any]:
    def convert(self: Any) -> Any:
        return self.to(dtypes.from_name(dtype_name))

    convert.__name__, convert.__qualname__ = method, f"Tensor.{method}"
    convert.__doc__ = f"As {dtype_name}."
    return convert


class CastMethods(TensorBase):
    """Methods of Tensor named after the dtype that they give."""

    # No annotations below: these names hide Python's own.
    bool, byte, char = (
        _converter("bool", "bool"),
        _converter("byte", "uint8"),
        _converter("char", "int8"),
    )
    short, int, long = (
        _converter("short", "int16"),
        _converter("int", "int32"),
        _converter("long", "int64"),
    )
    half, bfloat16 = _converter("half", "float16"), _converter("bfloat16", "bfloat16")
    float, double = _converter("float", "float32"), _converter("double", "float64")
    cfloat, cdouble = _converter("cfloat", "complex64"), _converter("cdouble", "complex128")


def _of(value: Any, name: str) -> Any:
    if not isinstance(value, TensorBase):
        raise TypeError(f"{name}: expected a tensor, came {type(value).__name__}")
    return value


def is_floating_point(input: Any) -> bool:
    """True for tensors of a floating dtype."""
    return _of(input, "is_floating_point").dtype.is_floating_point


def is_complex(input: Any) -> bool:
    """True for tensors of a complex dtype."""
    return _of(input, "is_complex").dtype.is_complex


def is_nonzero(input: Any) -> bool:
    """Whether the one element of `input` is not zero.

    Raises:
        RuntimeError: not one element.
    """
    if input._array.size != 1:
        raise ShapeError(
            f"is_nonzero: expected a tensor with one element, came shape {tuple(input.shape)}"
        )
    return bool(input._array.item())


def numel(input: Any) -> int:
    """Number of elements."""
    return _of(input, "numel")._array.size


def result_type(a: Any, b: Any) -> dtypes.dtype:
    """The dtype of an operation on two tensors or numbers."""
    return dtypes.from_numpy(result_dtype(a, b))


def can_cast(from_: dtypes.dtype, to: dtypes.dtype) -> bool:
    """Whether a tensor of one dtype may be stored in place in one of another."""
    a, b = dtypes.category(from_.numpy), dtypes.category(to.numpy)
    return a <= b
