"""Results that are not there yet; names as in ``torch.futures``.

Stage of the flow: what asynchronous collectives and communication hooks hand out. May import:
`communicators.base`, ``allgrad.errors``.

Note [Who completes a future]
    No thread works in the background. A future of a collective is completed by whoever asks for it:
    `done()` pushes the communication on, `wait()` blocks until it has ended. A future made by
    `then` asks the one that it came from. One made by hand is completed by `set_result`, maybe in
    another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from allgrad.ddp.communicators.base import Work
from allgrad.errors import DistributedError

T = TypeVar("T")
S = TypeVar("S")


class Future(Generic[T]):
    """A value that will be there later. See Note [Who completes a future].

    Args:
        devices: accepted for PyTorch scripts; values live on the CPU.

    Example:
        >>> future = Future()
        >>> doubled = future.then(lambda done: 2 * done.value())
        >>> future.set_result(21)
        >>> doubled.wait()
        42
    """

    def __init__(self, *, devices: Sequence[Any] | None = None) -> None:
        self._lock = threading.Condition()
        self._settled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[T]], object]] = []
        self._work: tuple[Work, Callable[[], T]] | None = None
        self._origin: Future[Any] | None = None

    def done(self) -> bool:
        """Whether the value, or an error, is there; pushes the communication on."""
        if not self._settled:
            if self._work is not None:
                self._ask(self._work[0].test)
            elif self._origin is not None:
                self._origin.done()  # settles this one by a callback
        return self._settled

    def push(self) -> None:
        """Push the communication on, without completing this future or what follows from it."""
        origin: Future[Any] = self
        while origin._origin is not None:
            origin = origin._origin
        if origin._work is not None:
            origin._work[0].test()

    def wait(self) -> T:
        """Block until the value is there and return it, or raise the error that came instead."""
        self._wait_settled()
        return self.value()

    def value(self) -> T:
        """The value of a future that is done.

        Raises:
            DistributedError: it is not done yet. Whatever `set_exception` was given.
        """
        if not self.done():
            raise DistributedError("Future.value() before the future is done; call wait()")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def then(self, callback: Callable[[Future[T]], S]) -> Future[S]:
        """A future of what ``callback(self)`` returns once this one is done.

        An exception of the callback becomes the error of the new future.
        """
        following: Future[S] = Future()
        following._origin = self

        def run(done: Future[T]) -> None:
            try:
                value = callback(done)
            except Exception as error:  # noqa: BLE001 - raised again by whoever waits for it
                following.set_exception(error)
            else:
                following.set_result(value)

        self.add_done_callback(run)
        return following

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call ``callback(self)`` once this future is done, or now if it is."""
        with self._lock:
            if not self._settled:
                self._callbacks.append(callback)
                return
        callback(self)

    def set_result(self, result: T) -> None:
        """Complete the future.

        Raises:
            DistributedError: it was completed before.
        """
        self._settle(result, None)

    def set_exception(self, result: BaseException) -> None:
        """Complete the future with an error, which `wait` and `value` raise."""
        self._settle(None, result)

    def _ask(self, question: Callable[[], object]) -> None:
        """Let the collective go on, and take its result once it is there."""
        assert self._work is not None
        result = self._work[1]
        try:
            arrived = question() is not False  # `test` says whether, `wait` returns when
        except Exception as error:  # noqa: BLE001 - `value` raises it
            if not self._settled:
                self.set_exception(error)
            return
        if arrived and not self._settled:
            self.set_result(result())

    def _wait_settled(self) -> None:
        """Wait without raising an error that came instead of the value."""
        if not self._settled:
            if self._work is not None:
                self._ask(self._work[0].wait)
            elif self._origin is not None:
                self._origin._wait_settled()
            if not self._settled:
                with self._lock:
                    self._lock.wait_for(lambda: self._settled)

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        with self._lock:
            if self._settled:
                raise DistributedError("this Future was completed before; it takes one result")
            self._value, self._error, self._settled = value, error, True
            callbacks, self._callbacks = self._callbacks, []
            self._work = self._origin = None
            self._lock.notify_all()
        for callback in callbacks:
            callback(self)


def future_of(work: Work, result: Callable[[], T]) -> Future[T]:
    """The future of a running collective; ``result()`` gives its value once the work is done.

    Example:
        >>> from allgrad.ddp.communicators.base import COMPLETED
        >>> future_of(COMPLETED, lambda: "sum").wait()
        'sum'
    """
    future: Future[T] = Future()
    future._work = (work, result)
    return future


def collect_all(futures: Sequence[Future[T]]) -> Future[list[Future[T]]]:
    """A future of the list of these futures, done when all of them are.

    Example:
        >>> both = collect_all([Future(), Future()])
        >>> both.done()
        False
    """
    return future_of(_All(futures), lambda: list(futures))


def wait_all(futures: Sequence[Future[T]]) -> list[T]:
    """Wait for all futures and return their values."""
    return [future.wait() for future in futures]


class _All:
    """The work of waiting for several futures."""

    def __init__(self, futures: Sequence[Future[Any]]) -> None:
        self._futures = futures

    def test(self) -> bool:
        return all([future.done() for future in self._futures])  # noqa: C419 - asks every one

    def wait(self) -> None:
        for future in self._futures:
            future._wait_settled()
