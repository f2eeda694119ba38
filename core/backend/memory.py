"""Keep large temporary arrays out of the operating system's hands.

glibc returns every freed block above its mmap threshold to the kernel, which hands it back zeroed,
page by page, at the next allocation: for the activations of a training step these page
faults cost as much as the arithmetic. Raising the thresholds keeps the memory in the process.
Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_TOP_PAD = -2
_MMAP_THRESHOLD_BYTES = 1 << 30
_TRIM_THRESHOLD_BYTES = (1 << 31) - 1


@functools.cache
def keep_large_allocations() -> bool:
    """Raise glibc's mmap and trim thresholds, once per process.

    ALLGRAD_MALLOPT=0 in the environment leaves the allocator alone.

    Returns:
        Whether the thresholds were changed.
    """
    if os.environ.get("ALLGRAD_MALLOPT", "1") == "0" or not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    libc.mallopt.argtypes, libc.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mapped = libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    trimmed = libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    return bool(mapped and trimmed)
