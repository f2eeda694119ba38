"""How tensors print: PyTorch's form, four digits, long ones summarised."""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import numpy as np

from .. import dtypes
from ..backend.arrays import to_host
from ..errors import OptionError

__all__ = ["set_printoptions"]

_PREFIX = "tensor("


class PrintOptions(NamedTuple):
    """What `set_printoptions` sets."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}


class _State(threading.local):
    options = PrintOptions()


_state = _State()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how this thread prints tensors; what is None stays (`sci_mode` becomes automatic).

    Args:
        precision: digits after the point (4 at start).
        threshold: number of elements above which a tensor is summarised (1000).
        edgeitems: elements shown at each end of a summarised dimension (3).
        linewidth: characters in a line (80).
        profile: "default", "short" or "full", before the other arguments are applied.
        sci_mode: whether numbers are written as 1.0000e+00; None decides for each tensor.

    Raises:
        ValueError: an unknown profile.
    """
    options = _state.options
    if profile is not None:
        if profile not in _PROFILES:
            raise OptionError.unknown("profile of set_printoptions", profile, _PROFILES)
        options = _PROFILES[profile]
    given = {
        "precision": precision, "threshold": threshold, "edgeitems": edgeitems,
        "linewidth": linewidth,
    }  # fmt: skip
    changes: Any = {name: value for name, value in given.items() if value is not None}
    _state.options = options._replace(sci_mode=sci_mode, **changes)


class _Numbers:
    """One form for all elements of a tensor, chosen by their sizes.

    Args:
        values: all elements that are shown; real.
    """

    def __init__(self, values: np.ndarray, options: PrintOptions) -> None:
        self.digits, self.whole, self.power = options.precision, True, False
        self.floating, self.width = values.dtype.kind == "f", 1
        if not self.floating:
            self.width = max((len(str(v)) for v in values.ravel().tolist()), default=1)
            return
        finite = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        if finite.size:
            sizes = np.abs(finite)
            self.whole = bool((finite == np.ceil(finite)).all())
            with np.errstate(over="ignore"):
                wide = sizes.max() / sizes.min() > 1000.0 or sizes.max() > 1.0e8
            self.power = bool(wide or (not self.whole and sizes.min() < 1.0e-4))
        if options.sci_mode is not None:
            self.power = options.sci_mode
        self.width = max((len(self._text(v)) for v in finite.tolist()), default=1)

    def _text(self, value: Any) -> str:
        if not self.floating:
            return str(value)
        if self.power:
            return f"{value:.{self.digits}e}"
        if self.whole:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{self.digits}f}"

    def __call__(self, value: Any) -> str:
        """The text of one element, as wide as all others."""
        return self._text(value).rjust(self.width)


class _ComplexNumbers:
    """The same for complex elements."""

    def __init__(self, values: np.ndarray, options: PrintOptions) -> None:
        self.real, self.imag = _Numbers(values.real, options), _Numbers(values.imag, options)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, value: complex) -> str:
        imag = (self.imag(value.imag) + "j").lstrip()
        return self.real(value.real) + (imag if imag[0] in "+-" else f"+{imag}")


def _summary(array: np.ndarray, edge: int) -> np.ndarray:
    """The elements of a summarised tensor that are shown."""
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            kept = np.r_[0:edge, n - edge : n]
            array = np.take(array, kept, axis)
    return array


def _body(array: np.ndarray, indent: int, form: Any, short: bool, options: PrintOptions) -> str:
    """The elements in brackets, every dimension in its lines."""
    if array.ndim == 0:
        return str(form(array.item()))
    edge, n = options.edgeitems, len(array)
    cut = short and n > 2 * edge
    shown = [*range(edge), *range(n - edge, n)] if cut else list(range(n))
    if array.ndim > 1:
        parts = [_body(array[i], indent + 1, form, short, options) for i in shown]
        if cut:
            parts.insert(edge, "...")
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"
    texts = [form(array[i].item()) for i in shown]
    if cut:
        texts.insert(edge, " ...")
    per_line = max(1, (options.linewidth - indent) // (form.width + 2))
    lines = [", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def tensor_text(t: Any) -> str:
    """``tensor([...], dtype=..., grad_fn=...)``."""
    array, options = to_host(t._array), _state.options
    if array.dtype.itemsize == 2 and t.dtype.is_floating_point:
        array = array.astype(np.float32)
    default = dtypes.get_default_dtype()
    suffixes = []
    if not array.size:
        body = "[]"
        if array.ndim != 1:
            suffixes.append(f"size={tuple(array.shape)}")
        implied = t.dtype is default
    else:
        short = array.size > options.threshold
        shown = _summary(array, options.edgeitems) if short else array
        form = (_ComplexNumbers if array.dtype.kind == "c" else _Numbers)(shown, options)
        body = _body(array, len(_PREFIX), form, short, options)
        complex_default = dtypes.scalar_dtype(1j)
        implied = t.dtype in (default, dtypes.int64, dtypes.bool_) or (
            array.dtype == complex_default
        )
    if t.is_cuda:
        suffixes.append(f"device={str(t.device)!r}")
    if not implied:
        suffixes.append(f"dtype={t.dtype!r}")
    if t.grad_fn is not None:
        suffixes.append(f"grad_fn={t.grad_fn!r}")
    elif t.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(_PREFIX + body, suffixes, options.linewidth)


def _with_suffixes(text: str, suffixes: list[str], linewidth: int) -> str:
    used = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if used + len(suffix) + 2 > linewidth:
            text += ",\n" + " " * len(_PREFIX) + suffix
            used = len(_PREFIX) + len(suffix)
        else:
            text += f", {suffix}"
            used += len(suffix) + 2
    return text + ")"
