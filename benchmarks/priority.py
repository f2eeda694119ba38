"""Makes ``nice`` count: Linux weighs sessions first, and mpiexec gives each rank one of its own."""

from __future__ import annotations

import os
from pathlib import Path


def lift_session() -> None:
    """Put this process's session above others, if the process itself was started above them.

    Raises:
        PermissionError: not root.
    """
    group = Path("/proc/self/autogroup")  # missing where the kernel does not group by session
    if os.nice(0) < 0 and group.exists():
        group.write_text(str(os.nice(0)))
