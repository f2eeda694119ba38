"""Users' own differentiable functions: `allgrad.autograd.Function`.

May import: tensor, graph, inplace, creation. A call becomes one node of the graph, like an op, but
its backward is called with tensors.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.mode import mode, no_grad
from ..backend.arrays import as_array
from ..dtypes import DIFFERENTIABLE
from ..errors import GradientError
from ..ops.base import Op
from . import graph, inplace
from .tensor import Tensor


class FunctionCtx:
    """What forward leaves for backward: saved tensors, flags, and any attributes the user sets.

    Attributes:
        needs_input_grad: per argument of `apply`, whether its gradient is wanted.
    """

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self._node: Any = None  # the node, while its backward runs
        self._to_save: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._constant: tuple[Any, ...] = ()
        self._materialize = True

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep `tensors` (or None) for backward, safe from changes in place; call it once.

        Raises:
            TypeError: something else than a tensor or None.
        """
        for i, t in enumerate(tensors):
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(
                    f"save_for_backward can only save tensors, but argument {i} is of type "
                    f"{type(t).__name__}; set other values as attributes of ctx"
                )
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors given to `save_for_backward`.

        Raises:
            RuntimeError: the graph was freed.
        """
        return self._to_save if self._node is None else self._node.saved_tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """Say that forward changed these arguments in place; it must return them."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Say that these outputs have no gradient."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for outputs that nobody used."""
        self._materialize = value


class FunctionNode(Op):
    """One call of a `Function`, as a node of the graph."""

    def __init__(self, function: type[Function], ctx: FunctionCtx) -> None:
        self.function, self.ctx = function, ctx
        self.tensors: tuple[bool, ...] = ()  # per argument, whether it is a tensor
        self.shapes: tuple[Any, ...] = ()

    @property
    def op_name(self) -> str:
        """The name of the user's class."""
        return self.function.__name__

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What forward saved, outputs connected to this node.

        Raises:
            GradientError: the graph was freed, or one of them was changed in place.
        """
        self.check_saved()
        return tuple(
            self._output(*value) if isinstance(value, tuple) else value for value in self.saved
        )

    def _output(self, array: np.ndarray, version: list[int], slot: int) -> Tensor:
        t = Tensor._new(array)
        t._version = version
        t._node, t._slot, t._requires_grad = self, slot, True
        return t

    def save(self, outputs: dict[int, int], args: tuple[Any, ...]) -> None:
        """Take over what ctx was told to save; `outputs`: id of an output -> its slot."""
        saved: list[Any] = []
        guards = []
        for position, t in enumerate(self.ctx._to_save):
            slot = outputs.get(id(t))
            saved.append(t if slot is None else (t._array, t._version, slot))
            if t is None:
                continue
            if isinstance(t._version, graph.Untracked):
                raise GradientError(
                    f"{self.op_name}: inference tensors cannot be saved for backward; clone() them"
                )
            at = next((i for i, a in enumerate(args) if a is t and slot is None), -1)
            guards.append((t._version, t._version[0], position, at, t._array.shape))
        self.saved, self.guards = tuple(saved), tuple(guards)
        self.ctx._to_save = ()

    def backward(self, grad: Any) -> tuple[Any, ...]:
        grads = [
            None if g is None else Tensor(as_array(g))
            for g in (grad if self.outputs > 1 else (grad,))
        ]
        with no_grad():
            results = self.gradients(grads)
        return tuple(None if r is None else r._array for r in results)

    def gradients(self, grads: list[Any]) -> tuple[Any, ...]:
        """The gradients of the arguments, checked, from those of the outputs, all as tensors."""
        if self.ctx._materialize:
            grads = [
                Tensor(np.zeros(shape, dtype)) if g is None and dtype is not None else g
                for g, (shape, dtype) in zip(grads, self._described(), strict=True)
            ]
        backward = self.function.vjp if _defines(self.function, "vjp") else self.function.backward
        self.ctx._node = self
        try:
            results = backward(self.ctx, *grads)
        finally:
            self.ctx._node = None
        return self._checked(results if isinstance(results, tuple | list) else (results,))

    def _described(self) -> list[tuple[Any, Any]]:
        if self.outputs > 1:
            return list(zip(self.shape, self.dtype, strict=True))
        return [(self.shape, self.dtype)]

    def _checked(self, results: Any) -> tuple[Any, ...]:
        name, count = self.name(), len(self.tensors)
        if len(results) < count or any(r is not None for r in results[count:]):
            raise GradientError(
                f"{name}: backward returned an incorrect number of gradients (expected {count}, "
                f"one for each argument of forward, got {len(results)})"
            )
        checked: list[Any] = []
        for i, (r, is_tensor, shape) in enumerate(
            zip(results, self.tensors, self.shapes, strict=False)
        ):
            if r is not None and not is_tensor:
                raise GradientError(
                    f"{name}: backward returned a gradient different than None at position "
                    f"{i + 1}, but the corresponding forward input was not a tensor"
                )
            if r is not None and not isinstance(r, Tensor):
                raise GradientError(
                    f"{name}: backward returned {type(r).__name__} as gradient {i}, expected a "
                    "tensor or None"
                )
            if r is not None and self.needs[i] and not _sums_to(tuple(r.shape), shape):
                raise GradientError(
                    f"{name}: backward returned an invalid gradient at index {i} - got "
                    f"{tuple(r.shape)} but expected shape compatible with {shape}"
                )
            checked.append(r if self.needs[i] else None)
        return tuple(checked)

    @staticmethod
    def second_order(node: Any, grad: Any) -> tuple[Any, ...]:
        """The rule for gradients with a graph: the user's backward, recorded."""
        op = node.op
        grads = list(grad) if op.outputs > 1 else [grad]
        return op.gradients(grads)


