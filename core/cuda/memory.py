"""How much memory of a GPU is in use. CuPy's pool holds it; freed memory stays there for reuse."""

from __future__ import annotations

from typing import Any

from ..backend.cuda import availability
from .info import index_of, is_available


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, all processes counted.

    Raises:
        RuntimeError: no GPU can be used.
    """
    index = index_of("mem_get_info", device)
    import cupy  # noqa: PLC0415 - there is a GPU

    with cupy.cuda.Device(index):
        free, total = cupy.cuda.runtime.memGetInfo()
    return int(free), int(total)


def _peaks() -> Any:
    from ..backend.cuda import peaks  # noqa: PLC0415 - needs CuPy

    return peaks


def empty_cache() -> None:
    """Return unused memory of the pool to the GPU; nothing to do without one.

    Memory of captured graphs stays: it has a pool of its own.
    """
    if availability.in_use():
        import cupy  # noqa: PLC0415 - there is a GPU

        cupy.get_default_memory_pool().free_all_blocks()


def memory_allocated(device: Any = None) -> int:
    """Bytes of tensors on a GPU; 0 without one."""
    return _peaks().used(index_of("memory_allocated", device)) if _in_use() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that the pool holds on a GPU, in use or not; 0 without one."""
    return _peaks().reserved(index_of("memory_reserved", device)) if _in_use() else 0


def max_memory_allocated(device: Any = None) -> int:
    """Largest number of bytes of tensors on a GPU so far; 0 without one.

    Peaks are watched from the first call of `reset_peak_memory_stats` or of this function on, as
    watching costs some microseconds an allocation; until then this is what is in use now.
    """
    return _peaks().peak(index_of("max_memory_allocated", device)) if _in_use() else 0


def max_memory_reserved(device: Any = None) -> int:
    """Largest number of bytes that the pool held on a GPU, seen when asked; 0 without one."""
    return _peaks().peak_reserved(index_of("max_memory_reserved", device)) if _in_use() else 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Start `max_memory_allocated` anew; nothing to do without a GPU."""
    if is_available():
        _peaks().reset(index_of("reset_peak_memory_stats", device))


def reset_max_memory_allocated(device: Any = None) -> None:
    """The older name of `reset_peak_memory_stats`."""
    reset_peak_memory_stats(device)


def memory_stats(device: Any = None) -> dict[str, int]:
    """The figures of the functions above under PyTorch's keys; empty without a GPU."""
    if not _in_use():
        return {}
    return {
        "allocated_bytes.all.current": memory_allocated(device),
        "allocated_bytes.all.peak": max_memory_allocated(device),
        "reserved_bytes.all.current": memory_reserved(device),
        "reserved_bytes.all.peak": max_memory_reserved(device),
    }


def _in_use() -> bool:
    return is_available() and availability.in_use()
