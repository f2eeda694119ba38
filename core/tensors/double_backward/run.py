"""The backward pass over tensors: `create_graph=True`. See Note [Double backward].

The order of nodes, the counting of leaves, captured gradients and callbacks are those of
`autograd.engine.Run`; gradients are tensors here, and what is done to them is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappush
from typing import Any

from ...autograd.engine import Run, run_node_hooks
from ...autograd.mode import mode
from ...errors import ShapeError
from ...ops.base import Op
from .. import graph
from ..promote import cast
from . import rule_of
from .functions import real_part, sum_to
from .node import Node


class TensorRun(Run):
    """One backward pass whose gradients are tensors with a graph of their own."""

    def execute(self, roots: Sequence[tuple[Any, int, Any]]) -> None:
        """Run from `roots`, triples of (node, output slot, gradient tensor)."""
        before, mode.enabled = mode.enabled, True
        try:
            super().execute(roots)
        finally:
            mode.enabled = before
            graph.compute_all()  # nothing of this run waits for memory that the user may change

    def _process(self, node: Op, grad: Any) -> None:
        if node.hooks is not None:
            grad = run_node_hooks(node, grad)
        wanted = node.needs
        if self.captured is not None:
            if node in self.captured:
                self._capture(node, grad)
            if node not in self.leading:
                return
            wanted = self._wanted(node)
        node.check_saved()
        results = rule_of(node)(Node(node, wanted), grad)
        if self.anomaly is not None:
            self.anomaly.check(node, results)
        if not self.retain_graph:
            node.release()
        for parent, slot, result in zip(node.parents, node.slots, results, strict=False):
            if parent is not None and (self.captured is None or self._leads(parent)):
                self._deliver(parent, slot, result, False)

    def _deliver(self, parent: Any, slot: int, grad: Any, fresh: bool) -> None:
        if parent.is_leaf_node:
            if grad is not None:
                self._accumulate_leaf(parent, grad, fresh)
            self.uses[parent] -= 1
            if self.uses[parent] == 0:
                self._leaf_ready(parent)
            return
        if grad is None:
            return
        several = parent.outputs > 1
        shape, dtype = parent.shape, parent.dtype
        if several:
            shape, dtype = shape[slot], dtype[slot]
        grad = _fitted(grad, shape, dtype)
        grads = self.grads
        if parent not in grads:
            heappush(self.heap, (-parent.order, parent))
            grads[parent] = [None] * parent.outputs if several else None
        if several:
            held = grads[parent]
            held[slot] = _sum(held[slot], grad)
        else:
            grads[parent] = _sum(grads[parent], grad)

    def _accumulate_leaf(self, leaf: Any, grad: Any, fresh: bool) -> None:
        grad = _fitted(grad, leaf._array.shape, leaf._array.dtype)
        if self.captured is None:
            self.partial[leaf] = _sum(self.partial.get(leaf), grad)
            self.touched[leaf] = None
        elif leaf in self.captured:
            self.captured[leaf] = _sum(self.captured[leaf], grad)

    def _leaf_ready(self, leaf: Any) -> None:
        if leaf in self.touched:
            del self.touched[leaf]
            leaf.accumulate_tensor(leaf.run_hooks(self.partial.pop(leaf)))
            leaf.run_ready_hooks()


def _sum(held: Any, grad: Any) -> Any:
    return grad if held is None else held + grad


def _fitted(grad: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """`grad` summed to `shape` and cast to `dtype`, recorded."""
    array = grad._array
    if array.shape != shape:
        if array.ndim < len(shape):
            raise ShapeError(f"backward: a gradient of shape {array.shape} came for {shape}")
        grad = sum_to(grad, shape)
    if grad._array.dtype != dtype:
        if grad._array.dtype.kind == "c" and dtype.kind != "c":
            grad = real_part(grad)
        grad = cast(grad, dtype)
    return grad
