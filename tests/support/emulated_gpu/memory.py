"""Device memory: chunks with guards around them, and CuPy's pool, which knows streams.

A chunk is one piece of the emulated device's memory. It goes back to the arena of the stream that
it was allocated under as soon as nobody holds an array on it, whatever other streams still do with
it, and the next allocation of its size there gets it: as in CuPy. A chunk therefore remembers who
has used it (`log`, see `hazards`) from one owner to the next.
"""

from __future__ import annotations

import bisect
import ctypes
import sys
import threading
import weakref
from typing import Any

import numpy as np
from support.emulated_gpu.errors import CUDARuntimeError, MemoryFault
from support.emulated_gpu.state import counts, settings, thread

ALIGNMENT = 512  # bytes, as CuPy's pool
GUARD = 256  # bytes before and behind
_FRESH, _GUARD = 0xFF, 0xF7  # of float types: NaN, and numbers around -1e34
_PATTERN = bytes([_GUARD]) * (ALIGNMENT + 2 * GUARD)

_starts: list[int] = []  # addresses of all chunks, in order
_chunks: list[Chunk] = []
_listing = threading.RLock()  # both lists change together; ranks may be threads


class Chunk:
    """A piece of memory.

    Attributes:
        ptr: its address.
        room: bytes it has; size: bytes that its owner asked for.
        generation: how often it was given to somebody.
        live: whether somebody has it.
        log: who has used it; see `hazards`.
        last: name of the last kernel that wrote to it.
    """

    __slots__ = (
        "__weakref__", "_buffer", "_bytes", "arena", "device", "generation", "last", "live", "log",
        "ptr", "room", "size",
    )  # fmt: skip

    def __init__(self, room: int, device: int) -> None:
        raw = np.empty(room + ALIGNMENT + 2 * GUARD, np.uint8)
        first = raw.ctypes.data + GUARD
        start = GUARD + -first % ALIGNMENT
        raw[start - GUARD : start] = _GUARD
        self._bytes = memoryview(raw)[start - GUARD : start + room + GUARD]
        # No array and no view of one: what NumPy makes on it then keeps `Memory` as its base.
        self._buffer = (ctypes.c_uint8 * (room + 2 * GUARD)).from_buffer(raw, start - GUARD)
        self.ptr = raw.ctypes.data + start
        self.room, self.device = room, device
        self.size = self.generation = self.arena = 0
        self.live = False
        self.log: dict[int, Any] = {}
        self.last = ""
        with _listing:
            at = bisect.bisect(_starts, self.ptr)
            _starts.insert(at, self.ptr)
            _chunks.insert(at, self)

    def give(self, size: int, fill: bool) -> None:
        """Somebody gets the first `size` bytes."""
        self.size, self.live = size, True
        self.generation += 1
        self._bytes[GUARD + size :] = _PATTERN[: self.room - size + GUARD]
        if fill:
            ctypes.memset(self.ptr, _FRESH, size)

    def check(self, what: str = "") -> None:
        """Raise if something was written around it."""
        before = self._bytes[:GUARD].tobytes()
        behind = self._bytes[GUARD + self.size :].tobytes()
        if before == _PATTERN[:GUARD] and behind == _PATTERN[: len(behind)]:
            return
        where = []
        if before != _PATTERN[:GUARD]:
            where.append(f"{GUARD - next(i for i, b in enumerate(before) if b != _GUARD)} before")
        if behind != _PATTERN[: len(behind)]:
            where.append(f"{next(i for i, b in enumerate(behind) if b != _GUARD)} behind")
        self._bytes[:GUARD] = _PATTERN[:GUARD]
        self._bytes[GUARD + self.size :] = _PATTERN[: len(behind)]
        raise MemoryFault(
            f"{what or self.last or 'somebody'} wrote outside of an array of {self.size} bytes: "
            f"byte {' and '.join(where)} it"
        )

    def view(self, ptr: int, shape: Any, dtype: Any, strides: Any) -> np.ndarray:
        """An array on it that does not keep it from being given to others."""
        return np.ndarray(shape, dtype, self._buffer, GUARD + ptr - self.ptr, strides)

    def array(self, memory: Any, offset: int, shape: Any, dtype: Any, strides: Any) -> Any:
        """An array on it that keeps it."""
        return np.ndarray(shape, dtype, memory, offset, strides)

    def owned(self) -> Memory:
        """All of it, as the object whose end gives it back."""
        memory = np.ndarray.__new__(Memory, (max(self.size, 1),), np.uint8, self._buffer, GUARD)
        memory.chunk = self
        return memory

    def forget(self) -> None:
        """It is no more."""
        with _listing:
            at = bisect.bisect_left(_starts, self.ptr)
            if at < len(_starts) and _chunks[at] is self:
                del _starts[at], _chunks[at]


