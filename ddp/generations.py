"""What ranks tell each other when they save or resume. See Note [Generations over ranks].

Stage of the flow: beside `checkpoint`, which has the note. May import: `allgrad.checkpoint`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from allgrad.checkpoint import Manifest


class Trouble(NamedTuple):
    """Why a write failed."""

    text: str = ""
    lasting: bool = False  # it is not the disk's fault, so the next save would fail as well


class Row(NamedTuple):
    """What a rank brings to a save."""

    own: dict[str, Any] | None
    refusal: str  # why this rank's state cannot be saved
    last: Trouble  # of the write that was under way
    serial: int


GOOD = Trouble()


def key_of(manifest: Manifest) -> tuple[int, int, str]:
    """What two manifests of one generation have in common."""
    return manifest.serial, manifest.step, manifest.tensor_sha256


def copy_of_values(values: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """The user's values as they are now, for a thread that writes them later; or a refusal."""
    try:
        return json.loads(json.dumps(dict(values or {}), allow_nan=False)), ""
    except (TypeError, ValueError) as err:
        return {}, f"values={{...}} must be JSON (no NaN): {err}"


def identity_of(folder: Path) -> tuple[Any, ...]:
    """Equal for two ranks of one host that use the same folder, which is made if missing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = socket.gethostname()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stat = folder.stat()
    except OSError:  # the writer will say so
        return (boot, str(folder.absolute()))
    return (boot, stat.st_dev, stat.st_ino)
