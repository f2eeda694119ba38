"""Second-order rules of ops that move elements: their gradients move them back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ...backend import ufuncs
from ...backend.arrays import owned
from ...errors import GradientError
from ...ops import embedding, index, resample, shape, windows
from ...ops.maps import LinearMap, gradient_map, transposable
from ...ops.watch import Watch
from .. import graph, inplace
from ..graph import apply
from . import Rule
from .elementwise import unchanged
from .functions import complex_too, masked, times
from .node import Node


def linear(node: Node, at: int, *others: Any) -> LinearMap:
    """The gradient of an op that is linear in input `at`, as a map."""
    return transposable(node.op, at, *others)


@complex_too
def moved(node: Node, grad: Any) -> tuple[Any]:
    """The rule of an op that is linear in its only input."""
    return (apply(linear(node, 0), grad),)


@complex_too
def _reshape(node: Node, grad: Any) -> tuple[Any]:
    return (grad.reshape(node.op.input_shape),)


@complex_too
def _permute(node: Node, grad: Any) -> tuple[Any]:
    axes = node.op.axes
    return (grad.permute(tuple(int(i) for i in np.argsort(axes))),)


@complex_too
def _cat(node: Node, grad: Any) -> tuple[Any, ...]:
    ends = np.cumsum(node.op.sizes)
    before = (slice(None),) * node.op.axis
    parts = zip(ends, node.op.sizes, strict=True)
    return tuple(grad[(*before, slice(int(end - n), int(end)))] for end, n in parts)


@complex_too
def _stack(node: Node, grad: Any) -> tuple[Any, ...]:
    return tuple(grad.movedim(node.op.axis, 0))


@complex_too
def _pad(node: Node, grad: Any) -> tuple[Any]:
    def margins_of(x: Any) -> Any:
        op = shape.Pad(node.op.margins, node.op.mode, 0)  # only the part that is linear in x
        return op.forward(x)

    return (apply(gradient_map(node.op, 0, margins_of), grad),)


@complex_too
def _as_strided(node: Node, grad: Any) -> tuple[Any]:
    place = node.op.place

    def part_of(x: Any) -> Any:
        whole, part = place.memory(x, zeros=False)
        whole[...] = x
        return part

    return (apply(gradient_map(node.op, 0, part_of), grad),)


@complex_too
def _assign_view(node: Node, grad: Any) -> tuple[Any, Any]:
    place = node.op.place

    def outside(x: Any) -> Any:
        whole, part = place.memory(x, zeros=False)
        whole[...] = x
        part[...] = 0
        return whole

    def inside(x: Any) -> Any:
        whole, part = place.memory(x, zeros=True)
        part[...] = x
        return whole

    return (
        apply(gradient_map(node.op, 0, outside), grad) if node.needs[0] else None,
        apply(gradient_map(node.op, 1, inside), grad) if node.needs[1] else None,
    )


@complex_too
def _assign(node: Node, grad: Any) -> tuple[Any, Any]:
    op = node.op

    def beside(x: Any) -> Any:
        return _again(op, x, x.dtype.type(0))

    def inside(x: Any) -> Any:
        return _again(op, np.zeros(op.shape, x.dtype, like=x), x)

    return (
        apply(gradient_map(op, 0, beside), grad) if node.needs[0] else None,
        apply(gradient_map(op, 1, inside), grad) if node.needs[1] else None,
    )


def _again(op: Any, *arrays: Any) -> Any:
    """What a fresh copy of `op` computes from other arrays."""
    twin = copy.copy(op)
    twin.needs = (False,) * len(arrays)
    return twin.forward(*arrays)


@complex_too
def _gather(node: Node, grad: Any) -> tuple[Any, None]:
    return apply(linear(node, 0, node.saved[0]), grad), None


@complex_too
def _scatter(node: Node, grad: Any) -> tuple[Any, None, Any]:
    op = node.op
    indices = node.saved[0] if len(node.saved) == 1 else node.saved[1]

    def beside(x: Any) -> Any:
        return _again(op, x, indices, x.dtype.type(0))

    def inside(x: Any) -> Any:
        return _again(op, np.zeros(op.shape, x.dtype, like=x), indices, x)

    return (
        apply(gradient_map(op, 0, beside), grad) if node.needs[0] else None,
        None,
        apply(gradient_map(op, 2, inside), grad) if node.needs[2] else None,
    )


def _scatter_reduce(node: Node, grad: Any) -> tuple[Any, None, Any]:
    op, (x, indices, src, y) = node.op, node.saved
    if op.kind in ("sum", "mean"):
        return _scatter(node, grad)
    if op.kind == "prod":
        return _scatter_product(node, grad)
    where, part = index.along(indices, op.axis), index.beside(src, indices)
    chosen = np.equal(part, y[where])
    kept = np.equal(x, y)
    if not op.include_self:
        kept[where] = False
    ties = kept.astype(y.dtype)
    ufuncs.at(np.add, ties, where, chosen)
    ties = np.maximum(ties, 1)

    def to_y(s: Any) -> Any:
        full = np.zeros(y.shape, s.dtype, like=s)
        ufuncs.at(np.add, full, where, np.where(chosen, s[index.corner(indices)], 0))
        return full / ties

    return (
        times(grad, kept / ties) if node.needs[0] else None,
        None,
        apply(gradient_map(op, 2, to_y), grad) if node.needs[2] else None,
    )


def _scatter_product(node: Node, grad: Any) -> tuple[Any, None, Any]:
    """The product of the other factors is the whole one divided by the factor."""
    op, (x, indices, src, y) = node.op, node.saved
    if (np.equal(x, 0)).any() or np.equal(src, 0).any():
        raise GradientError(
            "ScatterReduce: gradients of products with create_graph=True are not defined where a "
            "factor is zero"
        )
    whole = grad * node.output(y)
    grad_x = grad_src = None
    if node.needs[0]:
        grad_x = whole / node.input(0, x)
        if not op.include_self:
            mask = np.ones(x.shape, bool)
            mask[index.along(indices, op.axis)] = False
            grad_x = masked(grad_x, mask)
    if node.needs[2]:
        t = node.input(2, src)
        picked = apply(index.Gather(op.axis), whole, node.constant(indices))
        grad_src = apply(index.Assign(index.corner(indices)), t * 0, picked) / t
    return grad_x, None, grad_src


@complex_too
def _embedding(node: Node, grad: Any) -> tuple[None, Any]:
    op, (indices,) = node.op, node.saved

    def rows(weight: Any) -> Any:
        if op.padding_idx is not None:
            weight = owned(weight)
            weight[op.padding_idx] = 0
        if op.by_frequency:
            weight = weight / embedding.frequencies(indices, weight)
        return weight[indices]

    return None, apply(gradient_map(op, 1, rows), grad)


def _bag_reduce(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    if op.mode != "max":
        return moved(node, grad)
    (best,) = node.saved
    bags, columns = np.nonzero((best >= 0) & (best < int(op.counts.sum())))

    def taken(x: Any) -> Any:
        y = np.zeros(best.shape, x.dtype, like=x)
        y[bags, columns] = x[best[bags, columns], columns]
        return y

    return (apply(gradient_map(op, 0, taken), grad),)


@complex_too
def _watch(node: Node, grad: Any) -> tuple[Any, ...]:
    """Hooks on modules see the values; a gradient that they replace would lose its graph."""
    grads = list(grad) if node.op.outputs > 1 else [grad]
    arrays = [None if g is None else g._array for g in grads]
    for before, after in zip(arrays, node.op.on_grads(list(arrays)), strict=True):
        if before is not after:
            raise GradientError(
                "a backward hook of a module replaced a gradient, which is not supported with "
                "create_graph=True; use hooks of tensors (register_hook)"
            )
    return tuple(grads)


@complex_too
def linear_map(node: Node, grad: Any) -> tuple[Any]:
    """The rule of a `LinearMap`: its adjoint."""
    return (apply(node.op.transposed(), grad),)


@complex_too
def _strided(node: Node, grad: Any) -> tuple[Any]:
    op = node.op

    def view_of(x: Any) -> Any:
        flat = np.zeros(op.extent, x.dtype, like=x)
        flat[windows.places(op.input_shape, op.input_strides, op.start, x)] = x
        return flat[windows.places(op.size, op.strides, op.offset, x)]

    return (apply(gradient_map(op, 0, view_of), grad),)


RULES: dict[type[Any], Rule] = {
    LinearMap: linear_map,
    shape.Reshape: _reshape,
    shape.Permute: _permute,
    shape.Expand: unchanged,  # the run sums over what was expanded
    shape.Slice: moved,
    shape.Diagonal: moved,
    shape.DiagEmbed: moved,
    shape.Cat: _cat,
    shape.Stack: _stack,
    shape.Flip: moved,
    shape.Roll: moved,
    shape.Repeat: moved,
    shape.Pad: _pad,
    shape.Triangle: moved,
    windows.Windows: moved,
    windows.Unfold: moved,
    windows.Fold: moved,
    windows.Strided: _strided,
    index.Take: moved,
    index.Assign: _assign,
    index.Gather: _gather,
    index.Scatter: _scatter,
    index.ScatterReduce: _scatter_reduce,
    resample.Resample: moved,
    graph.AsStrided: _as_strided,
    inplace.AssignView: _assign_view,
    embedding.Embedding: _embedding,
    embedding.BagReduce: _bag_reduce,
    Watch: _watch,
}
