"""A forked child of a rank is no rank: it must not touch the communicator it has inherited.

Stage of the flow: asked by communicators of processes when they are made. Imports the standard
library only. It costs nothing at a collective: the child itself marks the communicator.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

FORKED = (
    "a collective in a forked child (a data loader's worker, multiprocessing): only the rank "
    "itself may communicate. Return the values to the parent, and call the collective there"
)


def mark_in_children(communicator: Any) -> None:
    """From now on a child that this process forks finds ``communicator.forked`` set."""
    reference = weakref.ref(communicator)

    def in_child() -> None:
        found = reference()
        if found is not None:
            found.forked = True

    os.register_at_fork(after_in_child=in_child)
