"""Work that is not done when it is asked for: collectives, which wait for other ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from support.emulated_gpu import state

changed = threading.Condition()  # something that others wait for is done


class Pending:
    """Something that will be done later, by another thread.

    Attributes:
        what: in words.
        error: why it was not done.
        missing: who has not come, in words.
    """

    def __init__(self, what: str, missing: Callable[[], str]) -> None:
        self.what, self.missing = what, missing
        self.done = False
        self.error: BaseException | None = None

    def finish(self, error: BaseException | None = None) -> None:
        """It is done, or will never be."""
        with changed:
            if not self.done:
                self.error, self.done = error, True
                changed.notify_all()

    def wait(self) -> None:
        """Wait until it is done.

        Raises:
            RuntimeError: that took longer than any test should.
        """
        deadline_s = time.monotonic() + state.TIMEOUT_S
        with changed:
            while not self.done:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise RuntimeError(
                        f"the emulated GPU waits for {self.what} since {state.TIMEOUT_S:g} s: "
                        f"{self.missing()}"
                    )
                changed.wait(left_s)
        if self.error is not None:
            raise self.error
