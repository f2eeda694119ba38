"""What of the diagnosis is switched on; read from the environment by `init_process_group`.

Stage of the flow: an edge. May import: ``allgrad.errors``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from allgrad.errors import OptionError

MODE_VARIABLE, STALL_VARIABLE = "ALLGRAD_DIAGNOSIS", "ALLGRAD_STALL_WARNING_S"
_MODES = ("0", "1", "full")


@dataclass(frozen=True)
class Settings:
    """What a communicator keeps ready for the case that something is wrong.

    Attributes:
        enabled: collectives are written down, ranks watch themselves and tell each other.
        show_record: errors end with the last collectives of every rank.
        stall_warning_s: a rank that waits so long says for whom, and goes on waiting; 0: never.
        patience_s: how long the statements of the others are waited for.
    """

    enabled: bool = True
    show_record: bool = False
    stall_warning_s: float = 30.0
    patience_s: float = 0.6


def from_environ(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read ``ALLGRAD_DIAGNOSIS`` (0, 1, full) and ``ALLGRAD_STALL_WARNING_S`` (seconds, 0: never).

    Raises:
        OptionError: another value.

    Example:
        >>> from_environ({"ALLGRAD_DIAGNOSIS": "0"}).enabled
        False
    """
    mode = environ.get(MODE_VARIABLE, "") or "1"
    if mode not in _MODES:
        raise OptionError.unknown(f"environment variable {MODE_VARIABLE}", mode, _MODES)
    text = environ.get(STALL_VARIABLE, "") or str(Settings.stall_warning_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise OptionError(
            f"environment variable {STALL_VARIABLE}={text!r}: expected seconds >= 0, 0 for never"
        )
    return Settings(mode != "0", mode == "full", seconds)
