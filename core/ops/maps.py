"""Linear and bilinear maps given by array functions: what second derivatives are made of.

The gradient of most ops is a linear map of the gradient it is given (a gather for a scatter, an
average pool for its own backward). As an op of its own, with its adjoint beside it, such a map can
be differentiated any number of times. See Note [Double backward] in `tensors/double_backward`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..backend import Array
from ..backend.arrays import as_array
from .base import Op
from .elementwise import Grads

Function = Callable[[Array], Array]


class LinearMap(Op):
    """A linear map of one array.

    Args:
        function: the map.
        adjoint: its adjoint (transpose); both may be called any number of times.
        of: the op whose gradient this is, for messages and for the versions of what it saved.
    """

    def __init__(self, function: Function, adjoint: Function, of: Op) -> None:
        self.function, self.adjoint, self.of = function, adjoint, of
        self.guards = of.guards

    @property
    def op_name(self) -> str:
        """The op of which this is a derivative."""
        return f"{self.of.op_name}Derivative"

    def transposed(self) -> LinearMap:
        """The adjoint map."""
        return LinearMap(self.adjoint, self.function, self.of)

    def forward(self, x: Array) -> Array:
        y = as_array(self.function(x))
        return y if y.base is None and y is not x else y.copy()  # a view would be an alias

    def backward(self, grad: Array) -> Grads:
        return (self.adjoint(grad),)


class Trilinear(Op):
    """One of the three bilinear maps of a form T(a, b, c) that is linear in each of its arrays.

    A convolution is such a form: of input, weight and gradient. Fixing two arrays gives the
    gradient for the third, so each of the three maps has the two others as its derivatives.

    Args:
        maps: for each place of the form, a function of the two other arrays, in their order.
        role: the place that this op computes.
        of: the op that the form comes from.
    """

    def __init__(self, maps: tuple[Callable[..., Array], ...], role: int, of: Op) -> None:
        self.maps, self.role, self.of = maps, role, of

    @property
    def op_name(self) -> str:
        """The op of which this is a derivative."""
        return f"{self.of.op_name}Derivative"

    @property
    def places(self) -> tuple[int, ...]:
        """The places of the two inputs."""
        return tuple(i for i in range(3) if i != self.role)

    def forward(self, p: Array, q: Array) -> Array:
        self.saved = (p, q)
        return self.maps[self.role](p, q)

    def backward(self, grad: Array) -> Grads:
        at = dict(zip(self.places, self.saved, strict=True)) | {self.role: grad}
        return tuple(
            self.maps[place](*[at[i] for i in range(3) if i != place]) if needed else None
            for place, needed in zip(self.places, self.needs, strict=False)
        )


def frozen(op: Op, index: int) -> Op:
    """A copy of `op` outside the graph whose backward computes the gradient of one input."""
    twin = copy.copy(op)
    twin.parents, twin.slots, twin.hooks, twin.out, twin.twins = (), (), None, None, ()
    twin.needs = tuple(i == index for i in range(len(op.needs)))
    return twin


def gradient_map(op: Op, index: int, adjoint: Function) -> LinearMap:
    """The gradient of `op` for input `index`, linear in the gradient of its output."""
    twin = frozen(op, index)
    return LinearMap(lambda grad: _given(twin.backward(grad)[index]), adjoint, op)


def transposable(op: Op, index: int, *others: Any) -> LinearMap:
    """Like `gradient_map`, for an op that is itself linear in that input.

    Args:
        others: the inputs after it, as arrays; the input is the first one.
    """
    twin = frozen(op, index)
    return gradient_map(op, index, lambda x: copy.copy(twin).forward(x, *others))


def _given(grad: Array | None) -> Array:
    assert grad is not None, "asked for the gradient of an input that has none"
    return grad
