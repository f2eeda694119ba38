"""How work gets to the emulated device: `run` for functions of arrays, `launch` for all else.

Both do the work at once, note it while the current stream captures, and tell `hazards` which memory
it reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from support.emulated_gpu import captures, hazards, memory, state, streams
from support.emulated_gpu.errors import CUDADriverError, CUDARuntimeError, MemoryFault
from support.emulated_gpu.state import LOCK, counts, thread

__all__ = [
    "CUDADriverError",
    "CUDARuntimeError",
    "at",
    "counts",
    "empty",
    "launch",
    "no_capture",
    "placed",
    "run",
    "wrapped",
]

ndarray: Any = None  # the class; `array` puts it here
log = state.log
no_capture = streams.no_capture
Place = Any  # a device array, or (address, bytes)


def empty(shape: Any, dtype: np.dtype, order: str = "C", fill: bool = True) -> Any:
    """A device array with arbitrary contents: NaN in float types, so that reading it shows."""
    shape = (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape)
    size = dtype.itemsize
    for n in shape:
        size *= int(n)
    if memory.get_allocator() == memory.default_pool.malloc:
        pointer = memory.default_pool.malloc(size, fill)
    else:
        pointer = memory.alloc(size)
    host = np.ndarray(shape, dtype, pointer.mem, 0, None, "F" if order == "F" else "C")
    return of(host, pointer.mem)


def of(host: np.ndarray, owner: Any) -> Any:
    """The device array of an array on some memory."""
    made = ndarray.__new__(ndarray)
    made._host, made._memory, made._extent = host, owner, None
    return made


def placed(array: Any, order: str = "K") -> Any:
    """A device array with the values of a host array, in the same order of memory."""
    array = np.asarray(array)
    if array.dtype.kind in "OSUMm":
        raise ValueError(f"Unsupported dtype {array.dtype}")
    out = like(array)
    np.copyto(out._host, array)
    return out


def like(array: np.ndarray) -> Any:
    """An empty device array with an array's shape, type and order of memory, without gaps."""
    flags = array.flags
    if flags.c_contiguous or array.ndim < 2:
        return empty(array.shape, array.dtype, "C", False)
    if flags.f_contiguous:
        return empty(array.shape, array.dtype, "F", False)
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
    made = empty([array.shape[i] for i in order], array.dtype, "C", False)
    return of(made._host.transpose([order.index(i) for i in range(array.ndim)]), made._memory)


