"""Control words that ranks with shared memory leave for each other.

Stage of the flow: inside the shared-memory communicator, beside the data. May import: numpy.

Note [Sequence numbers]
    All ranks issue the same operations in the same order, so operation k is the same one
    everywhere.
    Each rank owns one row of the board and alone writes it. Two words of the row only ever grow:
    READY = k says "my input of operation k lies in shared memory", DONE = k says "I have read all I
    need from the others for operation k". A rank may therefore read the others' input of k once
    READY >= k everywhere, and may overwrite its own once DONE >= k everywhere. No lock, no atomic
    operation: aligned 64-bit stores are indivisible, and fences order them against the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# READY, DONE and FAILED lie on cache lines of their own (8 words of 8 bytes).
_READY, _DONE, _FAILED, _LEFT, _SIGNATURES = 0, 8, 16, 17, 24
RING = 64  # signatures kept per rank: at most this many operations are under way
_WORDS = _SIGNATURES + RING
_MESSAGE_START, _MESSAGE_BYTES = 1024, 3072
BOARD_BYTES = _MESSAGE_START + _MESSAGE_BYTES


class Board:
    """The rows of all ranks, seen from one rank. See Note [Sequence numbers].

    Args:
        rows: one uint8 array of `BOARD_BYTES` per rank, zeroed, in shared memory.
        rank: whose row may be written.
    """

    def __init__(self, rows: list[NDArray[np.uint8]], rank: int) -> None:
        self._rows = [row[:BOARD_BYTES] for row in rows]
        self._words = [row[: _WORDS * 8].view(np.int64).data for row in rows]
        self._mine = self._words[rank]
        self._rank = rank

    def sign(self, sequence: int, signature: int) -> None:
        """Say what this rank's operation `sequence` is, for the others to compare."""
        self._mine[_SIGNATURES + sequence % RING] = signature

    def post_ready(self, sequence: int) -> None:
        self._mine[_READY] = sequence

    def post_done(self, sequence: int) -> None:
        self._mine[_DONE] = sequence

    def is_ready(self, rank: int, sequence: int) -> bool:
        return bool(self._words[rank][_READY] >= sequence)

    def all_ready(self, sequence: int) -> bool:
        for words in self._words:  # noqa: SIM110 - a generator would double the time of a poll
            if words[_READY] < sequence:
                return False
        return True

    def all_done(self, sequence: int) -> bool:
        for words in self._words:  # noqa: SIM110 - as above
            if words[_DONE] < sequence:
                return False
        return True

    def not_ready(self, sequence: int) -> list[int]:
        """The ranks that have not come to operation `sequence`."""
        return [i for i, words in enumerate(self._words) if words[_READY] < sequence]

    def not_done(self, sequence: int) -> list[int]:
        """The ranks that have not finished their part of operation `sequence`."""
        return [i for i, words in enumerate(self._words) if words[_DONE] < sequence]

    def differing(self, sequence: int, signature: int) -> tuple[int, int] | None:
        """The first (rank, signature) whose operation `sequence` is another one than ours."""
        slot = _SIGNATURES + sequence % RING
        for rank, words in enumerate(self._words):
            if words[slot] != signature:
                return rank, words[slot]
        return None

    def signature_of(self, rank: int, sequence: int) -> int:
        return int(self._words[rank][_SIGNATURES + sequence % RING])

    def post_failure(self, message: str) -> None:
        """Leave a message for all ranks and raise this rank's flag; the first message stays."""
        if self._mine[_FAILED]:
            return
        data = message.encode()[:_MESSAGE_BYTES]
        start = _MESSAGE_START
        self._rows[self._rank][start : start + len(data)] = np.frombuffer(data, np.uint8)
        self._mine[_FAILED] = max(len(data), 1)

    def post_left(self) -> None:
        """Say that this rank will take part in nothing any more."""
        self._mine[_LEFT] = 1

    def has_left(self, rank: int) -> bool:
        return bool(self._words[rank][_LEFT])

    def failure(self) -> tuple[int, str] | None:
        """(rank, message) of a rank that has failed, or None."""
        for rank, words in enumerate(self._words):
            length = words[_FAILED]
            if length:
                data = self._rows[rank][_MESSAGE_START : _MESSAGE_START + length].tobytes()
                return rank, data.decode(errors="replace")
        return None

    def release(self) -> None:
        """Drop all views, so that the memory beneath can be freed."""
        for words in self._words:
            words.release()
        self._rows, self._words = [], []
