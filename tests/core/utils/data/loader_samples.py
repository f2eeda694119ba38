"""Data sets for the tests of the loader; in a module, so that worker processes can import them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import numpy as np

from allgrad.random import default_generator
from allgrad.utils.data import Dataset, IterableDataset, get_worker_info


class Noisy(Dataset):
    """(index, three random numbers from the three sources, an array worth sharing)."""

    def __init__(self, n: int = 23, width: int = 3000) -> None:
        self.data = np.arange(n * width, dtype=np.float32).reshape(n, width)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, float, float, float, np.ndarray]:
        noise = (default_generator().numpy.random(), random.random(), float(np.random.rand()))
        return (index, *noise, self.data[index])


class Failing(Dataset):
    """Index 5 does something bad."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == 5:
            if self.how == "raise":
                raise KeyError("no picture 5")
            if self.how == "local":

                class LocalError(Exception):
                    def __init__(self, a: int, b: int) -> None:
                        super().__init__(f"{a} {b}")

                raise LocalError(1, 2)
            if self.how == "exit":
                os._exit(7)
            if self.how == "sleep":
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Count(IterableDataset):
    """0 .. n - 1, shared between the workers, with a random number each."""

    def __init__(self, n: int = 10) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, float]]:
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if info is not None else (0, 1)
        for i in range(start, self.n, step):
            yield i, default_generator().numpy.random()


class Pids(Dataset):
    """The process that made each sample, and what `get_worker_info` says there."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        info = get_worker_info()
        assert info is None or info.dataset is not None
        return (
            os.getpid(),
            -1 if info is None else info.id,
            -1 if info is None else info.num_workers,
        )


class Unpicklable(Noisy):
    """Holds a lambda, as many a transform does."""

    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x


def double(samples: list[int]) -> list[int]:
    """A collate function."""
    return [2 * s for s in samples]


def shout(worker_id: int) -> None:
    """A worker_init_fn that fails."""
    raise ValueError(f"worker {worker_id} does not want to")


class Shuffled(IterableDataset):
    """0 .. n - 1 in an order that follows the random sources of the process, or one alone."""

    def __init__(self, n: int, itself: bool = False, by: str = "all") -> None:
        self.n, self.itself, self.by = n, itself, by

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info() if self.itself else None
        order = default_generator().numpy.permutation(self.n).tolist()
        if self.by == "all":
            random.shuffle(order)
        for position, sample in enumerate(order):
            if info is None or position % info.num_workers == info.id:
                yield sample
            if self.by == "all" and position < self.n - 2:  # the rest is shuffled as it goes on
                other = position + 1 + int(np.random.randint(self.n - 1 - position))
                order[position + 1], order[other] = order[other], order[position + 1]
