"""Stretches of a flat array that travel as one row: what `Communicator.reduce_parts` is built from.

Stage of the flow: below `base`. May import: numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from allgrad.ddp.communicators.base import Work

Array = NDArray[Any]


class Unpacking:
    """A reduce-scatter whose row goes into the parts of an array once it has arrived."""

    def __init__(
        self, work: Work, row: Array, parts: Sequence[tuple[int, int]], array: Array
    ) -> None:
        self._work, self._row, self._parts, self._array = work, row, parts, array
        self._done = False

    def test(self) -> bool:
        if not self._done and self._work.test():
            self._unpack()
        return self._done

    def wait(self) -> None:
        if not self._done:
            self._work.wait()
            self._unpack()

    def _unpack(self) -> None:
        self._done = True
        place = 0
        for start, stop in self._parts:
            self._array[start:stop] = self._row[place : place + stop - start]
            place += stop - start


def pack(array: Array, parts: Sequence[tuple[int, int]], row: Array) -> None:
    """Write the parts of a flat array one after the other into a row."""
    place = 0
    for start, stop in parts:
        row[place : place + stop - start] = array[start:stop]
        place += stop - start
