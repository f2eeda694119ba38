"""Backward passes over several tensors: `allgrad.autograd.backward` and `allgrad.autograd.grad`.

May import: tensor, graph, autograd.engine, errors.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd.engine import Run, delivering
from ..backend.arrays import is_array, owned
from ..errors import ArgumentError, GradientError
from . import graph
from .gradients import root_of
from .tensor import Tensor

Tensors = Tensor | Sequence[Tensor]


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, Tensor) or value is None else list(value)


def _run(
    name: str,
    tensors: Tensors,
    gradients: Any,
    retain_graph: bool | None,
    create_graph: bool,
    captured: dict[Any, Any] | None,
) -> None:
    outputs = _listed(tensors)
    given = _listed(gradients) if gradients is not None else [None] * len(outputs)
    if len(given) != len(outputs):
        raise GradientError(f"{name}: {len(given)} gradients for {len(outputs)} tensors")
    kind = Run
    if create_graph:  # see Note [Double backward]
        kind = importlib.import_module(f"{__package__}.double_backward.run").TensorRun
    retain = create_graph if retain_graph is None else bool(retain_graph)
    roots = [root_of(t, g, create_graph) for t, g in zip(outputs, given, strict=True)]
    kind(retain, captured).execute(roots)


def backward(
    tensors: Tensors,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """`Tensor.backward` from several tensors at once.

    Args:
        tensors: one tensor, or several.
        grad_tensors: for each of them its gradient, or None for a scalar.
        retain_graph, create_graph, inputs: see `Tensor.backward`.
        grad_variables: old name of `grad_tensors`.

    Raises:
        RuntimeError: see `Tensor.backward`.

    >>> import allgrad as ag
    >>> w = ag.tensor(2.0, requires_grad=True)
    >>> ag.autograd.backward([w * 3, w * w])
    >>> w.grad
    tensor(7.)
    """
    if grad_variables is not None:
        if grad_tensors is not None:
            raise GradientError(
                "backward: grad_variables is the old name of grad_tensors; give one"
            )
        grad_tensors = grad_variables
    if inputs is None:
        _run("backward", tensors, grad_tensors, retain_graph, create_graph, None)
        return
    wanted = _listed(inputs)
    if not wanted:
        raise GradientError(
            "backward: inputs is empty; leave it out for the gradients of all leaves"
        )
    for t in wanted:
        if t.requires_grad:
            t.retain_grad()  # those that are no leaves take their gradients by this
    captured = _capture("backward", wanted)
    _run("backward", tensors, grad_tensors, retain_graph, create_graph, captured)
    with delivering():
        for t in {id(t): t for t in wanted if t.is_leaf}.values():
            found = _found(t, captured)
            if found is None:
                continue
            if create_graph:
                t.accumulate_tensor(found)
            else:
                t.accumulate_grad(found, False)
            t.run_ready_hooks()


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` for `inputs`; no `.grad` is touched.

    Args:
        outputs: one tensor, or several whose gradients are added up.
        inputs: leaves or intermediate tensors.
        grad_outputs: for each output its gradient, or None for a scalar.
        retain_graph, create_graph: see `Tensor.backward`.
        allow_unused: give None for an input that no output depends on, instead of an error.
        is_grads_batched: not supported; take the gradients one by one.
        materialize_grads: give zeros instead of None.

    Raises:
        RuntimeError: an input does not require grad, or is not used; see also `Tensor.backward`.
        ValueError: `allow_unused=False` together with `materialize_grads`.

    >>> import allgrad as ag
    >>> x = ag.tensor([1.0, 2.0], requires_grad=True)
    >>> (slope,) = ag.autograd.grad((x**3).sum(), x, create_graph=True)
    >>> ag.autograd.grad(slope.sum(), x)
    (tensor([ 6., 12.]),)
    """
    if is_grads_batched:
        raise NotImplementedError(
            "grad: is_grads_batched=True is not supported; call grad once for each gradient"
        )
    if materialize_grads and allow_unused is False:
        raise ArgumentError("grad: allow_unused=False contradicts materialize_grads=True")
    wanted = _listed(inputs)
    captured = _capture("grad", wanted)
    _run("grad", outputs, grad_outputs, retain_graph, create_graph, captured)
    results = []
    for i, t in enumerate(wanted):
        found = _found(t, captured)
        if found is None and materialize_grads:
            found = np.zeros(t._array.shape, t._array.dtype, like=t._array)
        elif found is None and not allow_unused:
            raise GradientError(
                f"grad: input {i} of shape {tuple(t.shape)} was not used to compute the outputs; "
                "allow_unused=True gives None for it"
            )
        if is_array(found) or isinstance(found, np.generic):
            found = Tensor(owned(found))
        results.append(found)
    return tuple(results)


def _capture(name: str, wanted: list[Any]) -> dict[Any, Any]:
    """Where a run shall put the gradients of `wanted`."""
    captured: dict[Any, Any] = {}
    for i, t in enumerate(wanted):
        if not t.requires_grad:
            raise GradientError(
                f"{name}: input {i} of shape {tuple(t.shape)} does not require grad"
            )
        node = graph.node_of(t)
        if node is None:
            captured[t] = None
        else:
            graph.separate(t)
            captured.setdefault(node, {})[t._slot] = None
    return captured


def _found(t: Tensor, captured: dict[Any, Any]) -> Any:
    """The gradient of `t`, an array or a tensor, or None."""
    node = graph.node_of(t)
    if node is not None:
        return captured[node][t._slot]
    found = captured[t]
    return None if found is None else t.run_hooks(found)
