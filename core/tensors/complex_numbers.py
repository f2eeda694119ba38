"""Complex tensors: making them, their parts, and views of their memory.

See Note [Complex gradients] in `ops/complex_numbers.py`.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..ops import complex_numbers as ops
from .arithmetic import mul
from .autocasting import widens
from .graph import apply, view
from .inplace import assign, check_in_place
from .promote import mismatch, not_a_tensor
from .unary import cos, sin

__all__ = [
    "complex",
    "conj",
    "conj_physical",
    "imag",
    "is_conj",
    "polar",
    "real",
    "resolve_conj",
    "view_as_complex",
    "view_as_real",
]


def _two_parts(name: str, a: Any, b: Any) -> None:
    """Raise unless both are real floating tensors of one dtype of 32 or 64 bits."""
    for t in (a, b):
        if not hasattr(t, "_array"):
            raise not_a_tensor(name, t)
    if a._array.dtype != b._array.dtype or a._array.dtype not in (np.float32, np.float64):
        raise DtypeError(
            f"{name}: expected both tensors of float32 or both of float64, came {a.dtype} and "
            f"{b.dtype}"
        )


def complex(real: Any, imag: Any) -> Any:
    """real + i imag, broadcast.

    Args:
        real, imag: both float32 (giving complex64), or both float64 (giving complex128).

    Raises:
        RuntimeError: other dtypes, or shapes that do not broadcast.

    >>> import allgrad as ag
    >>> ag.complex(ag.tensor([1.0, 2.0]), ag.tensor([0.0, -1.0]))
    tensor([1.+0.j, 2.-1.j])
    """
    _two_parts("complex", real, imag)
    try:
        return apply(ops.ToComplex(), real, imag)
    except ValueError as err:
        raise mismatch("complex", err, real, imag) from err


@widens
def polar(abs: Any, angle: Any) -> Any:
    """abs * exp(i angle), broadcast: the complex numbers of given size and angle.

    Args:
        abs, angle: both float32 (giving complex64), or both float64 (giving complex128).

    Raises:
        RuntimeError: other dtypes, or shapes that do not broadcast.
    """
    _two_parts("polar", abs, angle)
    return complex(mul(abs, cos(angle)), mul(abs, sin(angle)))


def _is_complex(input: Any, name: str) -> bool:
    if not hasattr(input, "_array"):
        raise not_a_tensor(name, input)
    return bool(input._array.dtype.kind == "c")


def real(input: Any) -> Any:
    """The real parts, a view of the memory; a real tensor itself."""
    return view(ops.Real(), input) if _is_complex(input, "real") else input


def imag(input: Any) -> Any:
    """The imaginary parts, a view of the memory.

    Raises:
        RuntimeError: input is real.
    """
    if not _is_complex(input, "imag"):
        raise DtypeError(f"imag: expected a complex tensor, came {input.dtype}")
    return view(ops.Imag(), input)


def conj(input: Any) -> Any:
    """The complex conjugate; a real tensor itself.

    Unlike PyTorch's, the result is computed at once and is no view of input.
    """
    return apply(ops.Conj(), input) if _is_complex(input, "conj") else input


def conj_physical(input: Any) -> Any:
    """The complex conjugate, the same as `conj`."""
    return conj(input)


def resolve_conj(input: Any) -> Any:
    """input itself: `conj` computes at once, so that nothing is left to resolve."""
    return input


def is_conj(input: Any) -> bool:
    """False: `conj` computes at once."""
    return False


def view_as_real(input: Any) -> Any:
    """(..., 2): real and imaginary parts of a complex tensor, a view of the memory.

    Raises:
        RuntimeError: input is real.

    >>> import allgrad as ag
    >>> ag.view_as_real(ag.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    if not _is_complex(input, "view_as_real"):
        raise DtypeError(f"view_as_real: expected a complex tensor, came {input.dtype}")
    return view(ops.ViewAsReal(), input)


def view_as_complex(input: Any) -> Any:
    """The complex numbers whose parts lie along the last dimension, a view of the memory.

    Args:
        input: (..., 2), float32 or float64, the pairs next to each other in memory.

    Raises:
        RuntimeError: another dtype, shape or memory layout.
    """
    if _is_complex(input, "view_as_complex") or input._array.dtype.itemsize < 4:
        raise DtypeError(f"view_as_complex: expected float32 or float64, came {input.dtype}")
    if input._array.dtype.kind != "f":
        raise DtypeError(f"view_as_complex: expected float32 or float64, came {input.dtype}")
    array = input._canonical()
    if not array.ndim or array.shape[-1] != 2:
        raise ShapeError(
            f"view_as_complex: expected a last dimension of size 2, came {tuple(input.shape)}"
        )
    size = array.itemsize
    steps = array.strides
    if array.size and (steps[-1] != size or any(step % (2 * size) for step in steps[:-1])):
        raise ShapeError(
            "view_as_complex: expected the pairs of the last dimension next to each other in "
            f"memory, came strides {input.stride()}; call contiguous() first"
        )
    return view(ops.ViewAsComplex(), input)


class ComplexMethods:
    """Methods and attributes of Tensor that concern complex numbers."""

    conj, conj_physical, resolve_conj, is_conj = conj, conj_physical, resolve_conj, is_conj

    @property
    def real(self) -> Any:
        """The real parts, a view of the memory; a real tensor itself."""
        return real(self)

    @real.setter
    def real(self, value: Any) -> None:
        _store(real(self), value)

    @property
    def imag(self) -> Any:
        """The imaginary parts of a complex tensor, a view of the memory."""
        return imag(self)

    @imag.setter
    def imag(self, value: Any) -> None:
        _store(imag(self), value)

    def __complex__(self: Any) -> builtins.complex:
        return builtins.complex(self.item())

    def __float__(self: Any) -> float:
        return float(_real_number(self.item()))

    def __int__(self: Any) -> int:
        return int(_real_number(self.item()))

    def conj_physical_(self: Any) -> Any:
        """`conj_physical` in place; returns self."""
        check_in_place(self, "conj_physical_")
        return assign(self, conj(self), "conj_physical_")


def _real_number(value: Any) -> Any:
    """A Python number that is to become a real one."""
    if not isinstance(value, builtins.complex):
        return value
    if value.imag:
        raise DtypeError(f"{value} cannot become a real number; take .real, .imag or .abs()")
    return value.real


def _store(part: Any, value: Any) -> None:
    if hasattr(value, "_array"):
        part.copy_(value)
    else:
        part.fill_(value)
