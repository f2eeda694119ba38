"""One background thread that makes batches ahead.

Stage: between data set and loader. For data sets that work in NumPy this overlaps with the step
nearly as well as a process does, without copying anything: both sides spend their time in C code
that releases the interpreter lock.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

from ...errors import DatasetError

_END = object()


class _Failed:
    def __init__(self, err: BaseException) -> None:
        self.err = err


class Background:
    """Yields `items`, computed ahead by a thread.

    Args:
        items: computed in the thread; an exception in it is raised here, in its turn.
        depth: how many may wait.
        timeout_s: longest wait for one; 0 waits for ever.

    Raises:
        DatasetError: none came within `timeout_s`.

    >>> list(Background(iter(range(4)), depth=2))
    [0, 1, 2, 3]
    """

    def __init__(self, items: Iterator[Any], depth: int, timeout_s: float = 0) -> None:
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = threading.Thread(
            target=_fill, args=(items, self._ready, self._stop), name="allgrad-data", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Background:
        return self

    def __next__(self) -> Any:
        if self._thread is None:
            raise StopIteration
        try:
            item = self._ready.get(timeout=self._timeout_s or None)
        except queue.Empty:
            raise DatasetError(
                "DataLoader: the background thread gave no batch within "
                f"timeout={self._timeout_s} s"
            ) from None
        if item is _END:
            self.close()
            raise StopIteration
        if isinstance(item, _Failed):
            self.close()
            raise item.err
        return item

    def close(self) -> None:
        """End the thread after the item it is working on."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        with contextlib.suppress(queue.Empty):  # wake the thread if it waits for room
            while True:
                self._ready.get_nowait()
        if not self._timeout_s:
            thread.join()


def _fill(items: Iterator[Any], ready: queue.Queue[Any], stop: threading.Event) -> None:
    try:
        for item in items:
            ready.put(item)
            if stop.is_set():
                return
        ready.put(_END)
    except BaseException as err:  # it belongs to the thread that waits
        ready.put(_Failed(err))
