"""Elementwise ops of one and two inputs; activations are in `activation.py`.

NumPy's functions dispatch to the array type they are given, so the formulas serve every array
library that speaks NumPy's protocols.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backend.arrays import beside, is_array, owned
from .base import Op

Grads = tuple[Array | None, ...]


def conj(value: Any) -> Any:
    """The complex conjugate; a real value is given back as it is (NumPy would copy it).

    The gradient of a real loss L for z = x + iy is dL/dx + i dL/dy (PyTorch's convention), so the
    chain rule multiplies it by the conjugate of a holomorphic function's derivative.
    """
    if type(value) is np.ndarray and value.dtype.kind != "c":
        return value
    return np.conjugate(value) if np.iscomplexobj(value) else value


class Add(Op):
    """a + alpha * b."""

    def __init__(self, alpha: float = 1) -> None:
        self.alpha = alpha

    def forward(self, a: Any, b: Any) -> Array:
        return a + b if self.alpha == 1 else a + self.alpha * b

    def backward(self, grad: Array) -> Grads:
        return grad, grad if self.alpha == 1 else conj(self.alpha) * grad


class Sub(Op):
    """a - alpha * b."""

    def __init__(self, alpha: float = 1) -> None:
        self.alpha = alpha

    def forward(self, a: Any, b: Any) -> Array:
        return a - b if self.alpha == 1 else a - self.alpha * b

    def backward(self, grad: Array) -> Grads:
        return grad, -conj(self.alpha) * grad if self.needs[1] else None


class Mul(Op):
    """a * b."""

    def forward(self, a: Any, b: Any) -> Array:
        self.saved = (a if self.needs[1] else None, b if self.needs[0] else None)
        return a * b

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        return (
            grad * conj(b) if self.needs[0] else None,
            grad * conj(a) if self.needs[1] else None,
        )


class Div(Op):
    """a / b."""

    def forward(self, a: Any, b: Any) -> Array:
        y = np.true_divide(a, b)
        self.saved = (b, y if self.needs[1] else None)
        return y

    def backward(self, grad: Array) -> Grads:
        b, y = self.saved
        grad_a = grad / conj(b)
        return grad_a, -grad_a * conj(y) if self.needs[1] else None


class Pow(Op):
    """a ** b; the gradient for b is 0 where a is 0."""

    def forward(self, a: Any, b: Any) -> Array:
        y = np.power(a, b)
        self.saved = (a, b, y if self.needs[1] else None)
        return y

    def backward(self, grad: Array) -> Grads:
        a, b, y = self.saved
        grad_a = grad_b = None
        if self.needs[0]:
            # b * a**(b-1), and 0 rather than nan where b is 0
            if is_array(b):
                safe = np.where(b == 0, 1, b)
                grad_a = grad * conj(np.where(b == 0, 0, b * np.power(a, safe - 1)))
            else:
                grad_a = np.zeros_like(grad) if b == 0 else grad * conj(b * np.power(a, b - 1))
        if self.needs[1]:
            # The logarithm is nan for a negative base: there is no derivative there.
            a = beside(a, y, y.dtype)
            zero = np.equal(a, 0) & (np.real(b) >= 0)
            grad_b = np.where(zero, 0, grad * conj(y * np.log(np.where(zero, 1, a))))
        return grad_a, grad_b


class Maximum(Op):
    """The larger of a and b; the gradient is halved where they are equal."""

    function: Any = staticmethod(np.maximum)
    first: Any = staticmethod(np.greater)

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return self.function(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        one = grad.dtype.type(1)
        share = np.where(a == b, one / 2, np.where(self.first(a, b), one, 0 * one))
        return grad * share, grad * (one - share) if self.needs[1] else None


class Minimum(Maximum):
    """The smaller of a and b; the gradient is halved where they are equal."""

    function = staticmethod(np.minimum)
    first = staticmethod(np.less)


def _beside(other: Any, value: Any) -> Any:
    """`value`; a number beside a bfloat16 array in that type, which NumPy would widen for it."""
    if not is_array(value) and getattr(other, "dtype", None) is not None:
        return other.dtype.type(value) if other.dtype.kind == "V" else value
    return value


class Where(Op):
    """a where condition holds, else b."""

    takes_half = True

    def forward(self, condition: Array, a: Any, b: Any) -> Array:
        self.saved = (condition,)
        return np.where(condition, _beside(b, a), _beside(a, b))

    def backward(self, grad: Array) -> Grads:
        (condition,) = self.saved
        zero = grad.dtype.type(0)
        grad_a = np.where(condition, grad, zero) if self.needs[1] else None
        return None, grad_a, np.where(condition, zero, grad) if self.needs[2] else None


class Cast(Op):
    """The same values in another dtype."""

    takes_half = True

    def __init__(self, to: np.dtype[Any]) -> None:
        self.to = to

    def forward(self, x: Array) -> Array:
        return x.astype(self.to)

    def backward(self, grad: Array) -> Grads:
        return (grad,)  # the engine casts back


class Clone(Op):
    """A copy in row-major memory."""

    takes_half = True

    def forward(self, x: Array) -> Array:
        return owned(x)

    def backward(self, grad: Array) -> Grads:
        return (grad,)


class Clamp(Op):
    """x limited to [low, high]; the gradient passes inside.

    Args:
        low, high: the bounds, or None.
        at_bounds: whether the gradient also passes where x equals a bound (PyTorch: for clamp
            it does, for hardtanh and relu6 it does not).
    """

    def __init__(self, low: float | None, high: float | None, at_bounds: bool = True) -> None:
        self.low, self.high, self.at_bounds = low, high, at_bounds

    def forward(self, x: Array) -> Array:
        if self.needs[0]:
            self.saved = (x,)
        return np.clip(x, self.low, self.high)

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        above, below = (
            (np.greater_equal, np.less_equal) if self.at_bounds else (np.greater, np.less)
        )
        inside = True if self.low is None else above(x, self.low)
        if self.high is not None:
            inside = inside & below(x, self.high)
        return (grad * inside,)


class FromInput(Op):
    """Unary op whose derivative is a formula of the input."""

    def forward(self, x: Array) -> Array:
        if self.needs[0]:
            self.saved = (x,)
        return self.value(x)

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        return (grad * conj(self.derivative(x)),)

    def value(self, x: Array) -> Array:
        """The function."""
        raise NotImplementedError(type(self).__name__)

    def derivative(self, x: Array) -> Array:
        """Its derivative."""
        raise NotImplementedError(type(self).__name__)


class FromOutput(Op):
    """Unary op whose derivative is a formula of the output."""

    def forward(self, x: Array) -> Array:
        y = self.value(x)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (grad * conj(self.derivative(y)),)

    def value(self, x: Array) -> Array:
        """The function."""
        raise NotImplementedError(type(self).__name__)

    def derivative(self, y: Array) -> Array:
        """Its derivative, of the output."""
        raise NotImplementedError(type(self).__name__)


class Neg(Op):
    """-x."""

    def forward(self, x: Array) -> Array:
        return np.negative(x)

    def backward(self, grad: Array) -> Grads:
        return (-grad,)


class Abs(FromInput):
    """|x|, gradient 0 at 0; for complex x it points along x."""

    def value(self, x: Array) -> Array:
        return np.abs(x)

    def derivative(self, x: Array) -> Array:
        return conj(np.sign(x))  # backward conjugates it again


class Exp(FromOutput):
    """e**x."""

    def value(self, x: Array) -> Array:
        return np.exp(x)

    def derivative(self, y: Array) -> Array:
        return y


class Expm1(FromOutput):
    """e**x - 1, exact near 0."""

    def value(self, x: Array) -> Array:
        return np.expm1(x)

    def derivative(self, y: Array) -> Array:
        return y + 1


class Log(FromInput):
    """Natural logarithm."""

    def value(self, x: Array) -> Array:
        return np.log(x)

    def derivative(self, x: Array) -> Array:
        return 1 / x


class Log2(Log):
    """Logarithm to base 2."""

    def value(self, x: Array) -> Array:
        return np.log2(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (x * math.log(2))


class Log10(Log):
    """Logarithm to base 10."""

    def value(self, x: Array) -> Array:
        return np.log10(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (x * math.log(10))


class Log1p(Log):
    """log(1 + x), exact near 0."""

    def value(self, x: Array) -> Array:
        return np.log1p(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (1 + x)


class Sqrt(FromOutput):
    """Square root."""

    def value(self, x: Array) -> Array:
        return np.sqrt(x)

    def derivative(self, y: Array) -> Array:
        return 0.5 / y


class Rsqrt(FromOutput):
    """1 / square root."""

    def value(self, x: Array) -> Array:
        return 1 / np.sqrt(x)

    def derivative(self, y: Array) -> Array:
        return -0.5 * y * y * y


class Reciprocal(FromOutput):
    """1 / x."""

    def value(self, x: Array) -> Array:
        return np.reciprocal(x)

    def derivative(self, y: Array) -> Array:
        return -y * y


class Square(FromInput):
    """x * x."""

    def value(self, x: Array) -> Array:
        return x * x

    def derivative(self, x: Array) -> Array:
        return 2 * x


class Sin(FromInput):
    """Sine."""

    def value(self, x: Array) -> Array:
        return np.sin(x)

    def derivative(self, x: Array) -> Array:
        return np.cos(x)


class Cos(FromInput):
    """Cosine."""

    def value(self, x: Array) -> Array:
        return np.cos(x)

    def derivative(self, x: Array) -> Array:
        return -np.sin(x)


class Tan(FromOutput):
    """Tangent."""

    def value(self, x: Array) -> Array:
        return np.tan(x)

    def derivative(self, y: Array) -> Array:
        return 1 + y * y


class Tanh(Op):
    """Hyperbolic tangent."""

    takes_half_on_gpu = True

    def forward(self, x: Array) -> Array:
        y = backend.of(x).tanh_forward(x)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (backend.of(grad).tanh_backward(grad, y),)


class Flat(Op):
    """A piecewise constant function (floor, sign, ...): gradient 0."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def forward(self, x: Array) -> Array:
        return self.function(x)

    def backward(self, grad: Array) -> Grads:
        return (np.zeros_like(grad),)
