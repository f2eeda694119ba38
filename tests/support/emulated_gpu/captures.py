"""What CuPy cannot capture: what copies a number to the host, and what calls cuBLAS or cuSOLVER."""

from __future__ import annotations

from typing import Any

import numpy as np

# Their results' shapes depend on values, which are copied to the host.
_SYNCHRONISING = frozenset(
    (
        "argwhere",
        "bincount",
        "compress",
        "extract",
        "flatnonzero",
        "histogram",
        "nonzero",
        "trim_zeros",
        "unique",
    )
)
_PRODUCTS = frozenset(("dot", "einsum", "inner", "kron", "matmul", "tensordot", "vdot"))
_SOLVERS = frozenset(("cholesky", "det", "eigh", "inv", "lstsq", "norm", "qr", "slogdet", "svd"))


def synchronises(name: str, args: Any) -> bool:
    """Whether a function copies a number to the host."""
    if name in _SYNCHRONISING or (name == "where" and len(args) == 1):
        return True
    return name == "_pick" and _has_mask(args[1])


def _has_mask(key: Any) -> bool:
    if isinstance(key, tuple):
        return any(_has_mask(k) for k in key)
    return isinstance(key, np.ndarray) and key.dtype == np.bool_ and key.ndim > 0


def why_not(name: str, module: str, args: Any) -> Exception | None:
    """What CuPy raises if a function is called while a stream captures; None if it is captured."""
    if synchronises(name, args):
        return RuntimeError(f"{name}: copying to the host is not allowed while a stream captures")
    if name in ("_pick", "_assign") and _has_list(args[1]):
        return RuntimeError("a list as an index is copied from the host, not while capturing")
    if name in _PRODUCTS and any(isinstance(a, np.ndarray) and a.dtype.kind in "fcV" for a in args):
        return NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    if module == "numpy.linalg" and name in _SOLVERS and name != "norm":
        return NotImplementedError(
            "calling cuSOLVER API during stream capture is currently unsupported"
        )
    return None


def _has_list(key: Any) -> bool:
    return isinstance(key, list) or (isinstance(key, tuple) and any(map(_has_list, key)))
