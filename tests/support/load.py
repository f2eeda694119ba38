"""How late this machine runs what is due: so that a bound of time can be tight where nothing else
runs, and hold where a lot does."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_TICK_S = 0.01
_DELAYS = 20  # that may come one after the other in what is measured


class Lag:
    """Measures, while the block runs, by how much a thread that sleeps wakes too late.

    Attributes:
        worst_s: the longest delay so far, in seconds.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)

    def _watch(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + _TICK_S
            time.sleep(_TICK_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due)

    def limit(self, seconds: float) -> float:
        """The bound that holds here, of one that holds on an idle machine."""
        return seconds + _DELAYS * self.worst_s

    def __enter__(self) -> Lag:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
