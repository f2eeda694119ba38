"""Moves what is under way while the rank computes: a thread that calls MPI when nobody else does.

Stage of the flow: a part of the MPI communicator, which hands over mpi4py's module; this file
imports none.

Without a call, MPI moves a message no further than a socket's buffers reach. Between small ops the
gradient hooks call it often enough; an op of 30 ms (a convolution of ResNet-18) leaves the link
idle most of the time. So a thread looks in: any call will do, and with MPI_THREAD_MULTIPLE it needs
no lock. It sleeps while nothing is under way, and stays away while the rank itself pushes.
"""

from __future__ import annotations

import threading
import time
import weakref
from time import perf_counter
from typing import Any

_PERIOD_S = 2.5e-4  # a 64 KiB buffer of a socket is empty after 0.5 ms at 1 Gbit/s
_PATIENCE_S = 1e-3  # the rank itself pushes more often than that between small ops
_NOBODYS_TAG = 5


class MpiBackground:
    """The thread of one communicator.

    Args:
        mpi: mpi4py's module; its thread level is MPI_THREAD_MULTIPLE.
        comm: any communicator that lives until `close`.

    Attributes:
        pushed_s: when the rank itself last called MPI for what is under way (`perf_counter`).
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self.pushed_s = 0.0
        self._under_way: weakref.WeakSet[Any] = weakref.WeakSet()
        self._change = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def begins(self, work: Any) -> None:
        """Something is under way that the rank does not wait for now."""
        self.pushed_s = perf_counter()
        with self._change:
            self._under_way.add(work)
            self._change.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="allgrad push", daemon=True)
            self._thread.start()

    def ends(self, work: Any) -> None:
        """It is done."""
        self._under_way.discard(work)

    def _run(self) -> None:
        source, tag = self._mpi.ANY_SOURCE, _NOBODYS_TAG
        while not self._closed:
            with self._change:
                while not self._under_way and not self._closed:
                    self._change.wait()
            left_s = self.pushed_s + _PATIENCE_S - perf_counter()
            if left_s > 0:
                time.sleep(min(left_s, _PATIENCE_S))
                continue
            if not self._closed:
                self._comm.Iprobe(source, tag)
            time.sleep(_PERIOD_S)

    def close(self) -> None:
        """End the thread; idempotent."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)
