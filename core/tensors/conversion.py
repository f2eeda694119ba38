"""Conversions of a tensor: to another dtype, to a device, and the names of both.

May import: graph, promote, devices, dtypes, errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import devices, dtypes
from ..backend.arrays import on_device
from ..errors import DeviceError, OptionError, ShapeError
from ..ops.elementwise import Clone
from ..ops.transfer import Move
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


class Target(NamedTuple):
    """What the arguments of `Tensor.to` ask for; None leaves it as it is."""

    dtype: Any
    device: devices.device | None
    non_blocking: bool
    copy: bool


def target_of(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Target:
    """What the arguments of `Tensor.to` ask for; the device is checked."""
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
    if other is not None:
        dtype, device = other.dtype, other.device
    place = None if device is None else devices.require(device)
    return Target(dtype, place, flags.get("non_blocking", False), flags.get("copy", False))


def moved(t: Any, place: devices.device, non_blocking: bool = False) -> Any:
    """The tensor on a device; itself if it is there."""
    here = devices.of(t._array)
    if here.type == place.type and (here == place or devices.indexed(place) == here):
        return t
    return apply(Move(place, non_blocking), t)


class ConversionMethods(TensorBase):
    """Methods of Tensor that concern its dtype and its device."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The tensor in another dtype, or on another device; itself if nothing changes.

        Takes ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(other_tensor)``, then:

        Args:
            non_blocking: whether a copy from pinned memory to a GPU may still run afterwards.
            copy: make a copy even if nothing changes.
            memory_format: how the memory is laid out; see `tensors/layouts.py`.

        Raises:
            RuntimeError: an unknown device, or one that this build cannot compute on.

        >>> import allgrad as ag
        >>> ag.ones(2).to("cpu", ag.float64)
        tensor([1., 1.], dtype=allgrad.float64)
        """
        wanted = kwargs.pop("memory_format", preserve_format)
        target = target_of("to", args, kwargs)
        out = self if target.dtype is None else cast(self, dtypes.to_numpy(target.dtype))
        if target.device is not None:
            out = moved(out, target.device, target.non_blocking)
        out = apply(Clone(), self) if target.copy and out is self else out
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
        """The tensor in main memory: itself, or a copy of what a GPU holds."""
        return moved(self, devices.CPU)

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Any:
        """The tensor on a GPU, by default the current one.

        Raises:
            RuntimeError: no GPU can be used; the message says why.
        """
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def pin_memory(self, device: Any = None) -> Any:
        """The tensor in memory that a GPU reads by itself; itself where no GPU can be used.

        Raises:
            RuntimeError: the tensor is on a GPU.
        """
        if self.is_cuda:
            raise DeviceError("pin_memory: expected a tensor of main memory, came one on a GPU")
        array = devices.pinned(self._array)
        return self if array is self._array else self._new(array)

    def is_pinned(self, device: Any = None) -> bool:
        """Whether a GPU can read the memory by itself."""
        return devices.is_pinned(self._array)

    @property
    def device(self) -> devices.device:
        """Where the memory is."""
        return devices.of(self._array)

    def get_device(self) -> int:
        """The number of the GPU; -1 on the CPU."""
        index = self.device.index
        return -1 if index is None else index

    is_cpu = property(lambda self: not self.is_cuda, doc="Whether the memory is main memory.")
    is_cuda = property(
        lambda self: on_device(self._array), doc="Whether the memory is that of a GPU."
    )
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
