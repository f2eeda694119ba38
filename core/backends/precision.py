"""How exactly float32 matrices are multiplied, under PyTorch's names."""

from __future__ import annotations

from ..errors import OptionError
from .cuda import matmul

_PRECISIONS = ("highest", "high", "medium")


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how a GPU multiplies float32 matrices; the CPU's products are always exact.

    Args:
        precision: "highest": in float32; "high" or "medium": factors may be rounded to TF32, as by
            ``backends.cuda.matmul.allow_tf32 = True``.

    Raises:
        ValueError: another word.

    >>> set_float32_matmul_precision("high")
    >>> get_float32_matmul_precision(), matmul.allow_tf32
    ('high', True)
    >>> set_float32_matmul_precision("highest")
    """
    if precision not in _PRECISIONS:
        raise OptionError.unknown("precision", precision, _PRECISIONS)
    matmul.allow_tf32 = precision != "highest"


def get_float32_matmul_precision() -> str:
    """Either "highest", or "high" where TF32 is allowed."""
    return "high" if matmul.allow_tf32 else "highest"
