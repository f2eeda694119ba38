"""Devices under their PyTorch names. Lowest layer; imports errors alone.

A device is a name, not memory: ``device("cuda")`` can be written anywhere. Only where a tensor is
to be made or moved does `require` ask whether the device can serve here.
"""

from __future__ import annotations

import threading
from typing import Any

from .errors import DeviceError

# Kinds of devices that PyTorch's scripts name. This build computes on the first.
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
    if found.type == "cuda":
        raise DeviceError(f"device {str(found)!r}: {NO_CUDA}")
    raise DeviceError(
        f"device {str(found)!r}: allgrad has no backend for {found.type!r}; tensors can be made on "
        "'cpu'"
    )


NO_CUDA = (
    "this build of allgrad has no CUDA backend, so tensors cannot be made there (a GPU in the "
    "machine does not change that). Choose by torch's usual line: device = 'cuda' if "
    "allgrad.cuda.is_available() else 'cpu'"
)


def get_default_device() -> device:
    """Where tensors are made when no device is given (per thread; the CPU at start)."""
    return _default.stack[-1]


def set_default_device(device: Any) -> None:
    """Set where tensors are made when no device is given; None returns to the CPU.

    Raises:
        RuntimeError: this build cannot compute there.
    """
    _default.stack[0] = CPU if device is None else require(device)