class Memory(np.ndarray):
    """CuPy's memory objects: keeps a chunk; when nobody holds it any more, the chunk is free."""

    chunk: Chunk
    pool: Any = None  # weak, as in CuPy
    owner: Any = None

    @property
    def ptr(self) -> int:
        """Its address."""
        return self.chunk.ptr

    @property
    def device_id(self) -> int:
        """The device that has it."""
        return self.chunk.device

    def __del__(self) -> None:
        chunk = self.__dict__.get("chunk")
        if chunk is None or self.owner is not None or sys is None or sys.is_finalizing():
            return
        chunk.live = False
        pool = self.pool and self.pool()
        if pool is None:
            chunk.forget()
        else:
            pool._give_back(chunk)


def chunk_at(ptr: int, what: str, live: bool = True) -> Chunk:
    """The chunk that an address lies in; if `live`, one that somebody has.

    Raises:
        MemoryFault: nobody has memory there.
    """
    with _listing:
        at = bisect.bisect(_starts, ptr) - 1
        chunk = _chunks[at] if at >= 0 else None
    if chunk is None or ptr >= chunk.ptr + max(chunk.room, 1):
        raise MemoryFault(f"{what}: the address {ptr:#x} is not in the GPU's memory")
    if live and not chunk.live and not thread.replaying:  # a graph knows what is its own
        raise MemoryFault(
            f"{what}: the address {ptr:#x} is in memory that was given back to the pool; keep the "
            "array as long as it is in use"
        )
    return chunk


