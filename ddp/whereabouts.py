"""What a rank is doing, in words. Asked when something is wrong, never in a step.

Stage of the flow: called by `gate`. May import: `diagnosis.source`.
"""

from __future__ import annotations

import sys
from types import FrameType

from allgrad.ddp.diagnosis.source import is_ours, user_line


def whereabouts() -> str:
    """The call of allgrad and its line, "called barrier() at train.py:57", or the program's end."""
    frame: FrameType | None = sys._getframe(1)
    name = ""
    while frame is not None and is_ours(frame):
        code = frame.f_code.co_name
        if not code.startswith("_"):
            name = code
        if name == "leave":
            return "has come to the end of its program"
        frame = frame.f_back
    place = user_line()
    if place is None:
        return "has come to the end of its program"
    return f"called {name}() at {place}" if name else f"is at {place}"


def line() -> str:
    """The user's line: "train.py:57: loss.backward()"."""
    place = user_line()
    return "an unknown line" if place is None else str(place)
