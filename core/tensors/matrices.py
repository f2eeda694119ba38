"""Functions and methods of square matrices; `linalg.py` is loaded when one is first called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .graph import TensorBase

__all__ = ["cholesky", "det", "inverse", "logdet", "matrix_power", "pinverse", "slogdet"]


def _of_linalg(name: str, its_name: str, text: str) -> Callable[..., Any]:
    def function(input: Any, *args: Any, **kwargs: Any) -> Any:
        from . import linalg  # noqa: PLC0415 - `import allgrad` stays quick

        return getattr(linalg, its_name)(input, *args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{text} See `allgrad.linalg.{its_name}`."
    return function


inverse = _of_linalg("inverse", "inv", "The inverse of square matrices.")
pinverse = _of_linalg("pinverse", "pinv", "The Moore-Penrose inverse of matrices.")
det = _of_linalg("det", "det", "The determinant of square matrices.")
slogdet = _of_linalg("slogdet", "slogdet", "Sign and logarithm of the determinant.")
matrix_power = _of_linalg("matrix_power", "matrix_power", "Square matrices times themselves.")


def logdet(input: Any) -> Any:
    """The logarithm of the determinant: nan if it is negative, -inf if it is 0."""
    sign, logarithm = slogdet(input)
    return logarithm.masked_fill(sign.detach() < 0, float("nan"))


def cholesky(input: Any, upper: bool = False) -> Any:
    """The lower triangle L with ``input = L @ L.mH``, or its adjoint."""
    from .linalg import cholesky as function  # noqa: PLC0415 - `import allgrad` stays quick

    return function(input, upper=upper)


class MatrixMethods(TensorBase):
    """Methods of Tensor for square matrices."""

    inverse, pinverse, det, slogdet, logdet = inverse, pinverse, det, slogdet, logdet
    matrix_power, cholesky = matrix_power, cholesky

    def cov(self, **options: Any) -> Any:
        """Covariance matrix of the rows. See `allgrad.cov`."""
        from . import distances  # noqa: PLC0415 - `import allgrad` stays quick

        return distances.cov(self, **options)

    def corrcoef(self) -> Any:
        """Correlation matrix of the rows. See `allgrad.corrcoef`."""
        from . import distances  # noqa: PLC0415 - `import allgrad` stays quick

        return distances.corrcoef(self)
