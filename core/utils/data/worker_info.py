"""Who is asking: lets a data set find out in which worker process it runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class WorkerInfo:
    """Who is asking, inside a worker process.

    Attributes:
        id: number of the worker, from 0.
        num_workers: how many there are.
        seed: a number of its own for this worker and epoch.
        dataset: the worker's copy of the data set.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


class _Info(threading.local):
    info: WorkerInfo | None = None


_current = _Info()


def get_worker_info() -> WorkerInfo | None:
    """The `WorkerInfo` of this worker process; None in the main process."""
    return _current.info


def set_worker_info(info: WorkerInfo) -> None:
    """Called once per epoch by the worker process itself."""
    _current.info = info


@contextlib.contextmanager
def acting_as(info: WorkerInfo | None) -> Iterator[None]:
    """Within the block, `get_worker_info` of this thread says something else."""
    before, _current.info = _current.info, info
    try:
        yield
    finally:
        _current.info = before
