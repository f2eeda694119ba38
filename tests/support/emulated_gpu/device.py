"""Memory, work and capture of the emulated device: what the stand-ins share.

Everything that computes goes through `run`, which computes at once. While a stream is capturing,
`run` also notes what it did, so that the graph can do it again, and what memory held before, so
that nothing has happened when the capture ends - as on a GPU.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

ALIGNMENT = 512  # bytes, as CuPy's pool
DEVICE = SimpleNamespace(id=0, synchronize=lambda: None)
counts: Counter[str] = Counter()
log: list[tuple[Any, ...]] = []  # (what, stream, ...) in the order in which it was asked for


class _Capture(threading.local):
    def __init__(self) -> None:
        self.recording: Recording | None = None


capture = _Capture()


class Recording:
    """What a capture notes.

    Attributes:
        actions: each does one recorded step again.
        undo: memory that was changed, with what it held before.
    """

    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []
        self.undo: list[tuple[np.ndarray, np.ndarray]] = []

    def note(self, action: Callable[[], None], written: list[np.ndarray]) -> None:
        """`action` is about to run and to write `written`."""
        self.undo += [(array, array.copy()) for array in written]
        self.actions.append(action)

    def rewind(self) -> None:
        """Give memory what it held before the capture."""
        for array, before in reversed(self.undo):
            array[...] = before
        self.undo.clear()


def no_capture(what: str) -> None:
    """Raise as CuPy does for what cannot be captured."""
    if capture.recording is not None:
        raise RuntimeError(f"{what} is not allowed while a stream is capturing")


def empty(shape: Any, dtype: np.dtype, order: str = "C") -> np.ndarray:
    """Aligned memory with arbitrary contents (0xA5, so that reading it shows)."""
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.full(size + ALIGNMENT, 0xA5, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    counts["allocations"] += 1
    return raw[start : start + size].view(dtype).reshape(shape, order="F" if order == "F" else "C")


def placed(array: Any) -> np.ndarray:
    """A copy of a host array in device memory, in its memory order."""
    array = np.asarray(array)
    out = empty(array.shape, array.dtype, "F" if array.flags.fnc else "C")
    out[...] = array
    return out


class Pointer:
    """CuPy's MemoryPointer: `ptr` is an address, `mem` keeps it alive."""

    def __init__(self, owner: Any, ptr: int, size: int) -> None:
        self.mem, self.ptr, self.size = owner, ptr, size

    def __add__(self, offset: int) -> Pointer:
        return Pointer(self.mem, self.ptr + offset, self.size - offset)

    def __int__(self) -> int:
        return self.ptr

    def view(self, shape: Any, dtype: np.dtype, strides: Any, order: str) -> np.ndarray:
        """An array on this memory."""
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        base = self.mem if isinstance(self.mem, np.ndarray) else self.mem.host
        offset = self.ptr - base.ctypes.data
        return np.ndarray(
            shape, dtype, base.reshape(-1).view(np.uint8).data, offset, strides, order
        )


def pointer_of(host: np.ndarray) -> Pointer:
    """Where an array lies."""
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return Pointer(owner, host.ctypes.data, host.nbytes)


def wrapped(value: Any) -> Any:
    """A device array for a NumPy array or scalar; tuples and lists element by element."""
    from support.emulated_gpu.array import ndarray

    if isinstance(value, np.generic):
        value = placed(value)
    if isinstance(value, np.ndarray):
        made = ndarray.__new__(ndarray)
        made._host = value
        return made
    if type(value) in (tuple, list):
        return type(value)(wrapped(v) for v in value)
    return value


def unwrapped(value: Any) -> Any:
    """The host array of a device array; NumPy arrays are refused, as CuPy does."""
    from support.emulated_gpu.array import ndarray

    if type(value) is ndarray:
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(unwrapped(v) for v in value)
    if isinstance(value, slice):
        return slice(*(unwrapped_index(v) for v in (value.start, value.stop, value.step)))
    return value


def unwrapped_index(value: Any) -> Any:
    """A bound of a slice: a device array has to be copied to the host for it."""
    from support.emulated_gpu.array import ndarray

    return int(value) if type(value) is ndarray else value


def run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Compute on device arrays; what comes back is device arrays, views where NumPy gives views."""
    host = unwrapped(tuple(args))
    named = {key: unwrapped(v) for key, v in kwargs.items()}
    counts["calls"] += 1
    recording = capture.recording
    if recording is not None:
        return _recorded(recording, function, host, named, kwargs)
    with np.errstate(all="ignore"):
        result = function(*host, **named)
    return _returned(result, kwargs)


def _returned(result: Any, kwargs: Any) -> Any:
    out = kwargs.get("out")
    if out is not None and out != (None,):
        return out[0] if isinstance(out, tuple) and len(out) == 1 else out
    return wrapped(result)


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple | list):
        return [a for v in value for a in _arrays(v)]
    return []


def _recorded(
    recording: Recording, function: Callable[..., Any], host: Any, named: Any, kwargs: Any
) -> Any:
    """`run` during a capture: results keep their place when the graph computes them again."""
    before = [(a, a.copy()) for a in _arrays(host) + _arrays(list(named.values()))]
    with np.errstate(all="ignore"):
        result = function(*host, **named)
    recording.undo += [(a, copy) for a, copy in before if not _same(a, copy)]
    wrapped_result = _returned(result, kwargs)
    places = _arrays(unwrapped(wrapped_result))
    views = {id(p) for p in places for a, _ in before if np.may_share_memory(p, a)}

    def again() -> None:
        with np.errstate(all="ignore"):
            fresh = _arrays(function(*host, **named))
        if isinstance(result, np.generic):
            fresh = [np.asarray(function(*host, **named))]
        for place, new in zip(places, fresh, strict=True):
            if id(place) not in views:
                place[...] = new

    recording.actions.append(again)
    return wrapped_result


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


class CUDADriverError(RuntimeError):
    """An error of the driver, as ``cupy.cuda.driver.CUDADriverError``."""


class CUDARuntimeError(RuntimeError):
    """An error of the runtime, as ``cupy.cuda.runtime.CUDARuntimeError``."""


def launch(
    what: str, action: Callable[[], None], reads: list[np.ndarray], writes: list[np.ndarray]
) -> None:
    """Run a kernel or a call of a library now, or note it while capturing."""
    counts["launches"] += 1
    recording = capture.recording
    if recording is not None:
        recording.actions.append(action)
        return
    action()
