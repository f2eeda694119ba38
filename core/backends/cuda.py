"""Settings of matrix products on GPUs (cuBLAS)."""

from __future__ import annotations


class _Matmul:
    """How products of float32 matrices are computed.

    Attributes:
        allow_tf32: whether factors may be rounded to TF32 (10 bits of mantissa), which tensor
            cores multiply about eight times as fast as float32.
    """

    def __init__(self) -> None:
        self.allow_tf32 = False


matmul = _Matmul()