class _Writable:
    """The same memory as `array`, to be written to."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        about = array.__array_interface__
        self.__array_interface__ = {**about, "data": (about["data"][0], False)}


def wrapped(value: Any, fresh: list[Any]) -> Any:
    """A device array for a NumPy array or scalar; tuples and lists element by element.

    Views of device memory stay views; everything else is copied there, and noted in `fresh`.
    """
    if isinstance(value, np.ndarray):
        owner = _owner(value)
        if owner is not None:
            # NumPy protects some views, CuPy none
            return of(value if value.flags.writeable else np.asarray(_Writable(value)), owner)
    elif not isinstance(value, np.generic):
        if isinstance(value, tuple | list):  # tuples with names of NumPy's become plain ones
            return (tuple if isinstance(value, tuple) else list)(wrapped(v, fresh) for v in value)
        return value
    made = placed(value)
    fresh.append(made)
    return made


def _owner(host: np.ndarray) -> Any:
    base = host.base
    while type(base) in (np.ndarray, _Writable):
        base = base.base if type(base) is np.ndarray else base.array
    return base if isinstance(base, memory.Memory) else None


# -- from and to the host --------------------------------------------------------------------------
def uploaded(array: Any, what: str = "cupy.array") -> Any:
    """A device array with the values of a host array, by a copy on the current stream."""
    stream = streams.current()
    no_capture(f"{what} of host values")
    stream.settle()
    with LOCK:
        made = placed(array)
        hazards.use(stream, what, stream.begin(), [extent(made)], True)
    return made


def upload(array: Any, values: Any, stream: Any) -> None:
    """`ndarray.set`."""
    stream = stream or streams.current(array._memory.chunk.device)
    no_capture("ndarray.set()", stream)
    if not isinstance(values, np.ndarray):
        raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
    host = array._host
    if values.dtype != host.dtype:
        raise TypeError(f"{values.dtype} array cannot be set to {host.dtype} array")
    if values.shape != host.shape:
        raise ValueError(f"Shape mismatch. Old shape: {host.shape}, new shape: {values.shape}")
    if not host.flags.forc:
        raise RuntimeError("Cannot set to non-contiguous array")
    stream.settle()
    with LOCK:
        hazards.use(stream, "ndarray.set", stream.begin(), [extent(array)], True)
        host[...] = values


def download(array: Any, stream: Any, order: str, out: Any, blocking: bool) -> Any:
    """`ndarray.get`."""
    stream = stream or streams.current(array._memory.chunk.device)
    no_capture("ndarray.get()", stream)
    host = array._host
    if out is not None:
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != host.dtype:
            raise TypeError(f"{host.dtype} array cannot be obtained to {out.dtype} array")
        if out.shape != host.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {host.shape}, actual: {out.shape}")
    stream.settle()
    with LOCK:
        hazards.use(stream, "ndarray.get", stream.begin(), [extent(array)], False)
        if out is None:
            out = np.array(host, order=order if order in "CF" else "C", subok=False)
        else:
            out[...] = host
    if blocking:
        stream.synchronize()
    return out


def from_other(array: Any) -> Any:
    """A copy of an array of another device on this thread's current one.

    As in CuPy: first a copy there, on that device's current stream, then one from device to device
    on this one's, and nothing but CUDA's default stream puts the two in order.
    """
    what, here, there = "a copy from another device", thread.device, array._memory.chunk.device
    thread.device = there
    try:
        copy = run(np.copy, (array,), {}, what)
    finally:
        thread.device = here
    stream = streams.current()
    no_capture(what)
    stream.settle()
    with LOCK:
        if not stream.ptr:
            streams.follow_all(stream, (here, there))
        made = placed(copy._host)
        tick = stream.begin()
        hazards.use(stream, what, tick, [extent(copy)], False)
        hazards.use(stream, what, tick, [extent(made)], True)
        if not stream.ptr:
            streams.go_first(stream, (here, there))
    return made


# -- taking arguments apart ------------------------------------------------------------------------
def unwrapped(value: Any, found: list[Any]) -> Any:
    """The host array of a device array; NumPy arrays are refused, as CuPy does."""
    kind = type(value)
    if kind is ndarray:
        found.append(value)
        return value._host
    if kind is int or kind is float or value is None or kind is str:
        return value
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if kind is tuple or kind is list:
        return kind([unwrapped(v, found) for v in value])
    if kind is slice:
        return slice(*(_bound(v) for v in (value.start, value.stop, value.step)))
    return value


def _bound(value: Any) -> Any:
    """A bound of a slice: a device array has to be copied to the host for it."""
    return int(value) if type(value) is ndarray else value


def extent(array: Any) -> hazards.Extent:
    """The chunk of a device array, and which addresses it covers."""
    found = array._extent
    if found is None:
        host = array._host
        start = host.__array_interface__["data"][0]
        if host.flags.forc:
            end = start + host.nbytes
        else:
            end = start + host.itemsize
            for n, step in zip(host.shape, host.strides, strict=True):
                if step < 0:
                    start += (n - 1) * step
                else:
                    end += (n - 1) * step
        found = array._extent = (array._memory.chunk, start, end)
    return found


def check_device(arrays: Sequence[Any]) -> None:
    """Raise if an array lies on another device than this thread's current one."""
    for array in arrays:
        index = array._memory.chunk.device
        if index != thread.device:
            raise ValueError(
                f"Array device must be same as the current device: array device = {index} while "
                f"current = {thread.device}"
            )


