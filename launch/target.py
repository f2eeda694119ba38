"""What the ranks are to run: checked before anything is started."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from pathlib import Path

from allgrad.errors import LaunchError


def check_target(target: str, module: bool) -> None:
    """Check that a script or a module's top package exists.

    Args:
        target: path of a script, or name of a module.
        module: which of both.

    Raises:
        LaunchError: it does not exist; the message names files of similar name.
    """
    if module:
        _check_module(target)
        return
    path = Path(target)
    if path.is_file():
        return
    what = "is a folder, not a script" if path.is_dir() else "does not exist"
    raise LaunchError(f"script {target} {what} (looked in {Path.cwd()}){_similar(path)}")


def _check_module(name: str) -> None:
    top = name.partition(".")[0]
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(top) if top else None
    finally:
        sys.path.pop(0)
    if found is None:
        raise LaunchError(f"module {name} does not exist: {sys.executable} does not find {top!r}")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    scripts = [entry.name for entry in path.parent.iterdir() if entry.suffix == ".py"]
    close = difflib.get_close_matches(path.name, scripts, n=3)
    return f"; similar: {', '.join(str(path.parent / name) for name in close)}" if close else ""
