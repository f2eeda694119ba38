"""Derivatives of functions of tensors: Jacobians, Hessians, and their products with vectors.

Source: PyTorch manual, `torch.autograd.functional`; the product of a Jacobian with a vector from
the right is computed by differentiating the one from the left ("double backward trick").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import GradientError, OptionError
from ..tensors import Tensor
from ..tensors.differentiate import grad
from ..tensors.joining import stack
from .mode import enable_grad

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Function = Callable[..., Any]


def _tuple(value: Any, name: str, what: str) -> tuple[tuple[Tensor, ...], bool]:
    """(the tensors, whether several were given)."""
    several = isinstance(value, tuple | list)
    values = tuple(value) if several else (value,)
    for i, t in enumerate(values):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected tensors as {what}, number {i} is {type(t).__name__}")
    return values, several


def _fresh(inputs: tuple[Tensor, ...], create_graph: bool) -> tuple[Tensor, ...]:
    """Inputs to differentiate for: connected to the given ones if a graph is wanted."""
    return tuple(
        t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_(True)
        for t in inputs
    )


def _call(name: str, func: Function, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], bool]:
    return _tuple(func(*inputs), name, "outputs of the function")


def _vectors(name: str, v: Any, like: tuple[Tensor, ...], several: bool, what: str) -> Any:
    """`v` checked against the tensors `like`; ones for a single element if `v` is None."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise GradientError(
                f"{name}: the vector v can be left out only if {what} is a single element"
            )
        return tuple(
            t._new(np.ones_like(t._array, t._array.dtype, shape=t._array.shape, order="C"))
            for t in like
        )
    vs, _ = _tuple(v, name, "v")
    if len(vs) != len(like) or any(a.shape != b.shape for a, b in zip(vs, like, strict=True)):
        raise GradientError(
            f"{name}: expected v of shapes {[tuple(t.shape) for t in like]}, as {what}, came "
            f"{[tuple(t.shape) for t in vs]}"
        )
    return vs


def _gradients(
    outputs: Any, inputs: Any, vs: Any, create_graph: bool, retain: bool = True
) -> tuple[Any, ...]:
    """Like `grad`, but None everywhere if no output requires grad."""
    pairs = [(o, v) for o, v in zip(outputs, vs, strict=True) if o.requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    outs, given = zip(*pairs, strict=True)
    return grad(outs, inputs, given, retain, create_graph, allow_unused=True)


def _filled(
    name: str, grads: Any, like: Any, strict: bool, create_graph: bool, what: str
) -> tuple[Tensor, ...]:
    """Zeros for missing gradients, or an error if `strict`."""
    results = []
    for i, (g, t) in enumerate(zip(grads, like, strict=True)):
        if g is None and strict:
            raise GradientError(f"{name}: {what} is independent of input {i}; strict=False gives 0")
        if g is not None and strict and create_graph and not g.requires_grad:
            raise GradientError(
                f"{name}: the derivative for input {i} is independent of the inputs; with "
                "create_graph=True and strict=True that is an error"
            )
        results.append(
            t._new(np.zeros(t._array.shape, t._array.dtype, like=t._array)) if g is None else g
        )
    return tuple(results)


def _finish(tensors: Any, create_graph: bool, several: bool) -> Any:
    done = tuple(t if create_graph else t.detach() for t in tensors)
    return done if several else done[0]


def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), product of the vector `v` with the Jacobian).

    Args:
        func: of tensors, gives a tensor or a tuple of them.
        inputs: a tensor, or a tuple of them.
        v: of the outputs' shapes; may be left out for a single element.
        create_graph: both results can be differentiated.
        strict: an output that is independent of an input is an error instead of 0.

    Raises:
        RuntimeError: shapes of `v` that do not fit, or see `strict`.

    >>> import allgrad as ag
    >>> y, product = vjp(lambda x: x * x, ag.tensor([1.0, 2.0]), ag.tensor([1.0, 10.0]))
    >>> product
    tensor([ 2., 40.])
    """
    with enable_grad():
        given, several = _tuple(inputs, "vjp", "inputs")
        given = _fresh(given, create_graph)
        outputs, many = _call("vjp", func, given)
        vs = _vectors("vjp", v, outputs, many, "the output")
        _require(outputs, "vjp", strict)
        grads = _gradients(outputs, given, vs, create_graph)
        products = _filled("vjp", grads, given, strict, create_graph, "the output")
    return _finish(outputs, create_graph, many), _finish(products, create_graph, several)


def _require(outputs: Any, name: str, strict: bool) -> None:
    for i, out in enumerate(outputs):
        if strict and not out.requires_grad:
            raise GradientError(f"{name}: output {i} is independent of all inputs (strict=True)")


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), product of the Jacobian with the vector `v` of the inputs' shapes).

    See `vjp` for the arguments.

    >>> import allgrad as ag
    >>> y, product = jvp(lambda x: (x * x).sum(), ag.tensor([1.0, 2.0]), ag.tensor([1.0, 10.0]))
    >>> product
    tensor(42.)
    """
    with enable_grad():
        given, several = _tuple(inputs, "jvp", "inputs")
        vs = _vectors("jvp", v, given, several, "the input")
        given = _fresh(given, create_graph)
        outputs, many = _call("jvp", func, given)
        _require(outputs, "jvp", strict)
        products = _forward_product(outputs, given, vs, create_graph)
        products = _filled("jvp", products, outputs, strict, create_graph, "the derivative")
    return _finish(outputs, create_graph, many), _finish(products, create_graph, many)


