"""Saving and leaving when a signal asks for it, all ranks at the same step.

Stage of the flow: around the training loop. May import: `process_group`, `gate`, the standard
library.

Note [One step for all]
Schedulers send SIGTERM or SIGUSR1 to all ranks, to one, or to the launcher, and it arrives in the
middle of different steps. So a signal is only noted. What is noted travels with the headers that
the ranks exchange at each step anyway (`gate`), so it costs no collective of its own, and all ranks
learn of it in the same step. Without a wrapped model `requested` is a small collective.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, NoReturn

import numpy as np

from allgrad.ddp.communicators.base import ReduceOp
from allgrad.ddp.gate import Gate
from allgrad.ddp.process_group import ProcessGroup, default_group


class GracefulExit(SystemExit):
    """All ranks leave because a signal asked for it; the exit code is 128 + its number.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class graceful_exit:  # noqa: N801 - reads as a statement
    """In a ``with``: note signals that ask to leave; afterwards leave, if one came.

    The exit code is 128 + the signal's number (143 for SIGTERM, 138 for SIGUSR1), as shells report
    it, so that whoever started the job sees that it was not finished and may start it again.
    ``allgrad run`` does not take it for a failure, and waits ``--grace`` seconds for it.

    Args:
        signals: which; default SIGTERM and SIGUSR1, as batch systems send them before the end.
        leave: end the program by `GracefulExit` at the end of the block if a signal was heard.
        group: default: the default group.

    >>> from allgrad import ddp
    >>> ddp.init_process_group()
    >>> with ddp.graceful_exit(leave=False) as stop:
    ...     for step in range(1000):
    ...         if step == 3:
    ...             stop.request()  # as if a signal had come
    ...         if stop.requested():
    ...             print("save here, at step", step)
    ...             break
    save here, at step 3
    >>> ddp.destroy_process_group()
    """

    def __init__(
        self,
        signals: Iterable[int] = (signal.SIGTERM, signal.SIGUSR1),
        *,
        leave: bool = True,
        group: ProcessGroup | None = None,
    ) -> None:
        self._signals = tuple(signals)
        self._leave = leave
        self._group = group or default_group()
        self._comm = self._group.communicator
        self._previous: dict[int, Any] = {}
        self._noted = 0  # the first signal that this rank got
        self._heard = 0  # the signal that all ranks know of

    def __enter__(self) -> graceful_exit:
        # Ranks that are threads cannot have handlers; their process gets no signals of its own.
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._note) for n in self._signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leaves = kind is None and self._heard and self._leave
        if leaves:
            self._gather()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._comm.asked_to_leave = self._comm.all_asked_to_leave = 0
        if leaves:
            raise GracefulExit(self._heard)

    def leave(self) -> NoReturn:
        """Collective. Leave now, from inside nested loops, too; once `requested` said so.

        Raises:
            GracefulExit: always.
        """
        self._gather()
        raise GracefulExit(self._heard or self._noted or signal.SIGTERM)

    def _gather(self) -> None:
        self._group.meet()
        self._comm.barrier()  # nobody leaves while another one still writes

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask to leave as if this rank had got the signal; one rank is enough."""
        self._note(number, None)

    def requested(self) -> bool:
        """Whether any rank was asked to leave; all ranks get the same answer.

        Call it once per step, on all ranks, after ``optimizer.step()``. With a wrapped model it
        costs nothing and tells what was known when the last backward began.
        """
        if self._group.size == 1:
            self._heard = self._noted
        elif any(isinstance(meeting, Gate) for meeting in self._group.meetings):
            self._heard = self._comm.all_asked_to_leave
        else:
            self._group.meet()
            asked = np.array([self._noted], np.int64)
            self._comm.all_reduce(asked, ReduceOp.MAX)
            self._heard = int(asked[0])
        return self._heard > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = self._comm.asked_to_leave = self._noted or number
