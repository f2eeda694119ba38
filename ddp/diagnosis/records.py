"""The flight record, for users.

Stage of the flow: called by programs. May import: `statement`, `process_group`.
"""

from __future__ import annotations

from allgrad.ddp.diagnosis.flight import LENGTH
from allgrad.ddp.diagnosis.statement import Call, calls_of
from allgrad.ddp.process_group import ProcessGroup, default_group


def flight_record(group: ProcessGroup | None = None, last: int = LENGTH) -> list[Call]:
    """The last collectives of this rank, oldest first; no communication.

    Args:
        group: default: the default group.
        last: how many at most; 256 are kept.

    Returns:
        Entries with ``number``, ``what`` ("all_reduce of 8 bytes (float32, sum)"), ``note`` (its
        purpose, e.g. a bucket), ``step``, ``place`` (the line of the program) and ``age_s``. Empty
        with one rank and with ``ALLGRAD_DIAGNOSIS=0``.

    Example:
        >>> from allgrad import ddp
        >>> def main():
        ...     ddp.init_process_group()
        ...     ddp.barrier()
        ...     return ddp.flight_record()[-1].what
        >>> ddp.run_ranks(main, 2)
        ['barrier', 'barrier']
    """
    flight = (group or default_group()).communicator.flight
    return [] if flight is None else calls_of(flight.last(last))
