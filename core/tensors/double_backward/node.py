"""A node of the graph as a rule sees it: its op, and what the op saved as connected tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.arrays import as_array, is_array
from ...ops.base import Op
from ...ops.elementwise import Cast
from .. import graph
from ..tensor import Tensor


class Node:
    """One op during a run with `create_graph=True`. See Note [Double backward].

    Args:
        op: the op; what it saved was checked.
        needs: per input, whether its gradient is wanted in this run.
    """

    def __init__(self, op: Any, needs: tuple[bool, ...]) -> None:
        self.op, self.needs = op, needs

    @property
    def saved(self) -> Any:
        """The arrays that the op saved."""
        return self.op.saved

    def input(self, index: int, array: Any) -> Any:
        """The saved `array`, which is input `index` of the op, as a tensor of the graph.

        A number, or None for an input that was not given, is handed back as it is.
        """
        if not (is_array(array) or isinstance(array, np.generic)):
            return array
        parent = self._parent(index)
        if parent is None:
            return self.constant(array)
        if not parent.is_leaf_node:
            return self._connected(array, parent, self.op.slots[index])
        if parent._array is array:
            return parent
        alias = Cast(parent._array.dtype)  # the leaf was given other memory since (`.data = ...`)
        graph.link(alias, (parent,))
        alias.shape, alias.dtype = parent._array.shape, parent._array.dtype
        return self._connected(array, alias, 0)

    def output(self, array: Any, slot: int = 0) -> Any:
        """The saved `array`, which is the (or one) output of the op, as a tensor of the graph."""
        return self._connected(array, self.op, slot)

    def derived(self, index: int, array: Any, op: Op) -> Any:
        """The saved `array` that `op` would compute from input `index`, connected through `op`.

        Args:
            op: fresh, with what its own rule needs in `saved`.
        """
        parent = self._parent(index)
        if parent is None:
            return self.constant(array)
        array = as_array(array)
        op.needs = (True,)
        op.link((parent,), (self.op.slots[index],))
        op.shape, op.dtype = array.shape, array.dtype
        return self._connected(array, op, 0)

    def constant(self, array: Any) -> Any:
        """`array` as a tensor outside the graph."""
        return self._wrapped(as_array(array))

    def _parent(self, index: int) -> Any:
        parents = self.op.parents
        return parents[index] if index < len(parents) else None

    def _connected(self, array: Any, op: Op, slot: int) -> Any:
        t = self._wrapped(as_array(array))
        t._node, t._slot, t._requires_grad = op, slot, True
        return t

    def _wrapped(self, array: np.ndarray) -> Any:
        t = Tensor._new(array)
        for version, _, position, _, _ in self.op.guards:
            if self.op.saved[position] is array:  # changes of that memory must not go unnoticed
                t._version = version
        return t
