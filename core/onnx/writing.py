"""From two recordings to one ONNX graph: the second half of an export."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from ..errors import ArgumentError
from ..nn import Module
from ..ops.base import Op
from ..tensors import Tensor
from .export import ExportError
from .graph import Graph, Value
from .mappings import MAPPINGS
from .recording import Recording


class Step:
    """One op of both recordings, as a mapping sees it.

    Attributes:
        graph: where nodes go.
        name: of the op.
        inputs: per input a Value, a plain number, or None.
        shape, other_shape: of the output in the two recordings.
        dtype: of the output.
    """

    def __init__(self, graph: Graph, ops: tuple[Op, Op], inputs: list[Any]) -> None:
        self.graph, self._ops, self.inputs = graph, ops, inputs
        self.name = ops[0].op_name
        self.shape, self.other_shape = ops[0].shape, ops[1].shape
        self.dtype = ops[0].dtype

    def __getitem__(self, name: str) -> Any:
        """An attribute of the op, the same in both recordings.

        Raises:
            ExportError: it differs.
        """
        first, second = (getattr(op, name) for op in self._ops)
        if not _equal(first, second):
            raise ExportError(
                f"onnx.export: {self.name}: {name} is {first} for the given input and {second} "
                "for another one. What depends on the input must be computed by ops on tensors"
            )
        return first

    def both(self, name: str) -> tuple[Any, Any]:
        """An attribute of the op in the two recordings."""
        first, second = (getattr(op, name) for op in self._ops)
        return first, second

    def number(self, index: int) -> str:
        """Input `index` in the dtype of the output."""
        value = self.inputs[index]
        if isinstance(value, Value):
            return self.graph.cast(value, self.dtype)
        return self.graph.constant(np.asarray(value, self.dtype))

    def refuse(self, why: str) -> ExportError:
        """The error that says why this op cannot be written."""
        shapes = [v.shape for v in self.inputs if isinstance(v, Value)]
        return ExportError(f"onnx.export: {self.name} of inputs of shapes {shapes}: {why}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()
    return bool(a == b)


class Writer:
    """Writes the ops of two recordings of `model` into a graph."""

    def __init__(
        self,
        model: Module,
        recordings: tuple[Recording, Recording],
        names: list[str],
        outputs: list[str],
        opset: int,
    ) -> None:
        self.recordings = recordings
        first, second = recordings
        inputs = [
            Value(name, tuple(a.shape), tuple(b.shape), a._array.dtype)
            for name, a, b in zip(names, first.leaves, second.leaves, strict=True)
        ]
        self.graph = Graph(opset, inputs, outputs)
        self.known = {id(leaf): value for leaf, value in zip(first.leaves, inputs, strict=True)}
        self.made: dict[tuple[int, int], Value] = {}
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        kinds = [[type(op) for op in r.ops] for r in recordings]
        if kinds[0] != kinds[1]:
            raise ExportError(
                f"onnx.export: the model applied {len(kinds[0])} ops to the given input and "
                f"{len(kinds[1])} (or others) to another one: its control flow depends on the "
                "values or sizes of the input, which a graph cannot hold"
            )
        for ops in zip(first.ops, second.ops, strict=True):
            self._write(ops)

    def _write(self, ops: tuple[Op, Op]) -> None:
        op = ops[0]
        mapping = MAPPINGS.get(type(op))
        step = Step(self.graph, ops, self._inputs(ops))
        if mapping is None:
            raise step.refuse("this op has no counterpart in ONNX that allgrad knows")
        try:
            names = mapping(step)
        except ArgumentError as err:
            raise ExportError(str(err)) from err
        if op.outputs == 1:
            self.made[id(op), 0] = Value(names, tuple(op.shape), tuple(ops[1].shape), op.dtype)
            return
        for slot, name in enumerate(names):
            shapes = tuple(op.shape[slot]), tuple(ops[1].shape[slot])
            self.made[id(op), slot] = Value(name, *shapes, op.dtype[slot])

    def _inputs(self, ops: tuple[Op, Op]) -> list[Any]:
        given, other = (r.inputs_of(op) for r, op in zip(self.recordings, ops, strict=True))
        found = []
        for index, (parent, slot) in enumerate(zip(ops[0].parents, ops[0].slots, strict=True)):
            if parent is not None and not parent.is_leaf_node:
                found.append(self.made[id(parent), slot])
            elif parent is not None:
                found.append(self._leaf(parent, ops[1].parents[index], ops[0]))
            else:
                found.append(self._constant(given[index], other[index], ops[0]))
        return found

    def _leaf(self, leaf: Tensor, other: Tensor, op: Op) -> Value:
        """An input of the model, or a parameter."""
        value = self.known.get(id(leaf))
        if value is None:
            name = self.parameters.get(id(leaf), "constant")
            value = self._initializer(leaf._array, other._array, op, name)
            self.known[id(leaf)] = value
        return value

    def _constant(self, given: Any, other: Any, op: Op) -> Any:
        """What no gradient flows into: an input of integers, a constant tensor, a number."""
        if isinstance(given, tuple):
            tensor, array, values = given
            for leaf in self.recordings[0].leaves:
                if tensor is leaf or array is leaf._array:
                    return self.known[id(leaf)]
            return self._initializer(values, other[2], op, "constant")
        if isinstance(given, np.ndarray):
            return self._initializer(given, other, op, "constant")
        if not _equal(given, other):
            raise self._depends(op)
        return given

    def _initializer(self, array: Any, other: Any, op: Op, hint: str) -> Value:
        if not _equal(array, other):
            raise self._depends(op)
        name = self.graph.constant(array, hint)
        return Value(name, array.shape, array.shape, array.dtype)

    def _depends(self, op: Op) -> ExportError:
        return ExportError(
            f"onnx.export: a constant that {op.op_name} takes differs from one input of the model "
            "to the next: it was computed outside of the recorded ops (NumPy, comparisons, "
            "integer or boolean arithmetic, indices of a maximum), which ONNX would freeze"
        )

    def finish(self, axes: dict[str, dict[int, str]], wanted: dict[str, dict[int, str]]) -> Any:
        """The checked model.

        Args:
            axes, wanted: by name of the input or output, the names of its dynamic axes.
        """
        first, second = self.recordings
        labels = [label for mine in axes.values() for label in mine.values()]
        outputs, taken = [], set()
        for name, a, b in zip(wanted, first.outputs, second.outputs, strict=True):
            found = self.made.get((id(a.grad_fn), a._slot))
            if found is None:
                raise ExportError(
                    f"onnx.export: output {name!r} does not depend on the input through ops that "
                    "are recorded for gradients (it is an input, a constant, or of integers)"
                )
            if found.name in taken or not self._is_node(found.name):
                found = Value(
                    self.graph.node("Identity", found), found.shape, found.other_shape, found.dtype
                )
            taken.add(name)
            self.graph.rename(found.name, name)
            shape = self._output_shape(name, tuple(a.shape), tuple(b.shape), wanted[name], labels)
            outputs.append(_info(name, found.dtype, shape))
        inputs = [
            _info(v.name, v.dtype, [axes[v.name].get(i, n) for i, n in enumerate(v.shape)])
            for v in self.graph.inputs
        ]
        return self.graph.model(outputs, inputs, "exported by allgrad")

    def _is_node(self, name: str) -> bool:
        return any(name in node.output for node in self.graph.nodes)

    def _output_shape(
        self, name: str, first: Any, second: Any, wanted: dict[int, str], labels: list[str]
    ) -> list[Any]:
        """Sizes of an output, with names where they follow the input's."""
        fixed = [axis for axis in wanted if first[axis] == second[axis]]
        if fixed:
            raise ExportError(
                f"onnx.export: dynamic_axes of {name!r}: axis {fixed[0]} is {first[fixed[0]]} "
                "whatever the size of the inputs"
            )
        only = labels[0] if len(set(labels)) == 1 else None
        shape: list[Any] = []
        for axis, (a, b) in enumerate(zip(first, second, strict=True)):
            if a == b:
                shape.append(a)
            else:
                follows = only if only is not None and self._is_size(a, b) else None
                shape.append(wanted.get(axis) or follows or f"{name}_{axis}")
        return shape

    def _is_size(self, a: int, b: int) -> bool:
        pairs = [p for v in self.graph.inputs for p in zip(v.shape, v.other_shape, strict=True)]
        return (a, b) in pairs


def _info(name: str, dtype: Any, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
