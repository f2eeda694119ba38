"""Counters of which kernel served which call: the fast library or the reference fallback.

Imports only the standard library. Counters are per thread, because ranks may be threads.
"""

from __future__ import annotations

import threading
from collections import Counter


class _Counters(threading.local):
    def __init__(self) -> None:
        self.fast: Counter[str] = Counter()
        self.fallback: Counter[tuple[str, str]] = Counter()


_counters = _Counters()


def count_fast(kernel: str) -> None:
    """Note that the fast library served `kernel` once."""
    _counters.fast[kernel] += 1


def count_fallback(kernel: str, reason: str) -> None:
    """Note that the reference served `kernel` once because of `reason`."""
    _counters.fallback[kernel, reason] += 1


def fast_counts() -> dict[str, int]:
    """How often the fast library served each kernel on this thread since the last reset."""
    return dict(_counters.fast)


def fallback_counts() -> dict[tuple[str, str], int]:
    """How often each (kernel, reason) fell back to the reference on this thread."""
    return dict(_counters.fallback)


def reset() -> None:
    """Set all counters of this thread to zero."""
    _counters.fast.clear()
    _counters.fallback.clear()
