"""What a trace leaves on disk while training runs: one file per rank, which grows by whole steps.

May import: `model`, the standard library, `allgrad.errors`. A record is written with one `write`
per step, so whatever kills the rank, all finished steps are on disk; a record that was cut off at
the end is passed over. Files do not grow without end: after `KEPT` steps a file becomes the "old"
one and a new one begins, so between `KEPT` and twice as many of the last steps are there.

A trace is asked for as a folder, or as a file whose name ends in .json: then the files of the ranks
lie in a folder beside it, and are removed once they are merged into it.
"""

from __future__ import annotations

import marshal
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allgrad.ddp.tracing.model import Event, RankStep, RankTrace, Trace
from allgrad.errors import OptionError
from allgrad.timeline import Step

KEPT = 200
_LENGTH = struct.Struct("<I")
_FORMAT = 1  # of the records; a file of another one is refused


def folder_of(target: Path) -> Path:
    """Where the ranks' files of a trace lie."""
    return target.with_suffix(".ranks") if target.suffix == ".json" else target


def merged_of(target: Path) -> Path:
    """The file that holds the trace of all ranks."""
    return target if target.suffix == ".json" else target / "trace.json"


def parse_steps(text: str | None) -> tuple[int, int | None]:
    """Read "10:20", ":50", "100:" or "7": the first step to record, and the one after the last.

    Raises:
        OptionError: anything else.
    """
    if not text:
        return 0, None
    first, colon, last = text.partition(":")
    try:
        begin = int(first or 0)
        end = (int(last) if last else None) if colon else begin + 1
    except ValueError:
        begin, end = -1, None
    if begin < 0 or (end is not None and end <= begin):
        raise OptionError(
            f"trace steps {text!r}: expected FIRST:LAST without LAST, as in 10:20, :50, 100: or 7"
        )
    return begin, end


class RankFile:
    """The growing file of one rank.

    Args:
        folder: made if it is not there; older files of this rank are removed.
        rank, size, host, offset_s, error_s: see `RankTrace`; `offset_s` is what must be added to
            this rank's times to get rank 0's.
        kept: see the module's description.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        host: str,
        offset_s: float = 0.0,
        error_s: float = 0.0,
        kept: int = KEPT,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank:05d}.steps"
        self._old = self._path.with_suffix(".old")
        self._old.unlink(missing_ok=True)
        self._header = {
            "format": _FORMAT,
            "rank": rank,
            "size": size,
            "host": host,
            "offset_s": offset_s,
            "error_s": error_s,
        }
        self._kept, self._steps = kept, 0
        self._file = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o644)
        os.write(file, _record(self._header))
        return file

    def write(self, step: Step) -> None:
        """Append a finished step. The sink of a `Timeline`."""
        if self._steps == self._kept:
            os.close(self._file)
            os.replace(self._path, self._old)
            self._file, self._steps = self._open(), 0
        self._steps += 1
        events = [(*event[:4], _plain(event[4]) if event[4] else {}) for event in step.events]
        os.write(self._file, _record((*step[:3], events, step.dropped)))

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _record(value: Any) -> bytes:
    data = marshal.dumps(value)
    return _LENGTH.pack(len(data)) + data


def _plain(value: Any) -> Any:
    """What marshal can write: numbers of NumPy become Python's, unknown things text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    item = getattr(value, "item", None)
    return _plain(item()) if item is not None and getattr(value, "size", 2) == 1 else str(value)


def read_folder(folder: Path) -> Trace:
    """The trace of all ranks that left files in a folder.

    Raises:
        OptionError: there is none.
    """
    ranks: dict[int, RankTrace] = {}
    size = 0
    # "old" sorts before "steps", and holds the earlier steps
    for path in sorted([*folder.glob("rank-*.old"), *folder.glob("rank-*.steps")]):
        records = _records(path)
        header = next(records, None)
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            continue
        rank, size = header["rank"], max(size, header["size"])
        trace = ranks.setdefault(rank, RankTrace(rank, header["host"], header["error_s"], []))
        trace.steps += [_step(record, header["offset_s"]) for record in records]
    if not ranks:
        raise OptionError(
            f"no trace in {folder}: expected files rank-*.steps, as `allgrad run --trace {folder}` "
            "writes them"
        )
    return Trace(size, [ranks[rank] for rank in sorted(ranks) if rank < size])


def _records(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    start = 0
    while start + _LENGTH.size <= len(data):
        (count,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if start + count > len(data):
            return  # the rank was killed while it wrote
        yield marshal.loads(data[start : start + count])
        start += count


def _step(record: Any, offset_s: float) -> RankStep:
    index, begin, end, events, dropped = record
    shifted = [
        Event(name, category, b + offset_s, e + offset_s, details)
        for name, category, b, e, details in events
    ]
    return RankStep(index, begin + offset_s, end + offset_s, shifted, dropped)


def remove_folder(folder: Path) -> None:
    """Remove the files of the ranks, and the folder if nothing else is in it."""
    for pattern in ("rank-*.old", "rank-*.steps"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return  # something else lies there
