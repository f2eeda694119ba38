"""Less memory for more time: regions of the network that are computed again in backward.

Imports: tensors, autograd, random, errors.

Note [Checkpointed regions]
A region is recorded like anything else; then the arrays that its nodes saved are dropped, and the
nodes are told to call back when backward needs them (`Op.restore`). The region's function then
runs again, and the arrays of the new nodes are handed to the old ones, one by one in the order of
their creation. So the graph itself is an ordinary one: `autograd.grad`, hooks, `create_graph` and
the reducer of `ddp` see nothing special, and a gradient is complete once, as without checkpoint.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .. import random
from ..autograd import enable_grad, is_grad_enabled
from ..autograd.mode import mode
from ..errors import GradientError, OptionError
from ..ops import base
from ..ops.base import Op
from ..tensors import Tensor, graph

__all__ = ["checkpoint", "checkpoint_sequential", "noop_context_fn"]

Contexts = tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]


def noop_context_fn() -> Contexts:
    """Two contexts that do nothing: for forward, and for computing again."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], Contexts] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)``, whose intermediate results are computed again in backward.

    The function must compute the same the second time; random numbers and `amp.autocast` are put
    back as they were. Statistics of a batch norm inside are updated both times.

    Args:
        use_reentrant: PyTorch has two implementations; here all values mean the same, which is
            that of `use_reentrant=False`.
        context_fn: gives two contexts, entered around the first and around the second run.
        determinism_check: "default": the shapes of both runs must agree; "none": only the ops.
        debug: errors always name the op; nothing more is logged.
        early_stop: the second run always goes to the end of the function.
        preserve_rng_state: whether the second run draws the same random numbers.

    Raises:
        RuntimeError: by backward, if the second run computed something else, or if a tensor among
            the arguments was changed in place since.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".

    >>> import allgrad as ag
    >>> x = ag.tensor([0.5], requires_grad=True)
    >>> y = checkpoint(lambda t: t.exp().exp(), x, use_reentrant=False)
    >>> y.backward()
    >>> x.grad
    tensor([8.5739])
    """
    if determinism_check not in ("default", "none"):
        raise OptionError.unknown("determinism_check", determinism_check, ("default", "none"))
    if not is_grad_enabled():
        return function(*args, **kwargs)
    region = _Region(function, args, kwargs, context_fn())
    region.same_shapes = determinism_check == "default"
    region.preserve_rng_state = preserve_rng_state
    return region.run()


class _Region:
    """One checkpointed call. See Note [Checkpointed regions]."""

    same_shapes = True
    preserve_rng_state = True

    def __init__(self, function: Any, args: Any, kwargs: Any, contexts: Contexts) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.contexts = contexts
        self.versions = [(t._version, t._version[0]) for t in _tensors((args, kwargs))]

    def run(self) -> Any:
        """Forward: record the region, and forget what it saved."""
        if self.preserve_rng_state:
            self.random_state = random.states()
        self.autocast = mode.autocast
        outputs, nodes = self._record(self.contexts[0])
        self.nodes = [weakref.ref(node) for node in nodes]
        for node in nodes:
            node.saved, node.guards, node.restore = None, (), self.restore
        return outputs

    def _record(self, context: Any) -> tuple[Any, list[Op]]:
        """(outputs of the function, its nodes that saved something, in order of creation)."""
        graph.compute_all()
        begin = next(base._sequence)
        with context:
            outputs = self.function(*self.args, **self.kwargs)
        tensors = list(_tensors(outputs))
        for t in tensors:
            graph.separate(t)
        graph.compute_all()
        nodes: set[Op] = set()
        stack = [graph.node_of(t) for t in tensors]
        while stack:
            node = stack.pop()
            if node is None or node.is_leaf_node or node.order < begin or node in nodes:
                continue
            nodes.add(node)
            stack.extend(node.parents)
        return outputs, sorted((n for n in nodes if n.saved), key=lambda n: n.order)

    def restore(self) -> None:
        """Run the function again and give the nodes of the region what they saved."""
        if any(version[0] != expected for version, expected in self.versions):
            raise GradientError(
                "checkpoint: a tensor given to the checkpointed function was modified by an "
                "in-place operation since; clone() it before changing it"
            )
        now = random.states()
        try:
            if self.preserve_rng_state:
                random.set_states(self.random_state)
            with enable_grad(), _precision(self.autocast):
                _, again = self._record(self.contexts[1])
        finally:
            if self.preserve_rng_state:
                random.set_states(now)
        if len(again) != len(self.nodes):
            raise GradientError(
                f"checkpoint: the function recorded {len(self.nodes)} operations in forward, but "
                f"{len(again)} when it was computed again; it must compute the same both times"
            )
        for ref, new in zip(self.nodes, again, strict=True):
            old = ref()
            if old is not None:
                self._hand_over(new, old)

    def _hand_over(self, new: Op, old: Op) -> None:
        if type(new) is not type(old) or (self.same_shapes and new.shape != old.shape):
            raise GradientError(
                f"checkpoint: the function recorded {old.op_name} of shape {old.shape} in forward, "
                f"but {new.op_name} of shape {new.shape} when it was computed again; it must "
                "compute the same both times"
            )
        if old.saved is None:
            old.saved, old.guards = new.saved, new.guards


def _tensors(value: Any) -> Iterable[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, tuple | list):
        for v in value:
            yield from _tensors(v)


@contextlib.contextmanager
def _precision(region: Any) -> Iterator[None]:
    """Inside, `amp.autocast` is as it was in `region`, without the weights cast meanwhile."""
    before = mode.autocast
    if region is not None:
        region = type(region)(region.dtype, None if region.cache is None else {})
    mode.autocast = region
    try:
        yield
    finally:
        mode.autocast = before


def checkpoint_sequential(
    functions: Any,
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """A `Sequential` (or list of functions) in `segments` checkpointed parts.

    The last part is not checkpointed: backward begins there, and would compute it again at once.

    Args:
        functions: modules or functions, each called with the result of the one before it.
        segments: number of parts.
        input: of the first function.
        use_reentrant: see `checkpoint`.
        **kwargs: `preserve_rng_state` alone.

    Raises:
        ValueError: another keyword argument, or a number of segments that does not fit.

    >>> import allgrad as ag
    >>> net = ag.nn.Sequential(ag.nn.Linear(2, 3), ag.nn.Tanh(), ag.nn.Linear(3, 1))
    >>> checkpoint_sequential(net, 3, ag.ones(4, 2), use_reentrant=False).shape
    allgrad.Size([4, 1])
    """
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError(f"checkpoint_sequential: unexpected keyword arguments {sorted(kwargs)}")
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if not 1 <= segments <= len(steps):
        raise ValueError(
            f"checkpoint_sequential: expected 1 to {len(steps)} segments for {len(steps)} "
            f"functions, came {segments}"
        )
    size = len(steps) // segments
    for i in range(segments - 1):
        part = _chain(steps[i * size : (i + 1) * size])
        input = checkpoint(part, input, use_reentrant=use_reentrant, preserve_rng_state=preserve)
    return _chain(steps[(segments - 1) * size :])(input)


def _chain(steps: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return run
