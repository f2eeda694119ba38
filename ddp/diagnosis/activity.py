"""What a rank is doing, told from the lines of its stack.

Stage of the flow: pure functions of a stack, for reports. May import: `source`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from allgrad.ddp.diagnosis.source import Place, is_users

# (what it does, condition on module or file, condition on the text of the innermost line)
_ANY = re.compile("")
_RULES: tuple[tuple[str, re.Pattern[str], re.Pattern[str]], ...] = (
    ("sleeps", _ANY, re.compile(r"\bsleep\(")),
    ("is at the prompt of a debugger", re.compile(r"(^|/)(pdb|bdb|cmd)\.py$"), _ANY),
    ("waits for the keyboard", _ANY, re.compile(r"\binput\(|\bbreakpoint\(|set_trace\(")),
    ("waits for a child process", re.compile(r"(^|/)subprocess\.py$"), _ANY),
    ("waits for the network", re.compile(r"(^|/)(socket|ssl|client|selectors)\.py$"), _ANY),
    ("waits for a queue", re.compile(r"(^|/)(queue|queues)\.py$"), _ANY),
    ("waits for another process", re.compile(r"(^|/)(connection|popen_\w+)\.py$"), _ANY),
    (
        "waits for a lock or another thread",
        _ANY,
        re.compile(r"\.acquire\(|\.join\(\)|\.wait\(|^with \S*lock\S*:", re.IGNORECASE),
    ),
)
_MODULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("in the data loader", ("allgrad.utils.data",)),
    ("in a checkpoint", ("allgrad.checkpoint", "allgrad.serialization", "allgrad.ddp.checkpoint")),
    ("in backward", ("allgrad.autograd",)),
    ("in the optimizer", ("allgrad.optim",)),
    ("in a module's forward", ("allgrad.nn",)),
)


def activity(stack: Sequence[Place]) -> str:
    """What the innermost lines do, e.g. "sleeps in the data loader"; "computes" if nothing tells.

    Args:
        stack: innermost line first, as of `source.user_stack`.

    Example:
        >>> activity([Place("train.py", 3, "load", "time.sleep(600)")])
        'sleeps'
    """
    if not stack:
        return "is at a place that is not known"
    verb = _verb(stack)
    for words, modules in _MODULES:
        if any(line.file.startswith(modules) for line in stack):
            return f"{verb or 'is'} {words}"
    return verb or "computes"


def _verb(stack: Sequence[Place]) -> str:
    for line in stack:
        if line.file.startswith("allgrad."):
            continue  # our own locks say nothing
        for verb, file, text in _RULES:
            if file.search(line.file) and text.search(line.text):
                return verb
        if is_users(line):
            break  # what a user's function does is told by its own line and what it calls
    return ""


def user_lines(stack: Sequence[Place], most: int = 4) -> list[Place]:
    """The lines that are the user's, innermost first; all lines if none is."""
    return [line for line in stack if is_users(line)][:most] or list(stack[:most])