FunctionNode.second_order.complex_too = True  # type: ignore[attr-defined]  # the user's business


def _sums_to(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a gradient of `shape` can be summed to `to`, what was broadcast to it."""
    if len(shape) < len(to):
        return False
    tail = shape[len(shape) - len(to) :]
    return all(b in (a, 1) for a, b in zip(tail, to, strict=True))


class Function:
    """Base class of functions with a gradient of the user's own; call them by `apply`.

    A subclass has static methods ``forward(ctx, *args)`` and ``backward(ctx, *grad_outputs)``, or
    ``forward(*args)``, ``setup_context(ctx, inputs, output)`` and ``backward``. Backward returns
    one gradient (or None) per argument of forward. If it is made of differentiable functions,
    it can itself be differentiated (``create_graph=True``).

    >>> import allgrad as ag
    >>> class Cube(ag.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         (x,) = ctx.saved_tensors
    ...         return grad * 3 * x * x
    >>> x = ag.tensor([1.0, 2.0], requires_grad=True)
    >>> Cube.apply(x).sum().backward()
    >>> x.grad
    tensor([ 3., 12.])
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; nothing is recorded meanwhile."""
        raise NotImplementedError("You must implement the forward function of autograd.Function")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill `ctx` after a forward that does not take it."""
        raise NotImplementedError("setup_context is not implemented")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Gradients of the arguments from those of the outputs."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method of autograd.Function to use it "
            "with backward"
        )

    vjp = backward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{type(self).__name__}: call the class by {type(self).__name__}.apply(...); forward "
            "and backward are static methods"
        )

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Call the function, and record it if an argument requires grad.

        Arguments given by name take their place in the order of forward.
        """
        graph.compute_all()
        args = cls._positional(args, kwargs)
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        ctx = FunctionCtx(needs)
        with no_grad():
            if _defines(cls, "setup_context"):
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        several = isinstance(result, tuple)
        outputs = result if several else (result,)
        _check_dirty(cls.__name__, ctx, args, outputs)
        for t in ctx._dirty:
            t._bump_version()
        if mode.enabled and any(needs):
            outputs = _recorded(cls, ctx, args, outputs)
        return outputs if several else outputs[0]

    @classmethod
    def _positional(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in their order; with `setup_context` the defaults too, as in PyTorch."""
        if _defines(cls, "setup_context"):
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            return bound.args
        if not kwargs:
            return args
        return inspect.signature(cls.forward).bind(None, *args, **kwargs).args[1:]


def _defines(cls: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(Function, name)


def _check_dirty(name: str, ctx: FunctionCtx, args: Any, outputs: Any) -> None:
    for t in ctx._dirty:
        if not any(t is a for a in args):
            raise GradientError(f"{name}: mark_dirty got a tensor that is not an argument")
        if not any(t is o for o in outputs):
            raise GradientError(
                f"{name}: an argument that was marked as dirty was not returned as output; "
                "arguments modified in place must all be outputs"
            )
        inplace.check_in_place(t, name)


def _recorded(
    cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], outputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The outputs as results of a new node."""
    node = FunctionNode(cls, ctx)
    graph.link(node, args)
    node.needs = tuple(node.needs) + (False,) * (len(args) - len(node.needs))
    node.tensors = tuple(isinstance(a, Tensor) for a in args)
    node.shapes = tuple(a._array.shape if isinstance(a, Tensor) else None for a in args)
    node.outputs = len(outputs)
    arrays = [o._array if isinstance(o, Tensor) else None for o in outputs]
    node.shape = [() if a is None else a.shape for a in arrays]
    node.dtype = [None if a is None else a.dtype for a in arrays]
    if len(outputs) == 1:
        node.shape, node.dtype = node.shape[0], node.dtype[0]
    results, slots = [], {}
    for slot, out in enumerate(outputs):
        constant = not isinstance(out, Tensor) or out._array.dtype.kind not in DIFFERENTIABLE
        if constant or any(out is c for c in ctx._constant):
            results.append(out)
            continue
        dirty = any(out is d for d in ctx._dirty)
        if dirty or not any(out is a for a in args):  # an argument that is returned stays one
            slots[id(out)] = slot
        results.append(_attached(node, slot, out, args, dirty))
    node.save(slots, args)
    return tuple(results)


def _attached(node: FunctionNode, slot: int, out: Any, args: Any, dirty: bool) -> Any:
    """The tensor for output `out` of `node`: itself, or an alias where it is somebody else's."""
    if dirty:
        value = Tensor._new(out._array)
        value._node, value._slot, value._requires_grad = node, slot, True
        inplace.set_history(out, value)
        return out
    if out._requires_grad or any(out is a for a in args):
        out = out.detach()
    elif out._base is not None:
        out._base_generation = None  # its history is this node, not the view it was made as
    out._node, out._slot, out._requires_grad = node, slot, True
    return out


class NotTwice(Op):
    """The identity, whose backward is an error."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def backward(self, grad: Any) -> Any:
        raise GradientError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )

    @staticmethod
    def second_order(node: Any, grad: Any) -> Any:
        """The same error for gradients with a graph."""
        return node.op.backward(grad)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward of a `Function` that is not made of differentiable functions.

    Differentiating its result again is then an error instead of a wrong number.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        recorded = mode.enabled
        with no_grad():
            results = backward(ctx, *grads)
        if not recorded:
            return results
        listed = results if isinstance(results, tuple | list) else (results,)
        return tuple(_closed(r) if isinstance(r, Tensor) else r for r in listed)

    return wrapped


def _closed(t: Tensor) -> Any:
    source = t.detach().requires_grad_(True)
    return graph.apply(NotTwice(), source)
