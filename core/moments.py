"""Moments of a training step at which somebody may want to do something in this thread.

Lowest layer; imports the standard library only. The data loader and the gradient reducer say when
they hand out a batch or have a gradient; whoever runs several ranks as threads of one process may
listen and let another thread go first. Nobody listens by default: one look at a thread-local.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

Listener = Callable[[str], None]


class _Thread(threading.local):
    listener: Listener | None = None


_thread = _Thread()


def moment(what: str) -> None:
    """Say that this thread has come to a moment, for instance "batch".

    Example:
        >>> before = listen(print)
        >>> moment("batch")
        batch
        >>> _ = listen(before)
    """
    listener = _thread.listener
    if listener is not None:
        listener(what)


def listen(listener: Listener | None) -> Listener | None:
    """Call `listener` at every moment of this thread from now on; returns the one before."""
    before, _thread.listener = _thread.listener, listener
    return before
