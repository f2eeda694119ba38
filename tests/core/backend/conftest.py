"""Backends under test and the memory layouts that every kernel must accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend import onednn
from allgrad.backend.cpu import CpuBackend
from allgrad.backend.layout import copy_channels_last
from allgrad.backend.reference import ReferenceBackend
from allgrad.errors import Unsupported


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[CpuBackend]:
    """A CPU backend for which falling back is an error; its counters start at zero."""
    try:
        onednn.load()
    except Unsupported as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("ALLGRAD_STRICT", "1")
    kernel_counts.reset()
    backend = CpuBackend()
    yield backend
    backend.plans.clear()
    kernel_counts.reset()


@pytest.fixture
def lenient(cpu: CpuBackend) -> CpuBackend:
    """The CPU backend that falls back to the reference."""
    cpu.strict = False
    return cpu


@pytest.fixture
def reference() -> ReferenceBackend:
    """The oracle."""
    return ReferenceBackend()


def _gaps(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _reversed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def _fortran(x: np.ndarray) -> np.ndarray:
    return np.asfortranarray(x)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray,
    "channels_last": lambda x: copy_channels_last(x) if x.ndim > 2 else x,
    "gaps": _gaps,
    "reversed": _reversed,
    "fortran": _fortran,
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray]:
    """Brings an array into one of the memory layouts, with the same values."""
    return LAYOUTS[request.param]


@pytest.fixture
def close() -> Callable[..., None]:
    """Compare float32 results with an oracle computed in float64.

    The error may be 1e-5 of the largest value: sums of n products in another order differ by
    about sqrt(n) roundings of 6e-8.
    """

    def check(got: np.ndarray, want: np.ndarray, relative: float = 1e-5) -> None:
        assert got.dtype == np.float32
        assert got.shape == want.shape
        scale = max(float(np.abs(want).max(initial=0.0)), 1.0)
        np.testing.assert_allclose(got, want, rtol=0, atol=relative * scale)

    return check


@pytest.fixture
def draw(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Standard normal float32 arrays."""
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)
