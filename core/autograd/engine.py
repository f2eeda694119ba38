"""The backward pass over nodes; knows nodes and arrays, neither tensors nor modules.

Note [Order of backward]
A consumer is always created after its producers, so walking the reachable nodes from the highest
creation number down meets every node after all of its consumers: no counting of dependencies is
needed. Leaves are counted, though: a leaf is *ready* when its last consumer has delivered, and
its ready-hooks fire then, while the rest of backward still has to run. That is what lets `ddp`
overlap communication with computation.

All state belongs to one run; runs of different threads know nothing of each other.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from ..backend.arrays import as_array, is_writable
from ..backend.silence import IGNORED, warnings_of_numpy
from ..errors import GradientError
from ..ops.base import Op, in_dtype, reduced
from ..timeline import Timeline, active
from .mode import mode


class _Runs(threading.local):
    def __init__(self) -> None:
        self.stack: list[Run] = []


_runs = _Runs()


def queue_callback(function: Callable[[], None]) -> None:
    """Call `function` once when the backward run of this thread that is under way ends.

    Raises:
        GradientError: no backward is running on this thread.
    """
    if not _runs.stack:
        raise GradientError(
            "queue_callback: no backward pass is running on this thread; call it from a hook"
        )
    _runs.stack[-1].callbacks.append(function)


def call_after_nodes(function: Callable[[], object]) -> None:
    """Call `function` after each node of the backward run of this thread that is under way.

    For work that must be pushed on while backward computes, such as communication.

    Raises:
        GradientError: no backward is running on this thread.
    """
    if not _runs.stack:
        raise GradientError(
            "call_after_nodes: no backward pass is running on this thread; call it from a hook"
        )
    _runs.stack[-1].after_node.append(function)


def backward_is_running() -> bool:
    """Whether this thread is inside a backward run: in a hook, or in an op's own backward."""
    return bool(_runs.stack)


@contextlib.contextmanager
def delivering() -> Iterator[None]:
    """Gradients of a run that captured them are handed to leaves: hooks may queue callbacks."""
    run = Run(False)
    _runs.stack.append(run)
    try:
        yield
        for callback in run.callbacks:
            callback()
    finally:
        _runs.stack.pop()


