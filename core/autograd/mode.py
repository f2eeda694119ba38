"""Whether operations are recorded for backward; one switch per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    enabled = True
    inference = False  # inside `inference_mode`; `enabled` is False then
    anomaly: Any = None  # while anomalies are detected, an object of `anomaly_mode.py`
    autocast: Any = None  # inside `amp.autocast`, the `Region` of `tensors/autocasting.py`


mode = _Mode()


def is_grad_enabled() -> bool:
    """True when operations of this thread are recorded for backward."""
    return mode.enabled


class _Switch:
    """A context manager and decorator that sets recording to `target` inside."""

    target = False

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = self.target

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        mode.enabled = self._before.pop()

    def _again(self) -> _Switch:
        """A fresh switch to the same state, for one call of a decorated function."""
        return type(self)()

    def __call__(self, function: F) -> F:
        """Decorate `function` (a generator function runs each of its steps inside)."""
        if inspect.isgeneratorfunction(function):
            return self._decorate_generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]  # same signature by functools.wraps

    def _decorate_generator(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            steps = function(*args, **kwargs)
            resume: Callable[[], Any] = functools.partial(next, steps)
            while True:
                try:
                    with self._again():  # not while the caller has control
                        value = resume()
                except StopIteration as stop:
                    return stop.value
                try:
                    sent = yield value
                    resume = functools.partial(steps.send, sent)
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on to the generator
                    resume = functools.partial(steps.throw, error)

        return wrapped


class set_grad_enabled(_Switch):  # noqa: N801 - PyTorch's spelling
    """Switch recording on or off, as a call, a context manager or a decorator.

    Args:
        mode: the new state; on leaving a `with` block the state before it comes back.
    """

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.target = bool(mode)
        self._outside = is_grad_enabled()
        _set(self.target)

    def __enter__(self) -> None:
        self._before.append(self._outside)
        mode.enabled = self.target

    def _again(self) -> _Switch:
        return set_grad_enabled(self.target)

    def __call__(self, function: F) -> F:
        _set(self._outside)  # as a decorator it changes nothing until the function is called
        return super().__call__(function)


def _set(enabled: bool) -> None:
    mode.enabled = enabled


class _PlainSwitch(_Switch):
    """A switch that also decorates without parentheses: ``@no_grad``."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        if function is None:
            return super().__new__(cls)
        return cls()(function)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__()


class no_grad(_PlainSwitch):  # noqa: N801 - PyTorch's spelling
    """Inside, nothing is recorded: ``with no_grad(): ...`` or ``@no_grad()``."""

    target = False


class enable_grad(_PlainSwitch):  # noqa: N801 - PyTorch's spelling
    """Inside, operations are recorded even within `no_grad`."""

    target = True


class inference_mode(_Switch):  # noqa: N801 - PyTorch's spelling
    """Like `no_grad`, and what is made inside can never enter a graph: ``with inference_mode():``.

    Outside, such a tensor cannot be changed in place, nor saved for backward; `clone()` it.

    Args:
        mode: False switches inference off inside of an outer block, and recording on.
    """

    def __new__(cls, mode: Any = True) -> Any:
        if callable(mode):  # as a decorator without parentheses
            return cls()(mode)
        return super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.inference = bool(mode)
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        self._outer.append(mode.inference)
        mode.enabled, mode.inference = not self.inference, self.inference

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        mode.enabled, mode.inference = self._before.pop(), self._outer.pop()

    def _again(self) -> _Switch:
        return inference_mode(self.inference)


def is_inference_mode_enabled() -> bool:
    """True inside `inference_mode` on this thread."""
    return mode.inference
