"""What an op is: one application of a function on arrays, and the node of the graph.

Ops see arrays, never tensors. Imports: backend, errors, NumPy.

Note [Op contract]
* `forward` gets arrays (or Python scalars) and returns an array, or a tuple when `outputs` > 1.
  It puts into `self.saved` exactly what `backward` reads, and consults `self.needs` (one flag
  per input) first. The engine empties `saved` after use.
* `backward` gets the gradient of the output (a tuple, None for unused ones, when `outputs` > 1)
  and returns one array or None per input. It must not write into the gradient it is given:
  other inputs may hold the same array. It returns gradients in the shape of the output where
  the input was broadcast, and in any floating type; the engine sums and casts, once.
* NumPy's floating-point warnings are off while both run: inf and nan are results, not warnings.
* An array in `saved` that is the very array of an input or output is guarded: changing that
  tensor in place before backward is an error that names the op.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..backend import Array
from ..errors import GradientError

_sequence = itertools.count()
_NO_NEEDS = (False,) * 16


class Op:
    """One application of an operation. See Note [Op contract].

    Attributes:
        needs: per input, whether its gradient is wanted.
        saved: arrays for backward; None once freed.
        parents: per input, its node (an Op or a leaf tensor) or None.
        slots: per input, which output of its node it was.
        order: creation number; consumers always have a higher one than producers.
        shape, dtype: of the output (of each output, when there are several).
        twins: weak references to the ops that do this one's work and a ReLU.
        out: per input, where a weight gradient may be written directly (see `writes_out`).
        restore: called when `saved` is None, to fill it again (`utils.checkpoint`), or None.
        second_order: this op's rule for gradients with a graph, where it is not in the tables of
            `tensors/double_backward`.
        trace: where the user called this op, noted while anomalies are detected, or None.
        guards: (version counter, expected version, index into `saved`, index of the input or -1
            for the result, shape) of every saved array that could be changed in place.
    """

    outputs = 1
    is_leaf_node = False
    # Inputs whose gradient `backward` can write into `self.out[i]`, saving a copy.
    writes_out: tuple[int, ...] = ()
    # True when `backward` returns arrays that nobody else holds, so that a leaf may keep them.
    fresh_grads = False
    # True when the op serves float16 and bfloat16 itself: it only moves elements, or its kernel
    # handles them. Others get float32 copies. See Note [Half precision] in `dtypes.py`.
    takes_half = False
    # True when only a GPU's kernels serve halves: it reads and writes half as much.
    takes_half_on_gpu = False

    needs: tuple[bool, ...] = _NO_NEEDS
    saved: Any = ()  # a tuple while `backward` may run; the engine checks before it does
    parents: tuple[Any, ...] = ()
    slots: tuple[int, ...] = ()
    shape: Any = ()
    dtype: Any = None
    guards: tuple[tuple[list[int], int, int, int, tuple[int, ...]], ...] = ()
    hooks: Any = None
    twins: tuple[Any, ...] = ()
    out: Any = None
    restore: Any = None
    trace: Any = None
    second_order: Any = None
    order = -1

    def forward(self, *arrays: Any) -> Any:
        """Compute the output from the input arrays."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, grad: Any) -> tuple[Array | None, ...]:
        """One gradient (or None) per input, from the gradient of the output."""
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    @property
    def op_name(self) -> str:
        """The op's name in messages, e.g. ``"Conv"``."""
        return type(self).__name__

    def name(self) -> str:
        """The name of this node of the graph, e.g. ``"ConvBackward"``."""
        return f"{self.op_name}Backward"

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Per input: the node that made it (None for a constant) and which of its outputs."""
        return tuple(
            (AccumulateGrad(p) if p is not None and p.is_leaf_node else p, slot)
            for p, slot in zip(self.parents, self.slots, strict=True)
        )

    def __repr__(self) -> str:
        return f"<{self.name()}>"

    def link(self, parents: tuple[Any, ...], slots: tuple[int, ...]) -> None:
        """Enter the graph: remember the producers of the inputs."""
        self.parents = parents
        self.slots = slots
        self.order = next(_sequence)

    def check_saved(self) -> None:
        """Raise unless what backward reads is still there and unchanged.

        Raises:
            GradientError: the graph was freed, or an array was modified in place.
        """
        if self.saved is None and self.restore is not None:
            self.restore()  # a checkpointed region computes its saved arrays again
        if self.saved is None:
            raise GradientError(
                f"{self.op_name}: backward was run a second time through a graph that was already "
                "freed. Pass retain_graph=True to the first backward() if you need this."
            )
        for version, expected, _, index, shape in self.guards:
            if version[0] != expected:
                what = f"input {index}" if index >= 0 else "its result"
                raise GradientError(
                    f"{self.op_name}: {what} of shape {shape}, which backward needs, was modified "
                    f"by an in-place operation (it is at version {version[0]}, expected version "
                    f"{expected}). Use the out-of-place form, or clone() before changing it."
                )

    def release(self) -> None:
        """Free what was kept for backward. An op that kept nothing can run backward again."""
        if self.saved:
            self.saved = None
        self.out = None


class AccumulateGrad:
    """What stands at the end of the graph in `next_functions`: a leaf that takes a gradient.

    Args:
        variable: the leaf tensor.
    """

    next_functions: tuple[tuple[Any, int], ...] = ()

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    def name(self) -> str:
        """The name of this end of the graph."""
        return "AccumulateGrad"

    def __repr__(self) -> str:
        return "<AccumulateGrad>"


def in_dtype(grad: Array, dtype: np.dtype[Any]) -> Array:
    """`grad` in the dtype of its tensor; of a complex one, a real tensor gets the real part."""
    if grad.dtype.kind == "c" and dtype.kind != "c":
        grad = grad.real
    return grad.astype(dtype, copy=False)


def reduced(grad: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: sum `grad` down to `shape`."""
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        i + extra for i, s in enumerate(shape) if s == 1 and grad.shape[i + extra] != 1
    )
    if axes:
        wide = np.float32 if grad.itemsize == 2 else None  # half sums would lose small addends
        grad = grad.sum(axis=axes, keepdims=True, dtype=wide)
    return grad.reshape(shape)
