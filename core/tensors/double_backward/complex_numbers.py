"""Second-order rules of complex numbers. See Note [Complex gradients] in `ops`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import complex_numbers as ops
from ...ops.elementwise import Abs
from .. import arithmetic as fn
from .. import joining
from ..graph import apply
from . import Rule
from .elementwise import unchanged
from .functions import complex_too, masked, times
from .node import Node


@complex_too
def _imag(node: Node, grad: Any) -> tuple[Any]:
    return (grad * 1j,)


@complex_too
def _conj(node: Node, grad: Any) -> tuple[Any]:
    return (grad.conj(),)


@complex_too
def _to_complex(node: Node, grad: Any) -> tuple[Any, Any]:
    return grad.real, grad.imag


@complex_too
def _view_as_real(node: Node, grad: Any) -> tuple[Any]:
    return (apply(ops.ToComplex(), grad[..., 0], grad[..., 1]),)


@complex_too
def _view_as_complex(node: Node, grad: Any) -> tuple[Any]:
    return (joining.stack([grad.real, grad.imag], -1),)


@complex_too
def _abs(node: Node, grad: Any) -> tuple[Any]:
    (x,) = node.saved
    if x.dtype.kind != "c":
        return (times(grad, np.sign(x)),)
    return (grad * apply(ops.Sgn(), node.input(0, x)),)


@complex_too
def _angle(node: Node, grad: Any) -> tuple[Any]:
    (array,) = node.saved
    if array.dtype.kind != "c":
        return (node.constant(np.zeros_like(grad._array)),)
    x = node.input(0, array)
    zero = np.equal(array, 0)
    square = fn.where(node.constant(zero), 1.0, x.real * x.real + x.imag * x.imag)
    return (masked(1j * x * (grad / square), ~zero),)


@complex_too
def _sgn(node: Node, grad: Any) -> tuple[Any]:
    array, y_array = node.saved
    x, y, zero = node.input(0, array), node.output(y_array), np.equal(array, 0)
    along = (y.conj() * grad).real
    size = fn.where(node.constant(zero), 1.0, x.abs())
    return (masked((grad - y * along) / size, ~zero),)


RULES: dict[type[Any], Rule] = {
    Abs: _abs,
    ops.Real: unchanged,  # the run makes it complex
    ops.Imag: _imag,
    ops.Conj: _conj,
    ops.ToComplex: _to_complex,
    ops.ViewAsReal: _view_as_real,
    ops.ViewAsComplex: _view_as_complex,
    ops.Angle: _angle,
    ops.Sgn: _sgn,
}
