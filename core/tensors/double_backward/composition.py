"""Rules by composition: the gradients of an op, from differentiable functions that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ops.shape import Reshape
from .. import differentiate, joining
from ..graph import view


def gradients_of(
    function: Callable[..., Any], inputs: Sequence[Any], grads: Sequence[Any]
) -> tuple[Any, ...]:
    """Gradients of ``function(*inputs)`` for the inputs, with a graph.

    Args:
        function: of the inputs, gives as many tensors as there are `grads`.
        inputs: tensors of the graph, or None.
        grads: gradients of the outputs; None for outputs that nobody used.

    Returns:
        One gradient per input, None for constants.
    """
    # The walk must end at the inputs, not at what they were computed from.
    fresh = [_view(t) if t is not None and t.requires_grad else t for t in inputs]
    outputs = function(*fresh)
    used = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None]
    wanted = [t for t in fresh if t is not None and t.requires_grad]
    found = iter(
        differentiate.grad(
            [y for y, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(found) if t is not None and t.requires_grad else None for t in fresh)


def _view(t: Any) -> Any:
    return view(Reshape(tuple(t._array.shape)), t)


def running(function: Callable[[Any, Any], Any], x: Any) -> Any:
    """Results of an associative `function` over x[..., :i + 1], for all i.

    In log2(n) steps, each of which doubles the length of the parts that are joined.
    """
    n, step = x.shape[-1], 1
    while step < n:
        joined = function(x[..., step:], x[..., :-step])
        x = joining.cat([x[..., :step], joined], -1)
        step *= 2
    return x
