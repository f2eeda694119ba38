"""How tensors print: PyTorch's form, four digits, long ones summarised."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes


def tensor_text(t: Any) -> str:
    """``tensor([...], dtype=..., grad_fn=...)``."""
    array = t._array
    shown = array.astype(np.float32) if array.dtype.kind == "V" else array  # 1. instead of 1
    body = np.array2string(
        shown, precision=4, separator=", ", threshold=1000, edgeitems=3, prefix="tensor("
    )
    parts = [f"tensor({body}"]
    if array.size == 0 and array.ndim != 1:
        parts.append(f"size={tuple(array.shape)}")
    implied = (dtypes.get_default_dtype().numpy, np.dtype(np.int64), np.dtype(bool))
    if array.dtype not in implied or array.size == 0:
        parts.append(f"dtype={t.dtype!r}")
    if t.grad_fn is not None:
        parts.append(f"grad_fn={t.grad_fn!r}")
    elif t.requires_grad:
        parts.append("requires_grad=True")
    return ", ".join(parts) + ")"