def _forward_product(outputs: Any, inputs: Any, vs: Any, create_graph: bool) -> Any:
    """J v, the derivative of u J for u along v: u J is linear in u, so u may be 0."""
    us = [
        o._new(np.zeros(o._array.shape, o._array.dtype, like=o._array)).requires_grad_(True)
        for o in outputs
    ]
    rows = _gradients(outputs, inputs, us, True)
    pairs = [(r, v) for r, v in zip(rows, vs, strict=True) if r is not None and r.requires_grad]
    if not pairs:
        return (None,) * len(outputs)
    found, given = zip(*pairs, strict=True)
    return grad(found, us, given, True, create_graph, allow_unused=True)


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """All derivatives of the outputs for the inputs.

    Args:
        func, inputs, create_graph, strict: see `vjp`.
        vectorize: rows are computed one by one either way.
        strategy: "reverse-mode", the only one.

    Returns:
        For an output of shape (O...) and an input of shape (I...) a tensor (O..., I...); for
        several inputs a tuple of them, for several outputs a tuple of these.

    >>> import allgrad as ag
    >>> jacobian(lambda x: x * x, ag.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    if strategy != "reverse-mode":
        raise OptionError.unknown("strategy of jacobian", strategy, ("reverse-mode",))
    with enable_grad():
        given, several = _tuple(inputs, "jacobian", "inputs")
        given = _fresh(given, create_graph)
        outputs, many = _call("jacobian", func, given)
        _require(outputs, "jacobian", strict)
        table = [_rows(out, given, create_graph, strict) for out in outputs]
    results = tuple(_finish(row, create_graph, several) for row in table)
    return results if many else results[0]


def _rows(out: Tensor, inputs: Any, create_graph: bool, strict: bool) -> list[Tensor]:
    shape = tuple(out.shape)
    found: list[list[Tensor]] = [[] for _ in inputs]
    for place in np.ndindex(shape):
        v = np.zeros(shape, out._array.dtype, like=out._array)
        v[place] = 1
        grads = _gradients((out,), inputs, (out._new(v),), create_graph)
        filled = _filled("jacobian", grads, inputs, strict, create_graph, "the output")
        for rows, g in zip(found, filled, strict=True):
            rows.append(g)
    return [
        stack(rows).reshape(*shape, *t.shape) if rows else _none(out, shape, t)
        for rows, t in zip(found, inputs, strict=True)
    ]


def _none(out: Tensor, shape: tuple[int, ...], t: Tensor) -> Any:
    return out._new(np.zeros((*shape, *t.shape), out._array.dtype, like=out._array))


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """All second derivatives of a function that gives one number.

    Args:
        func, inputs, create_graph, strict: see `vjp`.
        vectorize, outer_jacobian_strategy: see `jacobian`.

    Returns:
        For an input of shape (I...) a tensor (I..., I...); for several a tuple of tuples.

    Raises:
        RuntimeError: the output is not a single element.

    >>> import allgrad as ag
    >>> hessian(lambda x: (x**3).sum(), ag.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    given, several = _tuple(inputs, "hessian", "inputs")

    def first(*values: Tensor) -> tuple[Tensor, ...]:
        out = _scalar("hessian", func, values)
        _require((out,), "hessian", strict)
        grads = _gradients((out,), values, _vectors("hessian", None, (out,), False, ""), True)
        return _filled("hessian", grads, values, strict, False, "the output")

    table = jacobian(first, given, create_graph, strict, vectorize, outer_jacobian_strategy)
    return table if several else table[0][0]


def _scalar(name: str, func: Function, values: tuple[Tensor, ...]) -> Tensor:
    outputs, many = _call(name, func, values)
    if many or outputs[0].numel() != 1:
        raise GradientError(
            f"{name}: expected a function with a single output of one element, came "
            f"{[tuple(o.shape) for o in outputs]}"
        )
    return outputs[0]


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), product of the vector `v` with the Hessian); see `vjp` for the arguments.

    >>> import allgrad as ag
    >>> vhp(lambda x: (x**3).sum(), ag.tensor([1.0, 2.0]), ag.tensor([1.0, 1.0]))[1]
    tensor([ 6., 12.])
    """
    return _hessian_product("vhp", func, inputs, v, create_graph, strict)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), product of the Hessian with the vector `v`); see `vjp` for the arguments.

    The Hessian is symmetric, so this is `vhp`.

    >>> import allgrad as ag
    >>> hvp(lambda x: (x**3).sum(), ag.tensor([1.0, 2.0]), ag.tensor([1.0, 1.0]))[1]
    tensor([ 6., 12.])
    """
    return _hessian_product("hvp", func, inputs, v, create_graph, strict)


def _hessian_product(
    name: str, func: Function, inputs: Any, v: Any, create_graph: bool, strict: bool
) -> tuple[Any, Any]:
    with enable_grad():
        given, several = _tuple(inputs, name, "inputs")
        vs = _vectors(name, v, given, several, "the input")
        given = _fresh(given, create_graph)
        out = _scalar(name, func, given)
        _require((out,), name, strict)
        one = _vectors(name, None, (out,), False, "the output")
        slopes = _gradients((out,), given, one, True)
        slopes = _filled(name, slopes, given, strict, False, "the output")
        grads = _gradients(slopes, given, vs, create_graph)
        products = _filled(name, grads, given, strict, create_graph, "the gradient")
    return _finish((out,), create_graph, False), _finish(products, create_graph, several)
