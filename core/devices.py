"""Devices under their PyTorch names, and arrays made on them or moved to them.

A device is a name, not memory: ``device("cuda")`` can be written anywhere. Only where a tensor is
to be made or moved does `require` ask whether the device can serve here. Imports: errors, backend.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .backend import arrays
from .backend.cuda import availability
from .errors import DeviceError

# Kinds of devices that PyTorch's scripts name. This build computes on the first two.
KINDS = ("cpu", "cuda", "mps", "xpu", "meta")


class device:  # noqa: N801 - PyTorch's spelling
    """Where the memory of a tensor lies: a kind, and which one of that kind.

    Args:
        type: "cpu", "cuda", "cuda:1", ..., another device, or the number of a CUDA device.
        index: which one, if `type` does not say so.

    Attributes:
        type: the kind, e.g. ``"cuda"``.
        index: which one, or None for the current one.

    Raises:
        RuntimeError: an unknown kind, or an index that is not a number.
        TypeError: neither a string, a device nor an integer.

    >>> device("cuda:1")
    device(type='cuda', index=1)
    >>> device("cuda", 1) == device("cuda:1"), str(device("cpu"))
    (True, 'cpu')
    """

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __init__(self, type: Any, index: int | None = None) -> None:
        kind, own = _parts(type)
        if index is not None and own is not None:
            raise DeviceError(f"device: {type!r} has an index already; index={index} came as well")
        if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
            raise TypeError(f"device: expected an integer index, came {index!r}")
        if index is not None and index < 0:
            raise DeviceError(f"device: expected an index of 0 or more, came {index}")
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "index", own if index is None else index)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"device: attribute {name!r} cannot be changed; make a new device")

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        place = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{place})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, device):
            return NotImplemented
        return self.type == other.type and self.index == other.index

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)

    def __enter__(self) -> device:
        """Make tensors here inside of the ``with`` block, unless told otherwise."""
        _default.stack.append(require(self))
        return self

    def __exit__(self, *exc: object) -> None:
        _default.stack.pop()


def _parts(given: Any) -> tuple[str, int | None]:
    """(kind, index) of what a user calls a device."""
    if isinstance(given, device):
        return given.type, given.index
    if isinstance(given, int) and not isinstance(given, bool):
        return "cuda", given
    if not isinstance(given, str):
        raise TypeError(
            f'device: expected a string such as "cpu" or "cuda:0", a device or an integer, came '
            f"{type(given).__name__}"
        )
    kind, colon, number = given.partition(":")
    if kind not in KINDS:
        raise DeviceError(f"device: unknown kind in {given!r}; known: {', '.join(KINDS)}")
    if colon and not (number.isascii() and number.isdigit()):
        raise DeviceError(f"device: expected a number after the colon, came {given!r}")
    return kind, int(number) if colon else None


CPU = device("cpu")


class _Default(threading.local):
    def __init__(self) -> None:
        self.stack: list[device] = [CPU]


_default = _Default()


def require(given: Any) -> device:
    """The device that `given` names (None: the default one), if tensors can be made there.

    Raises:
        RuntimeError: this build cannot compute there; the message says what is missing.
    """
    if given is None:
        return _default.stack[-1]
    if given is CPU or given == "cpu":
        return CPU
    found = device(given)
    if found.type == "cpu":
        return CPU
    if found.type != "cuda":
        raise DeviceError(
            f"device {str(found)!r}: allgrad has no backend for {found.type!r}; tensors can be "
            "made on 'cpu' and 'cuda'"
        )
    reason = availability.why_not()
    if reason is not None:
        raise DeviceError(f"device {str(found)!r}: {reason}. {USUAL_LINE}")
    if found.index is not None and found.index >= availability.count():
        raise DeviceError(
            f"device {str(found)!r}: expected an index below {availability.count()}, the number of "
            "GPUs that this process sees"
        )
    return found


USUAL_LINE = "Scripts choose by the line: device = 'cuda' if allgrad.cuda.is_available() else 'cpu'"


class _Host:
    """NumPy inside of a ``with`` block."""

    def __enter__(self) -> Any:
        return np

    def __exit__(self, *exc: object) -> None:
        return None


_HOST = _Host()


def at(given: Any) -> Any:
    """A ``with`` block in which arrays are made on a device; it gets the array module.

    >>> with at("cpu") as xp:
    ...     xp.zeros(2)
    array([0., 0.])
    """
    found = require(given)
    if found.type == "cpu":
        return _HOST
    from .backend.cuda import device as cuda_device  # noqa: PLC0415 - needs CuPy

    return cuda_device.At(found.index)


def of(array: Any) -> device:
    """The device that holds an array."""
    if type(array) is np.ndarray:
        return CPU
    index = arrays.index_of(array)
    return CPU if index is None else device("cuda", index)


def indexed(given: device) -> device:
    """`given`, or where it names no number, the current device of its kind."""
    if given.type != "cuda" or given.index is not None:
        return given
    from .backend.cuda import device as cuda_device  # noqa: PLC0415 - needs CuPy

    return device("cuda", cuda_device.current())


def can_pin() -> bool:
    """Whether there is a GPU that pinned memory would serve."""
    return availability.why_not() is None


def pinned(array: Any) -> Any:
    """A copy in memory that a GPU reads by itself; `array` where no GPU can be used."""
    if not can_pin():
        return array
    from .backend.cuda import device as cuda_device  # noqa: PLC0415 - needs CuPy
    from .backend.cuda import transfer  # noqa: PLC0415 - needs CuPy

    cuda_device.current()
    return transfer.pinned(array)


def is_pinned(array: Any) -> bool:
    """Whether `pinned` made its memory."""
    if arrays.on_device(array) or not arrays.known():
        return False
    from .backend.cuda import transfer  # noqa: PLC0415 - needs CuPy

    return transfer.is_pinned(array)


def moved(array: Any, given: Any, non_blocking: bool = False) -> Any:
    """`array` on a device: itself if it is there, else a copy.

    Args:
        non_blocking: whether a copy from pinned memory may still run when this returns.
    """
    target = require(given)
    index = arrays.index_of(array)
    if target.type == "cpu":
        return arrays.to_host(array)
    from .backend.cuda import device as cuda_device  # noqa: PLC0415 - needs CuPy
    from .backend.cuda import transfer  # noqa: PLC0415 - needs CuPy

    wanted = cuda_device.current() if target.index is None else target.index
    if index == wanted:
        return array
    if index is not None:
        return transfer.to_other_device(array, wanted)
    return transfer.to_device(array, wanted, non_blocking)


def array_there(name: str, data: Any) -> Any:
    """The array of CuPy that shares the GPU memory of another library's.

    Args:
        name: of the function that wants it, for errors.
        data: with ``__dlpack__`` or ``__cuda_array_interface__``.

    Raises:
        DeviceError: no GPU can be used here.
    """
    reason = availability.why_not()
    if reason is not None:
        raise DeviceError(
            f"{name}: the memory is on a GPU, and {reason}. Copy it to main memory, e.g. by .cpu()"
        )
    from .backend.cuda import transfer  # noqa: PLC0415 - needs CuPy

    return transfer.shared(data)


def index_of(given: Any) -> int | None:
    """The number of the GPU that `given` names (None: the default device); None for the CPU."""
    found = require(given)
    return None if found.type == "cpu" else indexed(found).index


def generator_of(index: int, generator: Any = None) -> Any:
    """The stream of random numbers of a GPU: `generator`, or this thread's if it is None.

    Raises:
        RuntimeError: `generator` belongs elsewhere.
    """
    from .backend.cuda import random  # noqa: PLC0415 - needs CuPy

    if generator is None:
        return random.default_generator(index)
    if generator.device != device("cuda", index):
        raise DeviceError(
            f"Expected a 'cuda:{index}' device type for generator but found '{generator.device}': "
            "the numbers are drawn where the tensor lies. Pass "
            f"Generator(device='cuda:{index}'), or none"
        )
    return generator


def get_default_device() -> device:
    """Where tensors are made when no device is given (per thread; the CPU at start)."""
    return _default.stack[-1]


def set_default_device(device: Any) -> None:
    """Set where tensors are made when no device is given; None returns to the CPU.

    Raises:
        RuntimeError: this build cannot compute there.
    """
    _default.stack[0] = CPU if device is None else require(device)
