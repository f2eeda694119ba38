"""Runs a model once and keeps the graph of its ops: the first half of an export.

Note [Two recordings]
An op graph tells what was computed, but not why a constant has its value or a reshape its target.
So the model runs twice, on inputs of different values and, along the axes that the user calls
dynamic, of different sizes. What is equal in both recordings is a constant of the model. What
differs must be explained by the sizes of the inputs (a flatten of the batch, for example), and
where it cannot, the export is refused. So nothing that depends on an input is ever frozen into the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd.mode import enable_grad, mode
from ..dtypes import FLOATING
from ..errors import ArgumentError
from ..nn import Module
from ..ops.base import Op
from ..tensors import Tensor
from ..tensors.graph import compute_all


class Recorder:
    """Takes the place of the anomaly detector of this thread, and keeps the inputs of ops."""

    def __init__(self) -> None:
        self.inputs: dict[int, tuple[Op, list[Any]]] = {}

    def note(self, op: Op, inputs: Sequence[Any]) -> None:
        """Keep what `op` was applied to; constants as copies, because memory may be reused."""
        kept = []
        for value in inputs:
            if isinstance(value, Tensor) and not value._requires_grad:
                kept.append((value, value._array, value._array.copy()))
            else:
                kept.append(value)
        self.inputs[id(op)] = (op, kept)


class Recording:
    """One run of a model.

    Attributes:
        leaves: the input tensors.
        outputs: the output tensors.
        ops: what the outputs were computed by, in order.
    """

    def __init__(self, leaves: list[Tensor], outputs: list[Tensor], recorder: Recorder) -> None:
        self.leaves, self.outputs = leaves, outputs
        self._inputs = recorder.inputs
        self._made_from: dict[int, list[Any]] = {}
        for op, inputs in recorder.inputs.values():
            for twin in op.twins:  # it does this op's work and a ReLU
                if twin() is not None:
                    self._made_from[id(twin())] = inputs
        self.ops = self._reachable()

    def _reachable(self) -> list[Op]:
        waiting = [t.grad_fn for t in self.outputs if t.grad_fn is not None]
        found: dict[int, Op] = {}
        while waiting:
            op = waiting.pop()
            if id(op) not in found:
                found[id(op)] = op
                waiting += [p for p in op.parents if p is not None and not p.is_leaf_node]
        return sorted(found.values(), key=lambda op: op.order)

    def inputs_of(self, op: Op) -> list[Any]:
        """What `op` was applied to: tensors that require grad, (tensor, array, values), others."""
        known = self._inputs.get(id(op))
        return self._made_from[id(op)] if known is None else known[1]


@contextmanager
def in_evaluation(model: Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and its parameters require grad."""
    modes = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if not p.requires_grad and p.dtype.is_floating_point]
    model.eval()
    for parameter in frozen:
        parameter.requires_grad = True
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = False
        for module, training in modes:
            module.training = training


def record(model: Callable[..., Any], arrays: list[Any], names: list[str]) -> Recording:
    """Run `model` on `arrays` (the last `len(names)` by keyword) and keep its graph.

    Args:
        model: the module, in evaluation mode.
        arrays: NumPy arrays, which become tensors, and other values, which are passed on.
        names: keywords of the last ones.
    """
    leaves, given = [], []
    recorder, before = Recorder(), mode.anomaly
    mode.anomaly = recorder
    try:
        with enable_grad():
            for value in arrays:
                if not isinstance(value, np.ndarray):
                    given.append(value)
                    continue
                leaf = Tensor(value, requires_grad=value.dtype.kind in FLOATING)
                leaves.append(leaf)
                # a copy, because a leaf that requires grad cannot be changed in place
                given.append(leaf.clone() if leaf.requires_grad else leaf)
            split = len(given) - len(names)
            result = model(*given[:split], **dict(zip(names, given[split:], strict=True)))
        compute_all()  # an op knows the shape of its output once it has run
    finally:
        mode.anomaly = before
    return Recording(leaves, _flat(result), recorder)


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in _flat(value)]
    if isinstance(result, list | tuple):
        return [t for value in result for t in _flat(value)]
    if result is None:
        return []
    raise ArgumentError(
        f"onnx.export: expected a model that returns tensors, came {type(result).__name__}"
    )


def varied(value: Any, axes: Sequence[int], rng: np.random.Generator) -> Any:
    """Another input for the second recording: other values, twice the size along `axes`.

    Integers are only put into another order, so that indices stay valid.
    """
    if not isinstance(value, np.ndarray):
        return value
    for axis in axes:
        value = np.concatenate([value, value], axis=axis)
    mixed = rng.permutation(value.reshape(-1)).reshape(value.shape)
    if value.dtype.kind in FLOATING:
        factor = rng.uniform(0.5, 1.5, value.shape).astype(value.dtype)
        return np.where(mixed == 0, factor, mixed * factor)
    return ~mixed if value.dtype == bool else mixed
