"""Where a loader stands in its epoch, and how it comes back to exactly that place.

Stage: beside the loader.

Note [Resume]
    An epoch is a pure function of its epoch seed and of the sampler's state at its start: the
    sampler runs in a random stream derived from the seed, and so does every sample. To resume, the
    order is made again and what was handed out already is passed over without being read. A
    checksum over the indices handed out shows whether the order is indeed the same; a sampler that
    draws from somewhere else is refused instead of silently training on other samples.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import CheckpointError
from .fetch import Task

VERSION = 1


@dataclass(slots=True)
class Progress:
    """One epoch of one loader.

    Attributes:
        epoch: number of the epoch in the life of the loader.
        seed: its epoch seed; None before it has begun.
        sampler: the sampler's state before it, None if it has none.
        batches, samples: handed out to the user.
        digest: CRC-32 over the indices handed out.
        finished: the user has seen its end.
    """

    epoch: int = 0
    seed: int | None = None
    sampler: dict[str, Any] | None = None
    batches: int = 0
    samples: int = 0
    digest: int = 0
    finished: bool = field(default=False)

    def hand_out(self, task: Task, samples: int) -> None:
        """The user gets the batch of `task`."""
        self.batches += 1
        self.samples += samples
        self.digest = add_to_digest(self.digest, task.indices)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, for a JSON file."""
        return {
            "version": VERSION,
            "epoch": self.epoch,
            "seed": self.seed,
            "sampler": self.sampler,
            "batches": self.batches,
            "samples": self.samples,
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Progress:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: `state` is something else, or of a later version.
        """
        names = ("epoch", "seed", "sampler", "batches", "samples", "digest")
        if not isinstance(state, dict) or any(name not in state for name in ("version", *names)):
            raise CheckpointError(
                "DataLoader.load_state_dict: expected what state_dict() returned, with the keys "
                f"{', '.join(('version', *names))}; came "
                + (", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__)
            )
        if state["version"] != VERSION:
            raise CheckpointError(
                f"DataLoader.load_state_dict: expected version {VERSION}, came {state['version']}"
            )
        return cls(**{name: state[name] for name in names})


class _Thread(threading.local):
    """Epochs that have handed out a batch in this thread, or have ended without one."""

    def __init__(self) -> None:
        self.epochs: list[Progress] = []


_thread = _Thread()


def note_hand_out(progress: Progress) -> None:
    """Remember that this thread works on batches of an epoch."""
    epochs = _thread.epochs
    if not epochs or epochs[-1] is not progress:
        epochs[:] = [p for p in epochs[-8:] if p is not progress]
        epochs.append(progress)


def take_hand_outs() -> list[Progress]:
    """The epochs of which this thread got batches since the last call, the latest last.

    Data parallelism asks at every step: where one of them is `finished` later on, this rank has no
    batch left. At most 9 are remembered.
    """
    epochs = _thread.epochs
    if not epochs:
        return epochs
    _thread.epochs = []
    return epochs


def add_to_digest(digest: int, indices: Any) -> int:
    """Extend a CRC-32 by indices; how they are cut into batches does not matter."""
    if not isinstance(indices, list):
        indices = [indices]
    if indices and isinstance(indices[0], int | np.integer):
        return zlib.crc32(np.asarray(indices, dtype=np.int64).tobytes(), digest)
    for index in indices:
        digest = zlib.crc32(repr(index).encode(), digest)
    return digest


def pass_over(units: Iterator[Any], count: int, expected: int) -> None:
    """Advance `units` (indices, or lists of them) by `count`, checking the digest.

    Raises:
        CheckpointError: the order is shorter, or another one than before.
    """
    digest = 0
    for done in range(count):
        unit = next(units, None)
        if unit is None:
            raise CheckpointError(
                f"DataLoader: cannot resume after {count} samples or batches, the sampler ends "
                f"after {done}; was the data set larger when the state was saved?"
            )
        digest = add_to_digest(digest, unit)
    if digest != expected:
        raise CheckpointError(
            "DataLoader: cannot resume, the sampler gives another order than before (checksum "
            f"{digest:#010x}, expected {expected:#010x}). Data set, sampler or its arguments "
            "have changed, or the sampler draws its random numbers elsewhere than from the "
            "default generator and has no state_dict()"
        )