class MemoryPointer:
    """CuPy's MemoryPointer: an address in some memory that it keeps."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem = mem
        self.ptr = mem.ptr + offset if mem.size else 0
        self._offset = offset

    @property
    def device_id(self) -> int:
        """The device that has it."""
        return self.mem.device_id

    @property
    def device(self) -> Any:
        """The device that has it."""
        from support.emulated_gpu.cuda import Device

        return Device(self.device_id)

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    def __sub__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset - offset)

    def __int__(self) -> int:
        return self.ptr

    def view(self, shape: Any, dtype: np.dtype, strides: Any, order: str) -> np.ndarray:
        """An array on this memory."""
        return np.ndarray(shape, dtype, self.mem, self._offset, strides, order)

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream: Any = None) -> None:
        """Copy bytes of this or another device."""
        if size:
            source, target = (p.mem.chunk.view(p.ptr, (size,), "u1", None) for p in (src, self))
            self._launch(
                "memcpyAsync", lambda: np.copyto(target, source), [(src.ptr, size)], size, stream
            )

    copy_from_device = copy_from_device_async

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        """Set bytes."""
        if size:
            target = self.mem.chunk.view(self.ptr, (size,), "u1", None)
            self._launch("memsetAsync", lambda: target.fill(value), [], size, stream)

    memset = memset_async

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """Copy bytes of the host, an address or a pointer of ctypes; not while capturing."""
        self._host_copy("copy_from_host_async", mem, size, stream, True)

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        """Copy bytes to the host; there once the stream is done."""
        self._host_copy("copy_to_host_async", mem, size, stream, False)

    def _host_copy(self, what: str, mem: Any, size: int, stream: Any, to_device: bool) -> None:
        from support.emulated_gpu import device

        device.no_capture(what, stream)
        address = mem if isinstance(mem, int) else ctypes.cast(mem, ctypes.c_void_p).value
        to, origin = (self.ptr, address) if to_device else (address, self.ptr)
        place = [(self.ptr, size)] if size else []
        device.launch(
            what,
            lambda: ctypes.memmove(to, origin, size),
            [] if to_device else place,
            place if to_device else [],
            stream,
        )

    def _launch(self, what: str, action: Any, reads: Any, size: int, stream: Any) -> None:
        from support.emulated_gpu import device

        device.launch(what, action, reads, [(self.ptr, size)], stream)


class UnownedMemory:
    """Memory that another library made: the object for `MemoryPointer`."""

    def __new__(cls, ptr: int, size: int, owner: Any, device_id: int = -1) -> Any:
        chunk = chunk_at(ptr, "UnownedMemory")
        buffer = (ctypes.c_uint8 * size).from_address(ptr)
        memory = np.ndarray.__new__(_Unowned, (size,), np.uint8, buffer)
        memory.chunk, memory.owner, memory.address = chunk, owner or cls, ptr
        return memory


class _Unowned(Memory):
    address = 0

    @property
    def ptr(self) -> int:
        return self.address


class MemoryHook:
    """Told of this thread's allocations inside of a ``with`` block."""

    name = "MemoryHook"

    def __enter__(self) -> MemoryHook:
        if self.name in thread.hooks:
            raise KeyError(f"memory hook {self.name} already exists")
        thread.hooks[self.name] = self
        return self

    def __exit__(self, *_: object) -> None:
        del thread.hooks[self.name]

    def alloc_preprocess(self, **about: Any) -> None:
        """Before memory is asked of CUDA."""

    def alloc_postprocess(self, **about: Any) -> None:
        """After it."""

    def malloc_preprocess(self, **about: Any) -> None:
        """Before memory is taken from the pool."""

    def malloc_postprocess(self, **about: Any) -> None:
        """After it."""

    def free_preprocess(self, **about: Any) -> None:
        """Before memory is given back to the pool."""

    def free_postprocess(self, **about: Any) -> None:
        """After it."""


