"""The line of the user's program from which something was called.

Stage of the flow: asked at every collective, so it is cheap: about 0.1 us per frame of ours, and
names and source text are looked up only when a message is written. Imports the standard library.
"""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType, FrameType
from typing import NamedTuple

# Modules beside our own that may stand between us and the user.
_BETWEEN = frozenset(
    ("allgrad", "contextlib", "functools", "threading", "concurrent.futures.thread", "atexit")
)

_LEAVE = ("continue", "break", "return", "raise", "sys.exit")

# A place as it is kept: nothing is looked up before somebody asks for it.
Mark = tuple[CodeType, int]


class Place(NamedTuple):
    """A line of source.

    Attributes:
        file: as the interpreter knows it, below the working directory relative to it.
        line: number of the line, from 1.
        function: name of the function, "" at the top level of a file.
        text: the line itself, stripped; "" if it cannot be read.
    """

    file: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        inside = f" in {self.function}" if self.function else ""
        text = f": {self.text}" if self.text else ""
        return f"{self.file}:{self.line}{inside}{text}"

    @property
    def short(self) -> str:
        """Without function and text: "train.py:31"."""
        return f"{self.file}:{self.line}"


def mark(depth: int = 1) -> Mark | None:
    """The innermost frame outside of allgrad, among the callers; None if there is none.

    Args:
        depth: number of calls to skip at least.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if not is_ours(frame):
            return frame.f_code, frame.f_lineno
        frame = frame.f_back
    return None


def user_line(depth: int = 1) -> Place | None:
    """The line of the user's program that led here; None if no frame is the user's.

    Example:
        >>> str(user_line()).endswith(">:1")
        True
    """
    found = mark(depth + 1)
    return None if found is None else place(found)


def is_ours(frame: FrameType) -> bool:
    """Whether a frame belongs to allgrad, or to a library that calls back for it."""
    name = frame.f_globals.get("__name__", "")
    return name in _BETWEEN or name.startswith("allgrad.")


def place(found: Mark) -> Place:
    """Look up what a mark stands for."""
    code, line = found
    return place_of(code.co_filename, line, code.co_name)


def place_of(file: str, line: int, function: str) -> Place:
    """A place with its source text, and its file as short as it is unambiguous."""
    text = linecache.getline(file, line).strip()
    return Place(_short(file), line, "" if function.startswith("<module") else function, text[:160])


def _short(file: str) -> str:
    if not os.path.isabs(file):
        return file
    try:
        relative = os.path.relpath(file)
    except (OSError, ValueError):  # the working directory is gone; another drive
        return file
    return file if relative.startswith("..") else relative


def condition_above(found: Mark) -> str:
    """The condition with a rank in it that decides whether a line is reached, or "".

    Reads the indentation of the source: "under `if rank == 0` (line 3)" for an enclosing block, its
    ``else`` included; "after `if rank == 1: continue` (line 3)" where a block above it leaves.
    """
    code, number = found
    indent = _indent(linecache.getline(code.co_filename, number))
    leaver, negated = "", False
    for above in range(number - 1, max(code.co_firstlineno - 1, number - 200, 0), -1):
        line = linecache.getline(code.co_filename, above)
        text, here = line.strip(), _indent(line)
        if not text or text.startswith("#"):
            continue
        if here > indent:
            leaver = text if text.startswith(_LEAVE) else leaver
            continue
        condition = "rank" in text.lower() and text.startswith(("if ", "elif ", "while "))
        if here < indent or negated:
            if condition:
                return f"under `{text.rstrip(':')}` (line {above})"
            indent, negated = here, text.startswith(("else:", "elif "))
            if text.startswith(("def ", "class ")):
                break
        elif condition and (leaver or any(f": {word}" in text for word in _LEAVE)):
            return f"after `{text} {leaver}".rstrip() + f"` (line {above})"
        leaver = ""
    return ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def user_stack(frame: FrameType | None, most: int = 12) -> list[Place]:
    """Lines from the innermost outwards; of our own frames the file is the module's name.

    Args:
        frame: innermost frame of a thread, as in ``sys._current_frames()``.
        most: how many lines at most; those furthest outside are left out.
    """
    lines: list[Place] = []
    while frame is not None and len(lines) < most:
        code, number = frame.f_code, frame.f_lineno or 0
        line = place_of(code.co_filename, number, code.co_name)
        lines.append(line._replace(file=frame.f_globals["__name__"]) if is_ours(frame) else line)
        frame = frame.f_back
    return lines


def is_users(line: Place) -> bool:
    """Whether a line of `user_stack` is the user's: not ours, nor of an installed library."""
    return not (_is_library(line.file) or line.file in _BETWEEN or line.file.startswith("allgrad."))


def _is_library(file: str) -> bool:
    return "site-packages" in file or "/lib/python3" in file or file.startswith("<frozen")
