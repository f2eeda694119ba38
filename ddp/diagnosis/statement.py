"""What one rank says of itself when ranks disagree, as plain data that travels as JSON.

Stage of the flow: made by each rank, read by the one that writes the report. May import: `flight`,
`source`, and the signatures of `communicators.operations`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from allgrad.ddp.communicators.operations import describe_signature
from allgrad.ddp.diagnosis.flight import Entry, FlightRecorder
from allgrad.ddp.diagnosis.source import Place, condition_above, place, user_stack

CALLS_SENT = 12  # collectives of the past that a statement tells of
_STACK_SENT = 14


class Call(NamedTuple):
    """One collective that a rank has issued.

    Attributes:
        number: counted from 1 on that rank; sequence: of its first operation.
        what: the collective in words, e.g. "broadcast of 8 bytes from rank 0".
        note, step: see `FlightRecorder.add`.
        place: the user's line, or None.
        condition: the `if` with the rank in it under which the line stands, or "".
        age_s: seconds since it was issued.
    """

    number: int
    sequence: int
    what: str
    note: str
    step: int
    place: Place | None
    condition: str
    age_s: float


@dataclass
class Statement:
    """Where a rank is and what it has done.

    Attributes:
        rank: whose.
        state: "waits" in a collective; "runs" elsewhere; "ended"; "gone" without a word; "stopped"
            by a signal; "silent": there, but says nothing.
        waiting: sequence number of the operation it waits in, or 0.
        reached: sequence number of its last operation.
        calls: its last collectives, oldest first.
        stack: lines of its program, innermost first; empty if not known.
        detail: more about the state, in words.
        pid: number of its process, 0 if not known.
        message: the message that it waits for, in words, or "".
    """

    rank: int
    state: str
    waiting: int = 0
    reached: int = 0
    calls: list[Call] = field(default_factory=list)
    stack: list[Place] = field(default_factory=list)
    detail: str = ""
    pid: int = 0
    message: str = ""

    def call_at(self, sequence: int) -> Call | None:
        """The collective to which operation `sequence` belongs; None if it never came there.

        Negative numbers are those of collectives of GPUs, with one operation each.
        """
        if sequence > self.reached:
            return None
        if sequence < 0:
            return next((call for call in self.calls if call.sequence == sequence), None)
        found = [call for call in self.calls if 0 < call.sequence <= sequence]
        return found[-1] if found else None

    @property
    def last(self) -> Call | None:
        """The collective issued last."""
        return self.calls[-1] if self.calls else None

    @property
    def tells_of_another_failure(self) -> bool:
        """Whether the rank is inside of `fail` of an inquiry: that of another communicator."""
        return any(
            line.function == "fail"
            and line.file.startswith("allgrad.ddp.")
            and "inquiry" in line.file
            for line in self.stack
        )

    def encode(self, most_bytes: int) -> bytes:
        """As JSON of at most so many bytes; the outermost lines and oldest calls are left out."""
        calls, stack = list(self.calls), list(self.stack)
        while True:
            fields = {**self.__dict__, "calls": calls, "stack": stack}
            data = json.dumps(fields).encode()
            if len(data) <= most_bytes or not (calls or stack):
                return data[:most_bytes]
            if len(stack) > len(calls):
                del stack[-1]
            else:
                del calls[0]

    @classmethod
    def decode(cls, data: bytes) -> Statement | None:
        """Read what `encode` wrote; None if it was still being written."""
        try:
            fields: dict[str, Any] = json.loads(data)
        except ValueError:
            return None
        fields["calls"] = [_call(values) for values in fields["calls"]]
        fields["stack"] = [Place(*values) for values in fields["stack"]]
        return cls(**fields)


def _call(values: list[Any]) -> Call:
    call = Call(*values)
    return call._replace(place=None if call.place is None else Place(*call.place))


def calls_of(entries: list[Entry]) -> list[Call]:
    """Entries of a flight record with their places looked up."""
    now = time.monotonic()
    calls = []
    for number, sequence, what, note, step, found, when in entries:
        where = None if found is None else place(found)
        condition = "" if found is None else condition_above(found)
        words = what if isinstance(what, str) else describe_signature(what)
        calls.append(Call(number, sequence, words, note, step, where, condition, now - when))
    return calls


class Speaker:
    """Makes the statements of one rank; any thread of its process may ask.

    Args:
        rank: whose.
        recorder: its flight record.
        thread: identifier of the rank's thread.
        pid: number of its process.
    """

    def __init__(self, rank: int, recorder: FlightRecorder, thread: int, pid: int) -> None:
        self.rank, self.recorder, self.thread, self.pid = rank, recorder, thread, pid
        self.ended = False

    def statement(self) -> Statement:
        """Where the rank is now."""
        frame = sys._current_frames().get(self.thread)
        recorder = self.recorder
        waiting = recorder.waiting
        state = "ended" if self.ended or frame is None else "waits" if waiting else "runs"
        calls = calls_of(recorder.last(CALLS_SENT))
        stack = user_stack(frame, _STACK_SENT)
        return Statement(
            self.rank,
            state,
            waiting,
            recorder.reached,
            calls,
            stack,
            "",
            self.pid,
            recorder.message,
        )
