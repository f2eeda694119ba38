"""What the parts of the emulated GPU share: how many devices, this thread's device and streams."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.emulated_gpu.streams import Stream

LOCK = threading.RLock()  # work is done and clocks are read by one thread at a time
counts: Counter[str] = Counter()  # calls, launches, allocations, synchronisations, ...
# (what, pointer of the stream) in the order in which it was asked for
log: deque[tuple[str, int]] = deque(maxlen=20_000)
TIMEOUT_S = 60.0  # how long work waits for other ranks before that is an error


class _Settings:
    devices = 1
    # Threads and blocks of kernels run in the opposite order: a kernel that lacks a barrier then
    # gives something else.
    backwards = False
    # Bytes that a device has: as many as one of today has, of which nothing is reserved.
    memory_bytes = 141 << 30


settings = _Settings()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, Stream] = {}  # the current one by device
        self.hooks: dict[str, Any] = {}
        self.allocator: Any = None
        self.replaying = False  # the work of a graph is being done


thread = _Thread()