class Run:
    """One backward pass.

    Args:
        retain_graph: keep what the nodes saved, so that backward can run again.
        captured: leaves or (node, slot) pairs whose gradient is wanted back instead of being
            accumulated; see `autograd.grad`.
    """

    def __init__(self, retain_graph: bool, captured: Any = None) -> None:
        self.retain_graph = retain_graph
        self.captured = captured
        self.callbacks: list[Callable[[], None]] = []
        self.after_node: list[Callable[[], object]] = []
        self.heap: list[tuple[int, Op]] = []
        self.grads: dict[Op, Any] = {}
        self.uses: dict[Any, int] = {}
        self.touched: dict[Any, None] = {}
        self.partial: dict[Any, Any] = {}  # sums for leaves with hooks
        self.leading: set[Any] = set()  # nodes from which a captured gradient is reached
        self.anomaly = mode.anomaly  # see `anomaly_mode.py`
        self.timeline = active()

    def execute(self, roots: Sequence[tuple[Any, int, np.ndarray]]) -> None:
        """Run from `roots`, triples of (node, output slot, gradient)."""
        _runs.stack.append(self)
        before = warnings_of_numpy.set(IGNORED)
        timeline = self.timeline
        begin = 0.0 if timeline is None else timeline.begin("backward")
        try:
            self._count_uses(roots)
            for node, slot, grad in roots:
                self._deliver(node, slot, grad, False)
            heap, grads, after_node = self.heap, self.grads, self.after_node
            process: Callable[[Op, Any], None]
            process = self._process if self.anomaly is None else self._process_watched
            if timeline is not None:
                process = _timed(process, timeline)
            while heap:
                node = heappop(heap)[1]
                process(node, grads.pop(node))
                for function in after_node:
                    function()
            # A leaf some of whose consumers gave no gradient is complete only now.
            for leaf in list(self.touched):
                self._leaf_ready(leaf)
            for callback in self.callbacks:
                callback()
        finally:
            warnings_of_numpy.reset(before)
            _runs.stack.pop()
            if timeline is not None:
                timeline.end(begin, "backward", "backward")

    def _count_uses(self, roots: Sequence[tuple[Any, int, np.ndarray]]) -> None:
        uses = self.uses
        stack: list[Any] = []
        seen: set[Any] = set()
        for node, _, _ in roots:
            if node.is_leaf_node:
                uses[node] = uses.get(node, 0) + 1
            elif node not in seen:
                seen.add(node)
                stack.append(node)
        while stack:
            for parent in stack.pop().parents:
                if parent is None:
                    continue
                if parent.is_leaf_node:
                    uses[parent] = uses.get(parent, 0) + 1
                elif parent not in seen:
                    seen.add(parent)
                    stack.append(parent)
        if self.captured is not None:
            for node in sorted(seen, key=lambda n: n.order):
                if any(self._leads(parent) for parent in node.parents):
                    self.leading.add(node)

    def _leads(self, parent: Any) -> bool:
        """Whether a captured gradient is at or behind `parent`."""
        return parent is not None and (parent in self.captured or parent in self.leading)

    def _process(self, node: Op, grad: Any) -> None:
        if node.hooks is not None:
            grad = run_node_hooks(node, grad)
        if self.captured is not None:
            self._process_captured(node, grad)
            return
        if node.guards or node.saved is None:
            node.check_saved()
        if node.writes_out:
            self._offer_outputs(node)
        results = node.backward(grad)
        del grad  # so that an array nobody else holds can be reused by the accumulation below
        if self.anomaly is not None:
            self.anomaly.check(node, results)
        if not self.retain_graph:
            node.release()
        slots = node.slots
        for index, parent in enumerate(node.parents):
            if parent is not None:
                self._deliver(parent, slots[index], results[index], node.fresh_grads)

    def _process_captured(self, node: Op, grad: Any) -> None:
        """Like `_process`, but only on the way to a captured gradient."""
        if node in self.captured:
            self._capture(node, grad)
        if node not in self.leading:
            return
        if node.guards or node.saved is None:
            node.check_saved()
        wanted, node.out = node.needs, None
        node.needs = self._wanted(node)
        try:
            results = node.backward(grad)
        finally:
            node.needs = wanted
        if self.anomaly is not None:
            self.anomaly.check(node, results)
        if not self.retain_graph:
            node.release()
        for parent, slot, result in zip(node.parents, node.slots, results, strict=False):
            if self._leads(parent):
                self._deliver(parent, slot, result, False)

    def _wanted(self, node: Op) -> tuple[bool, ...]:
        """Per input of `node`, whether a captured gradient is at or behind it."""
        return tuple(self._leads(parent) for parent in node.parents)

    def _process_watched(self, node: Op, grad: Any) -> None:
        try:
            self._process(node, grad)
        except Exception as error:
            self.anomaly.explain(node, error)
            raise

    def _offer_outputs(self, node: Op) -> None:
        out = None
        for index in node.writes_out:
            leaf = node.parents[index]
            if leaf is not None and leaf.is_leaf_node and self.uses[leaf] == 1:
                buffer = leaf.free_grad_buffer() if self.captured is None else None
                if buffer is not None and leaf not in self.touched:
                    out = {} if out is None else out
                    out[index] = buffer
        node.out = out

    def _deliver(self, parent: Any, slot: int, grad: np.ndarray | None, fresh: bool) -> None:
        """Add `grad` to what `parent` has received so far."""
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
        if grad.shape != shape:
            grad = reduced(grad, shape)
        if grad.dtype != dtype:
            grad = in_dtype(grad, dtype)
        if (
            not shape and type(grad) is not np.ndarray
        ):  # NumPy gives scalars where ops were promised arrays
            grad = as_array(grad)
        grads = self.grads
        if parent not in grads:
            heappush(self.heap, (-parent.order, parent))
            grads[parent] = [None] * parent.outputs if several else grad
            if not several:
                return
        if several:
            held = grads[parent]
            held[slot] = grad if held[slot] is None else held[slot] + grad
            return
        before = grads.pop(parent)
        grads[parent] = _sum(before, grad) if sys.getrefcount(before) > 2 else _add(before, grad)

    def _accumulate_leaf(self, leaf: Any, grad: np.ndarray, fresh: bool) -> None:
        array = leaf._array
        if grad.shape != array.shape:
            grad = reduced(grad, array.shape)
        if grad.dtype != array.dtype:
            grad = in_dtype(grad, array.dtype)
        if self.captured is None:
            if leaf.has_hooks():  # they see the sum over all uses, once
                before = self.partial.get(leaf)
                self.partial[leaf] = grad if before is None else before + grad
            else:
                leaf.accumulate_grad(grad, fresh)
            self.touched[leaf] = None
        elif leaf in self.captured:
            before = self.captured[leaf]
            self.captured[leaf] = grad if before is None else before + grad

    def _leaf_ready(self, leaf: Any) -> None:
        if leaf in self.touched:
            del self.touched[leaf]
            if leaf in self.partial:
                leaf.accumulate_grad(leaf.run_hooks(self.partial.pop(leaf)), False)
            leaf.run_ready_hooks()

    def _capture(self, node: Op, grad: Any) -> None:
        wanted = self.captured[node]
        if node.outputs == 1:
            wanted[0] = grad
        else:
            for slot in wanted:
                wanted[slot] = grad[slot]


def _timed(process: Callable[[Op, Any], None], timeline: Timeline) -> Callable[[Op, Any], None]:
    """`process` with an event per node, named after the op and the first parameter that it used."""
    names = timeline.names

    def timed(node: Op, grad: Any) -> None:
        name = type(node).__name__
        used = {
            names[id(parent)]: [parent._array.nbytes, parent._array.dtype.name]
            for parent in node.parents
            if parent is not None and parent.is_leaf_node and id(parent) in names
        }
        if used:
            name = f"{name} {next(iter(used))}"
        begin = timeline.begin(name)
        process(node, grad)
        if used:
            timeline.end(begin, name, "node", parameters=used)
        else:
            timeline.end(begin, name, "node")

    return timed


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return as_array(a + b)


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, inside a's memory: the caller made sure that nobody else can see it."""
    writable = a.flags.writeable if type(a) is np.ndarray else is_writable(a)
    if a.base is None and writable and a.shape == b.shape and a.ndim:
        np.add(a, b, out=a)
        return a
    return as_array(a + b)


def run_node_hooks(node: Op, grad: Any) -> Any:
    """Pass the gradient of the output (of each output) of `node` through its hooks."""
    if node.outputs == 1:
        return run_hooks(node.hooks.get(0, {}), grad)
    grad = list(grad)
    for slot, hooks in node.hooks.items():
        if grad[slot] is not None:
            grad[slot] = run_hooks(hooks, grad[slot])
    return grad


def run_hooks(hooks: dict[float, Callable[[Any], Any]], grad: Any) -> Any:
    """Pass `grad` through `hooks` in the order of their keys."""
    for key in sorted(hooks):
        if key in hooks:  # an earlier hook may have removed it
            grad = hooks[key](grad)
    return grad
