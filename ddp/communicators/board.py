"""Control words that ranks with shared memory leave for each other.

Stage of the flow: inside the shared-memory communicator, beside the data. May import: numpy,
`allgrad.ddp.diagnosis.statement`.

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

from allgrad.ddp.diagnosis.statement import Statement

# READY, DONE and what is looked at while waiting lie on cache lines of their own (8 words of 8
# bytes).
_READY, _DONE, _ALARM, _TEXT, _LEFT, _ASK, _STATEMENT, _ANSWERED = 0, 8, 16, 17, 18, 19, 20, 21
_SIGNATURES = 24
RING = 64  # signatures kept per rank: at most this many operations are under way
_CHECKS = _SIGNATURES + RING
_WORDS = _CHECKS + RING
# After the words: what the rank says of itself, and the report that all ranks raise.
_STATEMENT_START, _TEXT_START, BOARD_BYTES = 2048, 16384, 32768


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

    def sign(self, sequence: int, signature: int, check: int) -> None:
        """Say what this rank's operation `sequence` is; the others compare `check`."""
        slot = sequence % RING
        self._mine[_SIGNATURES + slot] = signature
        self._mine[_CHECKS + slot] = check

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

    def any_ready(self, sequence: int) -> bool:
        return any(words[_READY] >= sequence for words in self._words)

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

    def differing(self, sequence: int, check: int) -> int | None:
        """The first rank whose operation `sequence` is another one than ours."""
        slot = _CHECKS + sequence % RING
        for rank, words in enumerate(self._words):
            if words[slot] != check:
                return rank
        return None

    def check_of(self, rank: int, sequence: int) -> int:
        return int(self._words[rank][_CHECKS + sequence % RING])

    def signature_of(self, rank: int, sequence: int) -> int:
        return int(self._words[rank][_SIGNATURES + sequence % RING])

    def last_signed(self, rank: int) -> int:
        """The last operation of a rank whose signature is here; 0 before the first."""
        return int(self._words[rank][_READY])

    # ---- when something is wrong -----------------------------------------------------------

    def raise_alarm(self) -> None:
        """Say that this rank has noticed a failure; its report follows."""
        self._mine[_ALARM] = 1

    def is_alarmed(self) -> bool:
        for words in self._words:  # noqa: SIM110 - looked at while waiting, as above
            if words[_ALARM]:
                return True
        return False

    def alarmed(self) -> list[int]:
        """The ranks that have raised an alarm."""
        return [rank for rank, words in enumerate(self._words) if words[_ALARM]]

    def post_failure(self, text: str) -> None:
        """Leave this rank's report for all ranks; the first one stays."""
        if not self._mine[_TEXT]:
            self._mine[_TEXT] = self._write(_TEXT_START, text.encode()[: BOARD_BYTES - _TEXT_START])

    def failure(self) -> tuple[int, str] | None:
        """(rank, report) of the lowest rank that has left one, or None."""
        for rank, words in enumerate(self._words):
            length = words[_TEXT]
            if length:
                return rank, self._read(rank, _TEXT_START, length).decode(errors="replace")
        return None

    def ask(self) -> int:
        """Ask all ranks for a statement; returns the number from which on it is an answer."""
        self._mine[_ASK] += 1
        return self.asked()

    def asked(self) -> int:
        """How often ranks have asked."""
        return int(sum(words[_ASK] for words in self._words))

    def post_statement(self, statement: Statement, number: int) -> None:
        """Leave what this rank says of itself, in answer to question `number`."""
        self._mine[_STATEMENT] = 0
        data = statement.encode(_TEXT_START - _STATEMENT_START)
        self._mine[_STATEMENT] = self._write(_STATEMENT_START, data)
        self._mine[_ANSWERED] = number

    def statement(self, rank: int, number: int) -> Statement | None:
        """What a rank has said since question `number`, or None."""
        words = self._words[rank]
        if words[_ANSWERED] < number or not words[_STATEMENT]:
            return None
        return Statement.decode(self._read(rank, _STATEMENT_START, words[_STATEMENT]))

    def _write(self, start: int, data: bytes) -> int:
        self._rows[self._rank][start : start + len(data)] = np.frombuffer(data, np.uint8)
        return max(len(data), 1)

    def _read(self, rank: int, start: int, length: int) -> bytes:
        return self._rows[rank][start : start + length].tobytes()

    def post_left(self) -> None:
        """Say that this rank will take part in nothing any more."""
        self._mine[_LEFT] = 1

    def has_left(self, rank: int) -> bool:
        return bool(self._words[rank][_LEFT])

    def release(self) -> None:
        """Drop all views, so that the memory beneath can be freed."""
        for words in self._words:
            words.release()
        self._rows, self._words = [], []
