"""The last collectives of a rank: what, for what, from which line; written at every collective.

Stage of the flow: inside each communicator. May import: `source`. One entry costs about 1.5 us; it
keeps a tuple, and words are found when somebody reads it. Imports the standard library only.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from allgrad.ddp.diagnosis import source

LENGTH = 256  # entries kept

# (number, sequence, what, note, step, mark, time): see `FlightRecorder.add`.
Entry = tuple[int, int, int | str, str, int, source.Mark | None, float]


class FlightRecorder:
    """A ring of the last `LENGTH` collectives that one rank has issued.

    Attributes:
        number: of the last collective issued, counted from 1.
        reached: number of the last operation issued; a large collective has several.
        waiting: number of the operation in which the rank waits now, 0 if in none.
        message: the message that it waits for now, in words, or "".
        beside: the record of the rank's GPU, if it has one; `last` tells of both. Its numbers and
            sequences are its own, those negative, so that nobody takes them for the host's.
        oldest: of a GPU's record, the sequence of what `last` must tell of, or 0.
    """

    __slots__ = ("_ring", "beside", "message", "number", "oldest", "reached", "waiting")

    def __init__(self) -> None:
        self._ring: list[Entry | None] = [None] * LENGTH
        self.number = self.reached = self.waiting = self.oldest = 0
        self.beside: FlightRecorder | None = None
        self.message = ""

    def add(self, sequence: int, reached: int, what: int | str, note: str, step: int) -> None:
        """Write one collective down.

        Args:
            sequence, reached: numbers of its first and last operation (see Note [Sequence numbers]
                in `board.py`).
            what: in words, or a number of `operations.encode_signature`.
            note, step: of the communicator.
        """
        self.number = number = self.number + 1
        self.reached = reached
        self._ring[number % LENGTH] = (
            number, sequence, what, note, step, source.mark(3), time.monotonic()
        )  # fmt: skip

    @contextmanager
    def in_message(self, words: str) -> Iterator[None]:
        """Within the block, the rank waits for that message."""
        before, self.message = self.message, words
        try:
            yield
        finally:
            self.message = before

    def last(self, count: int = LENGTH) -> list[Entry]:
        """The last entries, oldest first."""
        newest = self.number
        numbers = range(max(1, newest - min(count, LENGTH) + 1), newest + 1)
        found = [self._ring[number % LENGTH] for number in numbers]
        entries = [entry for entry in found if entry is not None]
        if self.beside is None:
            return entries
        both = sorted(entries + self.beside.last(count), key=lambda entry: entry[6])
        kept = both[-count:]
        oldest = self.beside.oldest
        stuck = [e for e in self.beside.last() if e[1] == oldest and e not in kept]
        return stuck + kept[len(stuck) :]


def check_word(signature: int, note: str) -> int:
    """One positive number that differs if the collective or its note does.

    Buckets of one size must not be mistaken for each other, so the note counts. Python's own hash
    of a text differs between processes.
    """
    return signature ^ zlib.crc32(note.encode()) << 6 if note else signature
