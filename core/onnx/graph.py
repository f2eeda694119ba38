"""The ONNX graph under construction: values, nodes, constants, and sizes known at run time only.

Imports: the library `onnx`, errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ArgumentError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph.

    Attributes:
        name: its name there.
        shape, other_shape: in the two recordings, see Note [Two recordings].
        dtype: of its elements.
    """

    name: str
    shape: Shape
    other_shape: Shape
    dtype: np.dtype[Any]


class Graph:
    """Nodes and constants, with the operations that the mappings share.

    Args:
        opset: version of the operators.
        inputs: the values that are fed.
        reserved: names of the outputs.
    """

    def __init__(self, opset: int, inputs: list[Value], reserved: list[str]) -> None:
        self.opset, self.inputs = opset, inputs
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._small: dict[tuple[Any, ...], str] = {}
        self._taken = {value.name for value in inputs} | set(reserved)
        self._sizes: dict[tuple[str, int], str] = {}

    def name(self, hint: str) -> str:
        """A name that nobody has yet."""
        name, count = hint, 1
        while name in self._taken:
            name, count = f"{hint}_{count}", count + 1
        self._taken.add(name)
        return name

    def node(
        self, kind: str, *inputs: Value | str | None, count: int = 1, **attributes: Any
    ) -> Any:
        """Add a node; returns the name of its output, or names if there are several."""
        names = ["" if v is None else v if isinstance(v, str) else v.name for v in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [self.name(kind.lower()) for _ in range(count)]
        self.nodes.append(
            helper.make_node(kind, names, outputs, name=f"{outputs[0]}_node", **attributes)
        )
        return outputs[0] if count == 1 else outputs

    def constant(self, array: Any, hint: str = "constant", dtype: Any = None) -> str:
        """The name of an initializer; equal small ones are kept once."""
        array = np.ascontiguousarray(array, dtype).reshape(np.shape(array))
        key = (array.dtype, array.shape, array.tobytes()) if array.size <= 16 else None
        if key in self._small and hint == "constant":
            return self._small[key]
        name = self.name(hint)
        self.constants[name] = numpy_helper.from_array(array, name)
        if key is not None:
            self._small[key] = name
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant(np.array(values, np.int64))

    def cast(self, value: Value | str, to: Any, given: Any = None) -> str:
        """`value` in the dtype `to`; no node if it has it."""
        has = value.dtype if isinstance(value, Value) else given
        name = value.name if isinstance(value, Value) else value
        if has == to:
            return name
        return self.node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def reduce(self, kind: str, x: Value | str, axes: Any, keepdim: bool) -> str:
        """A reduction; the axes became an input of the operators in opset 13 or 18."""
        keep = int(keepdim)
        if axes is None:
            return self.node(kind, x, keepdims=keep)
        if kind == "ReduceSum" or self.opset >= 18:
            return self.node(kind, x, self.integers(*axes), keepdims=keep)
        return self.node(kind, x, keepdims=keep, axes=list(axes))

    def size(self, first: int, second: int, who: str) -> str:
        """A vector of one int64: a size that was `first` and `second` in the two recordings.

        Raises:
            ArgumentError: it differs, and is no multiple of the size of an input's dynamic axis.
        """
        if first == second:
            return self.integers(first)
        for value in self.inputs:
            pairs = zip(value.shape, value.other_shape, strict=True)
            for axis, (a, b) in enumerate(pairs):
                if a != b and first % a == 0 and first // a * b == second:
                    known = self._sizes.get((value.name, axis))
                    if known is None:
                        shape = self.node("Shape", value)
                        known = self.node("Gather", shape, self.integers(axis), axis=0)
                        self._sizes[value.name, axis] = known
                    factor = first // a
                    return known if factor == 1 else self.node("Mul", known, self.integers(factor))
        raise ArgumentError(
            f"onnx.export: {who}: a size was {first} for the given input and {second} for twice "
            "the dynamic sizes; it can be exported only if it is a multiple of an input's size"
        )

    def shape_vector(self, first: Shape, second: Shape, who: str) -> str:
        """A vector of int64 that holds a shape."""
        if first == second:
            return self.integers(*first)
        sizes = [self.size(a, b, who) for a, b in zip(first, second, strict=True)]
        return self.node("Concat", *sizes, axis=0)

    def rename(self, old: str, new: str) -> None:
        """Give the output of a node its final name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new

    def model(self, outputs: list[Any], inputs: list[Any], doc: str) -> Any:
        """The finished model, checked.

        Raises:
            onnx.checker.ValidationError: an error of ours.
        """
        graph = helper.make_graph(
            self.nodes, "allgrad", inputs, outputs, list(self.constants.values()), doc_string=doc
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="allgrad")
        model.ir_version = helper.find_min_ir_version_for(opsets)
        onnx.checker.check_model(model, full_check=True)
        return model
