"""How far the clocks of other hosts are from rank 0's: asked by messages there and back.

May import: `communicators.base`, numpy. The ranks of one host share a clock. Between hosts rank 0
broadcasts, the first rank of the other host answers with its time, and rank 0 looks at the clock
before and after: the answer was given in the middle, give or take half of the time that went by
(Mills, "Internet Time Synchronization: the Network Time Protocol", 1991). The shortest of several
rounds is the most exact one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from allgrad.ddp.communicators.base import Communicator

ROUNDS = 20


class Offset(NamedTuple):
    """What to add to this rank's times to get rank 0's, and by how much that may be wrong."""

    seconds: float
    error_s: float


def clock_identity() -> str:
    """Ranks with the same text read the same clock: one kernel since one boot, one time namespace.

    Hostnames do not tell: containers of one machine have several, and share the clock.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot + os.readlink("/proc/self/ns/time")
    except OSError:
        return socket.gethostname()


def align(
    communicator: Communicator,
    identity: str | None = None,
    now: Callable[[], float] = perf_counter,
) -> Offset:
    """Collective. This rank's offset from rank 0's clock.

    Args:
        communicator: of the ranks.
        identity: of this rank's clock; default `clock_identity`.
        now: reads the clock.
    """
    if communicator.size == 1:
        return Offset(0.0, 0.0)
    identities = communicator.all_gather_object(identity or clock_identity())
    found = {identities[0]: Offset(0.0, 0.0)}
    for clock in dict.fromkeys(identities):
        if clock not in found:
            found[clock] = _ask(communicator, identities.index(clock), now)
    return found[identities[communicator.rank]]


def _ask(communicator: Communicator, other: int, now: Callable[[], float]) -> Offset:
    """Collective. What rank `other` must add to its clock; the same on all ranks."""
    best = np.array([0.0, np.inf])
    question, answer = np.zeros(1), np.zeros(1)
    for _ in range(ROUNDS):
        communicator.barrier()
        asked = now()
        communicator.broadcast(question, 0)
        answer[0] = now()
        communicator.broadcast(answer, other)
        error = (now() - asked) / 2
        if error < best[1]:
            best[:] = asked + error - answer[0], error
    communicator.broadcast(best, 0)
    return Offset(float(best[0]), float(best[1]))
