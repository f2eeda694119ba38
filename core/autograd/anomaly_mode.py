"""Which line of the user's forward code made a NaN in backward. Imports: mode, errors.

While detection is on, every recorded op remembers the user's part of the call stack, and the
engine looks at every gradient. While it is off, an op costs one look at a flag more.
"""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import GradientError
from .mode import mode

_PACKAGE = str(Path(__file__).resolve().parents[1])
_FRAMES = 10


class _Detector:
    """Notes where ops are called, and looks at what their backward returns."""

    def __init__(self, check_nan: bool) -> None:
        self.check_nan = check_nan

    def note(self, op: Any, inputs: Any) -> None:
        """Remember the user's frames that led to `op`, innermost first."""
        frames: list[tuple[str, int, str]] = []
        frame = sys._getframe(1)
        while frame is not None and len(frames) < _FRAMES:
            code = frame.f_code
            if not code.co_filename.startswith(_PACKAGE):
                frames.append((code.co_filename, frame.f_lineno, code.co_name))
            frame = frame.f_back  # type: ignore[assignment]  # None at the outermost
        op.trace = frames

    def check(self, node: Any, results: Any) -> None:
        """Raise if one of the gradients that `node` returned has a NaN."""
        if not self.check_nan:
            return
        for index, result in enumerate(results):
            array = getattr(result, "_array", result)
            if array is not None and np.isnan(array).any():
                raise GradientError(
                    f"Function '{node.name()}' returned nan values in its {index}th output."
                )

    def explain(self, node: Any, error: Exception) -> None:
        """Add to `error`, raised by the backward of `node`, where its forward was called."""
        said = f"{where(node)}"
        if isinstance(error, GradientError) and error.args and said not in str(error.args[0]):
            error.args = (f"{error.args[0]}\n{said}",)
        else:
            error.add_note(f"Raised in the backward of {node.name()}. {said}")


def where(node: Any) -> str:
    """The forward call of `node` in the user's code, as lines of text."""
    if not node.trace:
        return f"{node.name()}: no forward call was noted; enable anomaly detection during forward."
    lines = ["The forward call that it belongs to (innermost line last):"]
    for name, number, function in reversed(node.trace):
        lines.append(f'  File "{name}", line {number}, in {function}')
        code = linecache.getline(name, number).strip()
        if code:
            lines.append(f"    {code}")
    return "\n".join(lines)


class set_detect_anomaly:  # noqa: N801 - PyTorch's spelling
    """Switch detection on or off, as a call or as a context manager.

    Args:
        mode: the new state; on leaving a `with` block the state before it comes back.
        check_nan: also raise where a gradient has a NaN; otherwise only errors are explained.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = _now()
        _set(_Detector(check_nan) if mode else None)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _set(self._before)


class detect_anomaly:  # noqa: N801 - PyTorch's spelling
    """Inside, a NaN or an error in backward is reported with the line of forward it comes from.

    Forward must run inside too. It makes every op slower; use it to search an error.

    Args:
        check_nan: also raise where a gradient has a NaN.

    Raises:
        RuntimeError: by backward, naming the op and the user's line.

    >>> import allgrad as ag
    >>> x = ag.tensor([1.0, 0.0], requires_grad=True)
    >>> try:
    ...     with ag.autograd.detect_anomaly():
    ...         (x / x).sum().backward()
    ... except RuntimeError as error:
    ...     print(str(error).splitlines()[0])
    Function 'DivBackward' returned nan values in its 1th output.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before.append(_now())
        _set(_Detector(self.check_nan))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _set(self._before.pop())


def _now() -> Any:
    return mode.anomaly


def _set(detector: _Detector | None) -> None:
    mode.anomaly = detector


def is_anomaly_enabled() -> bool:
    """Whether anomalies are detected on this thread."""
    return mode.anomaly is not None


def is_anomaly_check_nan_enabled() -> bool:
    """Whether detection is on and looks for NaN."""
    return mode.anomaly is not None and mode.anomaly.check_nan
