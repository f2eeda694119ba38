"""Where in the user's program a rank is; for messages.

Stage of the flow: called when something is wrong, never in a step. Imports the standard library.
"""

from __future__ import annotations

import sys
from pathlib import Path


def caller() -> tuple[str, str]:
    """(the function of allgrad that was called, "train.py:57" where the user called it).

    The name is empty if the user called nothing of allgrad's, as at the end of the program.
    """
    frame = sys._getframe(1)
    name = ""
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        code = frame.f_code.co_name
        if not code.startswith("_"):
            name = code
        if frame.f_back is None:
            return "", "the end of the program"
        frame = frame.f_back
    file = Path(frame.f_code.co_filename).name
    if file in ("threading.py", "<frozen atexit>"):
        return "", "the end of the program"
    return name, f"{file}:{frame.f_lineno}"


def _is_ours(module: str) -> bool:
    return module == "allgrad" or module.startswith(("allgrad.", "contextlib"))
