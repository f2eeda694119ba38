"""What an asynchronous collective of the user returns; names as in ``torch.distributed.Work``.

Stage of the flow: between `collectives` and the communicator's own Work. May import: `futures`,
`communicators.base`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from allgrad.ddp.communicators import base
from allgrad.ddp.futures import Future, future_of
from allgrad.errors import DistributedError

_POLL_S = 1e-4


class Work:
    """A collective, or a message, that may still be under way.

    Args:
        work: the communicator's.
        tensors: what holds the result, for `result` and `get_future`.
        finish: called once when it has arrived, to bring the result into the tensors.
        describe: words for the message of a time-out, such as "[rank 0/2] all_reduce".
    """

    def __init__(
        self,
        work: base.Work,
        tensors: list[Any],
        finish: Callable[[], object] | None = None,
        describe: str = "",
    ) -> None:
        self._work, self._tensors, self._finish = work, tensors, finish
        self._describe = describe
        self._done = False
        self._error: Exception | None = None
        self._future: Future[list[Any]] | None = None

    def test(self) -> bool:
        """Push the communication on without blocking; True once the result is in place."""
        if not self._done and self._watched(self._work.test):
            self._end()
        return self._done

    def is_completed(self) -> bool:
        """The same as `test`, under PyTorch's name; an error counts as an end."""
        return self._error is not None or self.test()

    def wait(self, timeout: timedelta | float | None = None) -> bool:
        """Block until the result is in place; always True.

        Args:
            timeout: of this call, a timedelta or seconds; default that of `init_process_group`.

        Raises:
            DistributedError: another rank failed, or the time-out passed.
        """
        if timeout is not None and not self._done:
            self._poll(timeout.total_seconds() if isinstance(timeout, timedelta) else timeout)
        if not self._done:
            self._watched(self._work.wait)
            self._end()
        return True

    def get_future(self) -> Future[list[Any]]:
        """A future of `result()`, to which `then` adds what shall happen afterwards."""
        if self._future is None:
            self._future = future_of(self, self.result)
        return self._future

    def result(self) -> list[Any]:
        """The tensors that hold the result; its values are there once the work is done."""
        return self._tensors

    def is_success(self) -> bool:
        """Whether the work has ended without an error."""
        return self._done

    def exception(self) -> Exception | None:
        """The error that the work ended with, if it did."""
        return self._error

    def source_rank(self) -> int:
        """The rank whose message was received.

        Raises:
            DistributedError: this is no receive, or nothing has come.
        """
        source = getattr(self._work, "source", None)
        if source is None:
            raise DistributedError("source_rank() is there for messages that have been received")
        return int(source)

    def synchronize(self) -> None:
        """The same as `wait` on the CPU."""
        self.wait()

    def _poll(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.test():
            if time.monotonic() > deadline:
                raise DistributedError(
                    f"{self._describe} was not done within {timeout_s:g} s, the time-out of "
                    "this wait(); the work goes on, wait again or find the rank that is late"
                )
            time.sleep(_POLL_S)

    def _watched(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._error = error
            raise

    def _end(self) -> None:
        if not self._done:
            if self._finish is not None:
                self._finish()
            self._done = True
