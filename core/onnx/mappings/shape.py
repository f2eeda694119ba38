"""Ops that move elements: shapes, slices, joins, padding, look-ups."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import index, reduce, shape

_END = np.iinfo(np.int64).max


def _reshape(step: Any) -> str:
    """To fixed sizes; -1 or 0 (as the input) where a dynamic size decides."""
    x = step.inputs[0]
    first, second = step.shape, step.other_shape
    target = list(first)
    for axis, (a, b) in enumerate(zip(first, second, strict=True)):
        same_axis = axis < len(x.shape) and (x.shape[axis], x.other_shape[axis]) == (a, b)
        if a != b:
            target[axis] = 0 if same_axis else -1
    if target.count(-1) > 1 or (0 in first and first == second):
        return step.graph.node(
            "Reshape", x, step.graph.shape_vector(first, second, step.name), allowzero=1
        )
    return step.graph.node("Reshape", x, step.graph.integers(*target))


def _permute(step: Any) -> str:
    return step.graph.node("Transpose", step.inputs[0], perm=[int(a) for a in step["axes"]])


def _expand(step: Any) -> str:
    x = step.inputs[0]
    sizes = [list(step.shape), list(step.other_shape)]
    lead = len(step.shape) - len(x.shape)
    for axis in range(lead, len(step.shape)):
        if x.shape[axis - lead] == step.shape[axis]:  # 1 keeps the input's size
            sizes[0][axis] = sizes[1][axis] = 1
    vector = step.graph.shape_vector(tuple(sizes[0]), tuple(sizes[1]), step.name)
    return step.graph.node("Expand", x, vector)


def _slice(step: Any) -> str:
    """Slices first, then integers take their axes away, then None adds axes."""
    x, key = step.inputs[0], [k for k in step["key"] if k is not Ellipsis]
    node, integers = step.graph.node, step.graph.integers
    starts, ends, steps, axes, gone, new = [], [], [], [], [], []
    axis = kept = 0
    for part in key:
        if part is None:
            new.append(kept)
            kept += 1
            continue
        if isinstance(part, slice):
            stride = 1 if part.step is None else part.step
            if part != slice(None):
                starts.append(0 if part.start is None else part.start)
                ends.append(_END if part.stop is None else part.stop)
                steps.append(stride)
                axes.append(axis)
            kept += 1
        else:
            number = int(part)
            starts.append(number)
            ends.append(_END if number == -1 else number + 1)
            steps.append(1)
            axes.append(axis)
            gone.append(axis)
        axis += 1
    y = x.name
    if axes:
        y = node("Slice", y, integers(*starts), integers(*ends), integers(*axes), integers(*steps))
    if gone:
        y = node("Squeeze", y, integers(*gone))
    return node("Unsqueeze", y, integers(*new)) if new else y


def _take(step: Any) -> str:
    """``x[:, :, indices]``: one array of integers after whole axes."""
    *before, last = [k for k in step["key"] if k is not Ellipsis] or [None]
    while before and isinstance(last, slice) and last == slice(None):
        *before, last = before
    whole = all(isinstance(k, slice) and k == slice(None) for k in before)
    if not whole or not isinstance(last, np.ndarray) or last.dtype == bool:
        raise step.refuse("only one array of integers can be an index")
    indices = step.graph.constant(last.astype(np.int64))
    return step.graph.node("Gather", step.inputs[0], indices, axis=len(before))


def _gather(step: Any) -> str:
    x, indices = step.inputs
    return step.graph.node("GatherElements", x, indices, axis=int(step["axis"]))


def _cat(step: Any) -> str:
    parts = [step.number(i) for i in range(len(step.inputs))]
    return step.graph.node("Concat", *parts, axis=int(step["axis"]))


def _stack(step: Any) -> str:
    axis = int(step["axis"])
    where = step.graph.integers(axis)
    parts = [step.graph.node("Unsqueeze", v, where) for v in step.inputs]
    return step.graph.node("Concat", *parts, axis=axis)


def _flip(step: Any) -> str:
    axes = step["axes"]
    if not axes:
        return step.inputs[0].name
    count, integers = len(axes), step.graph.integers
    begin, end = integers(*[-1] * count), integers(*[-_END] * count)
    steps = integers(*[-1] * count)
    return step.graph.node("Slice", step.inputs[0], begin, end, integers(*axes), steps)


def _roll(step: Any) -> str:
    if step["axes"] is None:
        raise step.refuse("a roll of the flattened tensor has no counterpart in ONNX")
    y, node, integers = step.inputs[0].name, step.graph.node, step.graph.integers
    for shift, axis in zip(step["shifts"], step["axes"], strict=True):
        size = step.inputs[0].shape[axis]
        if size != step.inputs[0].other_shape[axis]:
            raise step.refuse("a dynamic axis is rolled")
        if shift % size:
            cut = integers(size - shift % size)
            tail = node("Slice", y, cut, integers(_END), integers(axis))
            head = node("Slice", y, integers(0), cut, integers(axis))
            y = node("Concat", tail, head, axis=int(axis))
    return y


def _repeat(step: Any) -> str:
    x, counts = step.inputs[0], step["counts"]
    y, extra = x.name, len(counts) - len(x.shape)
    if extra > 0:
        y = step.graph.node("Unsqueeze", y, step.graph.integers(*range(extra)))
    return step.graph.node("Tile", y, step.graph.integers(*(1,) * -extra, *counts))


def _pad(step: Any) -> str:
    margins, mode = step["margins"], step["mode"]
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode == "circular" and step.graph.opset < 19:
        raise step.refuse("circular padding needs opset_version=19")
    if mode != "constant" and any(n < 0 for pair in margins for n in pair):
        raise step.refuse(f"negative margins in mode {mode!r} have no counterpart in ONNX")
    pads = step.graph.integers(*(b for b, _ in margins), *(a for _, a in margins))
    value = None
    if mode == "constant":
        value = step.graph.constant(np.asarray(step["value"], step.dtype))
    return step.graph.node("Pad", step.inputs[0], pads, value, mode=kinds[mode])


def _triangle(step: Any) -> str:
    upper = int(step["function"] is np.triu)
    diagonal = step.graph.constant(np.asarray(step["diagonal"], np.int64))
    return step.graph.node("Trilu", step.inputs[0], diagonal, upper=upper)


MAPPINGS = {
    shape.Reshape: _reshape,
    shape.Permute: _permute,
    shape.Expand: _expand,
    shape.Slice: _slice,
    shape.Cat: _cat,
    shape.Stack: _stack,
    shape.Flip: _flip,
    shape.Roll: _roll,
    shape.Repeat: _repeat,
    shape.Pad: _pad,
    shape.Triangle: _triangle,
    index.Take: _take,
    index.Gather: _gather,
    reduce.Pick: _gather,
}