class MemoryPool:
    """CuPy's pool: freed chunks wait per device and stream for the next of their size."""

    def __init__(self, allocator: Any = None) -> None:
        self._free: dict[tuple[int, int, int], list[Chunk]] = {}
        self._used: dict[int, int] = {}
        self._total: dict[int, int] = {}
        self._limit: dict[int, int] = {}
        self._self = weakref.ref(self)

    def malloc(self, size: int, _fill: bool = True) -> MemoryPointer:
        """Memory of this thread's current device, from the arena of its current stream."""
        from support.emulated_gpu import streams

        device = thread.device
        room = max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        stream = streams.current()
        for hook in thread.hooks.values():
            hook.malloc_preprocess(device_id=device, size=size, mem_size=room)
        waiting = self._free.get((device, stream.ptr, room))
        try:
            chunk = waiting.pop() if waiting else self._new(device, size, room)
        except IndexError:  # another thread was faster
            chunk = self._new(device, size, room)
        chunk.arena = stream.ptr
        if chunk.generation and stream.capture is None:
            stream.settle()  # its filling comes behind what the stream waits for
        chunk.give(size, _fill)
        stream.allocated(chunk)
        self._used[device] = self._used.get(device, 0) + room
        counts["allocations"] += 1
        memory = chunk.owned()
        memory.pool = self._self
        for hook in thread.hooks.values():
            hook.malloc_postprocess(
                device_id=device, size=size, mem_size=room, mem_ptr=chunk.ptr, pmem_id=id(memory)
            )
        return MemoryPointer(memory, 0)

    def _new(self, device: int, size: int, room: int) -> Chunk:
        total = self._total.get(device, 0) + room
        limit = self._limit.get(device, 0) or settings.memory_bytes
        if total > limit:
            from support.emulated_gpu.errors import OutOfMemoryError

            raise OutOfMemoryError(
                f"Out of memory allocating {size:,} bytes (allocated so far: "
                f"{self._used.get(device, 0):,} bytes, limit set to: {limit:,} bytes)."
            )
        chunk = Chunk(room, device)
        self._total[device] = total
        return chunk

    def _give_back(self, chunk: Chunk) -> None:
        """Its owner is gone. Takes no lock: the garbage collector may call it at any place."""
        self._used[chunk.device] -= chunk.room
        about = {"device_id": chunk.device, "mem_size": chunk.room, "mem_ptr": chunk.ptr}
        hooks = getattr(thread, "hooks", {})  # a thread that ends has none any more
        for hook in hooks.values():
            hook.free_preprocess(**about, pmem_id=0)
        self._free.setdefault((chunk.device, chunk.arena, chunk.room), []).append(chunk)
        for hook in hooks.values():
            hook.free_postprocess(**about, pmem_id=0)
        chunk.check()

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give free memory of the current device back to CUDA."""
        for key in [k for k in self._free if k[0] == thread.device]:
            if stream is None or key[1] == stream.ptr:
                for chunk in self._free.pop(key):
                    chunk.forget()
                    chunk.generation += 1  # graphs that use it do not find it any more
                    self._total[chunk.device] -= chunk.room

    def free_all_free(self) -> None:
        """The old name of `free_all_blocks`."""
        self.free_all_blocks()

    def n_free_blocks(self) -> int:
        """Free chunks of the current device."""
        return sum(len(c) for k, c in self._free.items() if k[0] == thread.device)

    def used_bytes(self) -> int:
        """Bytes of the current device in use."""
        return self._used.get(thread.device, 0)

    def total_bytes(self) -> int:
        """Bytes of the current device in use or free in the pool."""
        return self._total.get(thread.device, 0)

    def free_bytes(self) -> int:
        """Bytes of the current device free in the pool."""
        return self.total_bytes() - self.used_bytes()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """The most bytes that it takes of the current device; 0 for all."""
        if fraction is not None:
            size = int(settings.memory_bytes * fraction)
        self._limit[thread.device] = size or 0

    def get_limit(self) -> int:
        """See `set_limit`."""
        return self._limit.get(thread.device, 0)


class PinnedMemoryPointer(bytearray):
    """Main memory that the device reads by itself; a buffer."""

    @property
    def ptr(self) -> int:
        """Its address."""
        return np.frombuffer(self, np.uint8).ctypes.data

    def size(self) -> int:
        """Bytes."""
        return len(self)


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    """Pinned main memory."""
    if size <= 0:
        raise CUDARuntimeError(1, f"{size} bytes of pinned memory")
    return PinnedMemoryPointer(size)


default_pool = MemoryPool()
_allocator: list[Any] = [default_pool.malloc]


def set_allocator(allocator: Any = None) -> None:
    """All threads allocate by it from now on."""
    _allocator[0] = allocator or MemoryPool().malloc


def get_allocator() -> Any:
    """What this thread allocates by."""
    return thread.allocator or _allocator[0]


class using_allocator:  # noqa: N801 - CuPy's name
    """This thread allocates by `allocator` inside of the ``with`` block."""

    def __init__(self, allocator: Any = None) -> None:
        self._allocator = allocator or MemoryPool().malloc

    def __enter__(self) -> None:
        self._before, thread.allocator = thread.allocator, self._allocator

    def __exit__(self, *exc: object) -> None:
        thread.allocator = self._before


def alloc(size: int) -> MemoryPointer:
    """Memory from this thread's allocator."""
    found: MemoryPointer = get_allocator()(size)
    return found
