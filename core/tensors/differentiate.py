"""Backward passes over several tensors: `allgrad.autograd.backward` and `allgrad.autograd.grad`.

May import: tensor, graph, autograd.engine, errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd.engine import Run
from ..errors import GradientError
from . import graph
from .gradients import root_of
from .tensor import Tensor

Tensors = Tensor | Sequence[Tensor]


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, Tensor) or value is None else list(value)


def _roots(name: str, tensors: Tensors, gradients: Any) -> list[Any]:
    outputs = _listed(tensors)
    given = _listed(gradients) if gradients is not None else [None] * len(outputs)
    if len(given) != len(outputs):
        raise GradientError(f"{name}: {len(given)} gradients for {len(outputs)} tensors")
    return [root_of(t, g) for t, g in zip(outputs, given, strict=True)]


def backward(
    tensors: Tensors,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """`Tensor.backward` from several tensors at once.

    Args:
        tensors: one tensor, or several.
        grad_tensors: for each of them its gradient, or None for a scalar.
        retain_graph, create_graph: see `Tensor.backward`.

    Raises:
        RuntimeError: see `Tensor.backward`.

    >>> import allgrad as ag
    >>> w = ag.tensor(2.0, requires_grad=True)
    >>> ag.autograd.backward([w * 3, w * w])
    >>> w.grad
    tensor(7.)
    """
    if create_graph:
        raise GradientError("backward: create_graph=True is not supported")
    Run(bool(retain_graph)).execute(_roots("backward", tensors, grad_tensors))


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` for `inputs`; no `.grad` is touched.

    Args:
        outputs: one tensor, or several whose gradients are added up.
        inputs: leaves or intermediate tensors.
        grad_outputs: for each output its gradient, or None for a scalar.
        retain_graph, create_graph: see `Tensor.backward`.
        allow_unused: give None for an input that no output depends on, instead of an error.

    Raises:
        RuntimeError: an input does not require grad, or is not used; see also `Tensor.backward`.

    >>> import allgrad as ag
    >>> x = ag.tensor([1.0, 2.0], requires_grad=True)
    >>> ag.autograd.grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    if create_graph:
        raise GradientError("grad: create_graph=True is not supported")
    wanted = _listed(inputs)
    captured: dict[Any, Any] = {}
    for i, t in enumerate(wanted):
        if not t.requires_grad:
            raise GradientError(f"grad: input {i} of shape {tuple(t.shape)} does not require grad")
        node = graph.node_of(t)
        if node is None:
            captured[t] = None
        else:
            graph.separate(t)
            captured.setdefault(node, {})[t._slot] = None
    Run(bool(retain_graph), captured).execute(_roots("grad", outputs, grad_outputs))
    return tuple(_result(i, t, captured, allow_unused) for i, t in enumerate(wanted))


def _result(i: int, t: Tensor, captured: dict[Any, Any], allow_unused: bool) -> Tensor | None:
    node = graph.node_of(t)
    array = captured[t] if node is None else captured[node][t._slot]
    if array is None:
        if allow_unused:
            return None
        raise GradientError(
            f"grad: input {i} of shape {tuple(t.shape)} was not used to compute the outputs; "
            "allow_unused=True gives None for it"
        )
    return Tensor(np.array(t.run_hooks(array) if node is None else array, order="C"))