# -- doing -----------------------------------------------------------------------------------------
def run(
    function: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    what: str = "",
    writes: Sequence[Any] = (),
) -> Any:
    """Compute on device arrays; what comes back is device arrays, views where NumPy gives views.

    Args:
        function: of NumPy.
        args, kwargs: with device arrays; what `out` names is written.
        what: its name in errors.
        writes: device arrays among them that are written besides.
    """
    arrays: list[Any] = []
    host = [unwrapped(a, arrays) for a in args]
    named = {k: unwrapped(v, arrays) for k, v in kwargs.items()} if kwargs else kwargs
    stream = streams.current()
    what = what or f"cupy.{getattr(function, '__name__', 'function')}"
    counts["calls"] += 1
    out, writes = _outputs(kwargs.get("out"), writes)
    if writes or stream.capture is not None:
        check_device(arrays)
    if stream.capture is not None:
        from support.emulated_gpu import noting

        return noting.noted(stream, what, function, (host, named), arrays, writes, out)
    if captures.synchronises(getattr(function, "__name__", ""), host):
        counts["synchronisations"] += 1
    if stream.pending:
        stream.settle()
    with LOCK:
        with np.errstate(all="ignore"):
            result = function(*host, **named)
        fresh: list[Any] = []
        value = wrapped(result, fresh) if out is None else out
        if fresh or writes:  # else a view: nothing was read or written
            check_device(arrays)
            tick = stream.begin()
            hazards.use(stream, what, tick, only_read(arrays, writes), False)
            hazards.use(stream, what, tick, [extent(a) for a in (*writes, *fresh)], True)
    return value


def _outputs(out: Any, writes: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """(what a function returns that was given `out`, all that it writes)."""
    if out is None:
        return None, writes
    if type(out) is not tuple:
        return out, [*writes, out]
    return out[0] if len(out) == 1 else out, [*writes, *(o for o in out if o is not None)]


def only_read(arrays: Sequence[Any], writes: Sequence[Any]) -> list[hazards.Extent]:
    """What of `arrays` is only read."""
    if not writes:
        return [extent(a) for a in arrays]
    written = [id(w) for w in writes]
    return [extent(a) for a in arrays if id(a) not in written]


def launch(
    what: str,
    action: Callable[[], None],
    reads: Sequence[Place],
    writes: Sequence[Place],
    stream: Any = None,
) -> None:
    """Run a kernel or a call of a library now, or note it while capturing.

    Args:
        what: its name in errors.
        action: does it; holds addresses (see `at`), not arrays, as it may be kept by a graph.
        reads, writes: device arrays, or (address, bytes).
        stream: a stream or its pointer; default: the current one.

    Raises:
        MemoryFault: an address that is not in device memory.
        StreamHazard: see `hazards`.
    """
    if stream is None:
        stream = streams.current()
    elif not isinstance(stream, streams.Stream):
        stream = streams.by_pointer(stream)
    counts["launches"] += 1
    log.append((what, stream.ptr))
    read = [place_of(p, what) for p in reads]
    written = [place_of(p, what) for p in writes]
    if stream.capture is not None:
        stream.capture.note(stream, what, action, read, written)
        return
    if stream.pending:
        stream.settle()
    with LOCK:
        tick = stream.begin()
        hazards.use(stream, what, tick, read, False)
        hazards.use(stream, what, tick, written, True)
        action()


def place_of(place: Place, what: str) -> hazards.Extent:
    """The chunk and the addresses of an array or of (address, bytes)."""
    if type(place) is ndarray:
        check_device((place,))
        return extent(place)
    ptr, size = place
    chunk = memory.chunk_at(ptr, what)
    behind = ptr + size - chunk.ptr - chunk.size
    if behind > 0:
        raise MemoryFault(
            f"{what}: {size} bytes at {ptr:#x} end {behind} bytes behind the end of what "
            f"was allocated there ({chunk.size} bytes)"
        )
    return chunk, ptr, ptr + size


def at(
    ptr: int, shape: Sequence[int], dtype: Any, strides: Sequence[int] | None = None, what: str = ""
) -> np.ndarray:
    """Device memory at an address, as a library that was given the address sees it.

    The array does not keep the memory. Use it inside of a `launch`.

    Args:
        ptr: address of the first element.
        shape, dtype: of the array.
        strides: in bytes; default: C order.

    Raises:
        MemoryFault: not all of it is allocated memory.
    """
    dtype = np.dtype(dtype)
    found: np.ndarray = memory.chunk_at(ptr, what).view(ptr, tuple(shape), dtype, strides)
    size = dtype.itemsize
    for n, step in zip(found.shape, found.strides, strict=True):
        size += (n - 1) * step
    if found.size:
        place_of((ptr, size), what)
    return found
