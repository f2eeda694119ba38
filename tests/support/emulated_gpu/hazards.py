"""Who used memory last, and whether that is known to be over: races between streams are errors.

Every stream counts its work (its tick) and knows, of every other stream, up to which tick that
one's work comes before its own next: by events that it waited for. Work that the host knows to be
over comes before all that is asked for later, by whomever. Two uses of the same bytes, one of them
a write, have to be in such an order; it is checked at every use. (These are vector clocks.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.emulated_gpu.errors import StreamHazard

if TYPE_CHECKING:
    from support.emulated_gpu.memory import Chunk
    from support.emulated_gpu.streams import Stream

Extent = tuple["Chunk", int, int]  # bytes from the second to before the third, addresses

completed: dict[int, int] = {}  # up to which tick of each stream the host knows work to be over


class Uses:
    """What one stream did with one chunk.

    Attributes:
        last: the latest tick.
        places: (from, to, whether written) -> (tick, name of the call).
    """

    __slots__ = ("last", "places")

    def __init__(self) -> None:
        self.last = 0
        self.places: dict[tuple[int, int, bool], tuple[int, str]] = {}


def use(
    stream: Stream,
    what: str,
    tick: int,
    extents: list[Extent],
    write: bool,
    logs: dict[Chunk, dict[int, Uses]] | None = None,
) -> None:
    """A call of that name, the stream's work number `tick`, reads or writes these places.

    Args:
        logs: of a capture: who used what in it; default: the chunks' own.

    Raises:
        StreamHazard: another stream uses them without an order between the two.
    """
    number = stream.number
    for chunk, start, end in extents:
        log = chunk.log if logs is None else logs.setdefault(chunk, {})
        if len(log) > 1 or (log and number not in log):
            for other, uses in log.items():
                if other != number and uses.last > stream.knows(other):
                    _compare(stream, other, what, uses, start, end, write)
        mine = log.get(number)
        if mine is None:
            mine = log[number] = Uses()
        mine.last = tick
        mine.places[start, end, write] = (tick, what)


def _compare(
    stream: Stream, other: int, what: str, uses: Uses, start: int, end: int, write: bool
) -> None:
    known = stream.knows(other)
    for (first, last, written), (tick, name) in uses.places.items():
        if tick > known and first < end and start < last and (write or written):
            does, did = ("writes" if w else "reads" for w in (write, written))
            raise StreamHazard(
                f"{what} on {stream} {does} {end - start} bytes that {name} on "
                f"{stream.named(other)} {did}, and nothing puts the two in order: record an event "
                "behind the first and let the second's stream wait for it, or synchronise"
            )


def given(stream: Stream, chunk: Chunk) -> None:
    """Memory was given out of the arena of a stream: what happens to it comes behind its work."""
    log = chunk.log
    for other in [o for o, uses in log.items() if uses.last <= stream.knows(o)]:
        del log[other]
    mine = log[stream.number] = Uses()
    mine.last = stream.tick
    mine.places[chunk.ptr, chunk.ptr + chunk.size, True] = (stream.tick, "its allocation")
