"""Gradients that can be differentiated again: what `create_graph=True` runs.

Note [Double backward]
Ops see arrays, so `Op.backward` records nothing. A run with `create_graph=True` walks the same
graph in the same order, but over tensors (`TensorRun` in `run.py`), and asks a *rule* instead of
the op: a function of the node and of the gradient of its output, as tensors, that computes the
gradients of the inputs with differentiable tensor functions. What the op saved is wrapped into
tensors that are connected to the graph where the arrays came from (`Node` in `node.py`), under
the same guards against changes in place. So the gradient is itself a graph, and any number of
derivatives can be taken.

Rules stand in one table per family of ops. An op whose gradient is a linear map of the gradient
it is given needs no formula: a `LinearMap` (`ops/maps.py`) of its own backward does. An op without
a rule is an error that names it.

The modules of this package are imported when the first gradient with a graph is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from ...errors import GradientError
from ...ops.base import Op

Rule = Callable[..., Any]

_FAMILIES = (
    "elementwise",
    "special",
    "activations",
    "reductions",
    "shapes",
    "products",
    "pools",
    "norms",
    "losses",
    "pairs",
    "complex_numbers",
    "attention",
    "recurrent",
    "linalg",
)


@cache
def rules() -> dict[type[Op], Rule]:
    """The rule of every op that has one."""
    table: dict[type[Op], Rule] = {}
    for family in _FAMILIES:
        table |= import_module(f"{__name__}.{family}").RULES
    return table


def rule_of(op: Op) -> Rule:
    """The rule of `op`: ``rule(node, grad) -> gradients of the inputs``, all of them tensors.

    Raises:
        GradientError: there is none.
    """
    own = op.second_order
    rule = own if own is not None else rules().get(type(op))
    if rule is None:
        raise GradientError(
            f"{op.op_name}: gradients with create_graph=True are not defined for this op. "
            "Without create_graph its gradient is available as usual."
        )
    if not getattr(rule, "complex_too", False) and "c" in kinds_of(op):
        raise GradientError(
            f"{op.op_name}: gradients with create_graph=True are not defined for complex numbers"
        )
    return rule


def kinds_of(op: Op) -> str:
    """NumPy's letters for the kinds of the outputs and differentiable inputs of `op`."""
    dtypes = list(op.dtype) if op.outputs > 1 else [op.dtype]
    for parent, slot in zip(op.parents, op.slots, strict=True):
        if parent is not None and parent.is_leaf_node:
            dtypes.append(parent._array.dtype)
        elif parent is not None:
            dtypes.append(parent.dtype[slot] if parent.outputs > 1 else parent.dtype)
    return "".join(d.kind for d in dtypes if d is not None)
