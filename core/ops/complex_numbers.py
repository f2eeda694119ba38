"""Complex numbers: their parts, joining parts, and functions that are not holomorphic.

Note [Complex gradients]
The gradient of a real loss L for z = x + iy is dL/dx + i dL/dy: the direction of steepest ascent,
twice the conjugate Wirtinger derivative, as in PyTorch. A holomorphic function multiplies the
gradient by the conjugate of its derivative; a real input of a complex result gets the real part
(the engine sees to that, `in_dtype` in `base.py`).
Source: PyTorch manual, "Autograd for Complex Numbers"; Kreutz-Delgado 2009, arXiv:0906.4835.
"""

from __future__ import annotations

import numpy as np

from ..backend import Array
from ..backend.arrays import strided
from .base import Op
from .elementwise import FromInput, Grads

_COMPLEX = {np.dtype(np.float32): np.complex64, np.dtype(np.float64): np.complex128}


class Real(Op):
    """The real part, a view of the memory."""

    def forward(self, x: Array) -> Array:
        return x.real

    def backward(self, grad: Array) -> Grads:
        return (grad,)  # the engine makes it complex


class Imag(Op):
    """The imaginary part, a view of the memory."""

    def forward(self, x: Array) -> Array:
        return x.imag

    def backward(self, grad: Array) -> Grads:
        return (grad * 1j,)


class Conj(Op):
    """The complex conjugate."""

    def forward(self, x: Array) -> Array:
        return np.conjugate(x)

    def backward(self, grad: Array) -> Grads:
        return (np.conjugate(grad),)


class ToComplex(Op):
    """real + i imag of two real inputs of one dtype."""

    def forward(self, real: Array, imag: Array) -> Array:
        shape = np.broadcast_shapes(real.shape, imag.shape)
        y: Array = np.empty(shape, _COMPLEX[real.dtype], like=real)
        y.real, y.imag = real, imag
        return y

    def backward(self, grad: Array) -> Grads:
        return grad.real, grad.imag


class Angle(FromInput):
    """The angle of a complex number in the plane, 0 for 0; of a real one 0 or pi."""

    def value(self, x: Array) -> Array:
        if x.dtype.kind == "c":
            return np.angle(x)
        flat = np.where(x < 0, x.dtype.type(np.pi), x.dtype.type(0))
        return np.where(np.isnan(x), x, flat)

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        if x.dtype.kind != "c":
            return (np.zeros_like(grad),)
        square = x.real * x.real + x.imag * x.imag
        return (np.where(square == 0, 0, 1j * x * (grad / square)),)


class Sgn(Op):
    """x / |x| of complex numbers, 0 for 0."""

    def forward(self, x: Array) -> Array:
        y = np.sign(x)
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        x, y = self.saved
        along = (np.conjugate(y) * grad).real
        size = np.abs(x)
        return (np.where(size == 0, 0, (grad - y * along) / size),)


class ViewAsReal(Op):
    """(..., 2) real and imaginary parts: a view of the memory."""

    def forward(self, x: Array) -> Array:
        strides = (*x.strides, x.itemsize // 2)
        return strided(x.real, (*x.shape, 2), strides)

    def backward(self, grad: Array) -> Grads:
        return (_joined(grad),)


class ViewAsComplex(Op):
    """The complex numbers whose parts lie along the last axis: a view of the memory."""

    def forward(self, x: Array) -> Array:
        if not x.size:  # an empty array may have any strides
            return np.empty(x.shape[:-1], _COMPLEX[x.dtype], like=x)
        return x.view(_COMPLEX[x.dtype])[..., 0]

    def backward(self, grad: Array) -> Grads:
        return (np.stack([grad.real, grad.imag], axis=-1),)


def _joined(parts: Array) -> Array:
    whole = np.empty(parts.shape[:-1], _COMPLEX[parts.dtype], like=parts)
    whole.real, whole.imag = parts[..., 0], parts[..., 1]
    return whole
