"""How far results may differ, in one table per dtype."""

from __future__ import annotations

import numpy as np

# dtype -> (relative, absolute). Two libraries add up in different orders, hence some slack.
FORWARD = {
    np.dtype(np.float16): (5e-3, 5e-3),
    np.dtype(np.float32): (2e-5, 2e-6),
    np.dtype(np.float64): (1e-11, 1e-12),
}
GRADIENT = {
    np.dtype(np.float16): (2e-2, 2e-2),
    np.dtype(np.float32): (1e-4, 1e-5),
    np.dtype(np.float64): (1e-10, 1e-11),
}
# Of the largest value, for halves: PyTorch rounds within some ops where allgrad rounds once.
HALF = {"bfloat16": 2e-2, "float16": 3e-3}
HALF_GRADIENT = {"bfloat16": 4e-2, "float16": 6e-3}
# Central differences in float64, relative to the larger of 1 and the slope.
FINITE_DIFFERENCE = 1e-6


def assert_close(got, want, table=FORWARD, what="", as_dtype=None) -> None:
    """Same shape, same dtype, values within the table's tolerance (that of `as_dtype`)."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, expected {want.dtype}"
    if got.dtype.kind not in "fc":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    relative, absolute = table[np.dtype(as_dtype or got.dtype)]
    # a small sum of large terms is as wrong as they are
    absolute *= max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    np.testing.assert_allclose(got, want, rtol=relative, atol=absolute, err_msg=what)


def assert_half_close(got, want, relative, what="") -> None:
    """Values of halves (as float32), the finite ones within `relative` of the largest."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    largest = np.abs(want[np.isfinite(want)]).max(initial=1.0)
    np.testing.assert_allclose(got, want, rtol=relative, atol=relative * largest, err_msg=what)
