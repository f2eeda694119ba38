"""Ranks stand still while somebody looks at one of them in a debugger.

Stage of the flow: below the communicator of threads, which asks here at each of its calls. Imports
the standard library only.

A session is what lies between a breakpoint and its ``continue``; at the prompt of a session all
other ranks hold at their next communicator call, and the clock of their time-outs stands still.
While the session steps they run, so that a step over a collective finds its partners. Sessions of
several ranks come one after the other; a session that waits in a collective lends the terminal to a
rank whose breakpoint it may be waiting for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Hold:
    """Who is at the prompt, and who may be.

    Attributes:
        at_prompt: the rank whose prompt is shown, or None.
    """

    def __init__(self) -> None:
        self.at_prompt: int | None = None
        self._session: int | None = None
        self._condition = threading.Condition()
        self._held_s = 0.0
        self._since = 0.0

    def now(self) -> float:
        """Seconds of a clock that stands still while a prompt is shown."""
        with self._condition:
            return self._now()

    def _now(self) -> float:
        until = self._since if self.at_prompt is not None else time.monotonic()
        return until - self._held_s

    @contextmanager
    def prompt(
        self, rank: int, taking_turns: bool, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Wait for this rank's turn at the terminal; within the block all other ranks hold.

        Args:
            rank: who.
            taking_turns: whether a session of another rank must end first; not where a schedule
                lets only this rank run.
            cancelled: asked while waiting; true ends the wait.
        """
        with self._condition:
            while not self._free(rank, taking_turns) and not cancelled():
                self._condition.wait(0.2)
            self._open(rank)
        try:
            yield
        finally:
            with self._condition:
                self._close(rank)

    def _free(self, rank: int, taking_turns: bool) -> bool:
        if self.at_prompt is not None:
            return False
        return not taking_turns or self._session in (None, rank)

    def _open(self, rank: int) -> None:
        self.at_prompt = self._session = rank
        self._since = time.monotonic()

    def _close(self, rank: int) -> None:
        if self.at_prompt == rank:
            self._held_s += time.monotonic() - self._since
            self.at_prompt = None
            self._condition.notify_all()

    def end_session(self, rank: int) -> None:
        """The user has let this rank go on; the next rank may have the terminal."""
        with self._condition:
            if self._session == rank:
                self._session = None
                self._condition.notify_all()

    def pass_by(self, rank: int) -> None:
        """Stand still while another rank is at the prompt."""
        if self.at_prompt is None or self.at_prompt == rank:
            return
        with self._condition:
            while self.at_prompt is not None and self.at_prompt != rank:
                self._condition.wait()

    def lend(self, rank: int) -> bool:
        """This rank waits for others in a collective: they must run, and may have the terminal.

        Returns:
            Whether it stood at the prompt (its user typed a collective), and must come back.
        """
        if self._session != rank:
            return False
        with self._condition:
            was_at_prompt = self.at_prompt == rank
            self._close(rank)
            self._session = None
            self._condition.notify_all()
        return was_at_prompt

    def come_back(self, rank: int) -> None:
        """Take the prompt again after `lend` returned True."""
        with self._condition:
            while self.at_prompt is not None:
                self._condition.wait()
            self._open(rank)
