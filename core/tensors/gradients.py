"""The gradient of a tensor: its flags, its hooks, and what the engine calls on a leaf.

May import: graph, autograd.engine, errors.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.engine import Run, run_hooks
from ..dtypes import DIFFERENTIABLE
from ..errors import GradientError, ShapeError
from . import graph
from .graph import TensorBase


class GradientMethods(TensorBase):
    """Methods of Tensor that concern its gradient."""

    _grad: Any = None
    _hooks: dict[float, Callable[..., Any]] | None = None
    _ready_hooks: dict[int, Callable[..., Any]] | None = None
    _grad_buffer: np.ndarray | None = None
    _retains_grad = False

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        return self._requires_grad or (self._base is not None and graph.joined(self))

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not value and graph.node_of(self) is not None:
            raise GradientError(
                "requires_grad can be switched off for leaf tensors only; use detach()"
            )
        if value and self._array.dtype.kind not in DIFFERENTIABLE:
            raise GradientError(
                f"only floating point tensors can require gradients, this one is {self.dtype}"
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Set `requires_grad`; returns self."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Any:
        """The accumulated gradient, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None and not isinstance(value, TensorBase):
            raise TypeError(f"grad: expected a tensor or None, came {type(value).__name__}")
        if value is not None and value.shape != self.shape:
            raise ShapeError(
                f"grad: expected shape {tuple(self.shape)} as the tensor, came {tuple(value.shape)}"
            )
        if value is not None and value._array.dtype != self._array.dtype:
            raise GradientError(f"grad: expected {self.dtype} as the tensor, came {value.dtype}")
        self._grad = value

    def retain_grad(self) -> None:
        """Keep `.grad` of this non-leaf tensor in backward.

        Raises:
            RuntimeError: the tensor does not require grad.
        """
        if not self.requires_grad:
            raise GradientError("retain_grad(): this tensor does not require grad")
        node = graph.node_of(self)
        if node is None or self._retains_grad:
            return
        self._retains_grad = True
        graph.separate(self)
        me = weakref.ref(self)  # the node must not keep the tensor alive

        def keep(grad: np.ndarray) -> np.ndarray:
            t = me()
            if t is not None and t._grad is None:
                t._grad = t._new(np.array(grad, order="C"))
            elif t is not None:
                t._grad._array += grad
            return grad

        if node.hooks is None:
            node.hooks = {}
        node.hooks.setdefault(self._slot, {})[math.inf] = keep  # after all other hooks

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Call ``hook(grad)`` when the gradient of this tensor is computed.

        A tensor that it returns takes the gradient's place.

        Raises:
            RuntimeError: the tensor does not require grad.
        """
        if not self.requires_grad:
            raise GradientError("register_hook: this tensor does not require grad")

        new = self._new  # the hook must not keep the tensor alive

        def on_array(grad: np.ndarray) -> np.ndarray:
            result = hook(new(grad))
            if result is None:
                return grad
            if not isinstance(result, TensorBase) or result._array.shape != grad.shape:
                raise GradientError(
                    f"register_hook: expected the hook to return None or a tensor of shape "
                    f"{grad.shape}, came {result!r}"
                )
            return result._array.astype(grad.dtype, copy=False)

        node = graph.node_of(self)
        if node is None:
            if self._hooks is None:
                self._hooks = {}
            return RemovableHandle(self._hooks, on_array)
        graph.separate(self)
        if node.hooks is None:
            node.hooks = {}
        return RemovableHandle(node.hooks.setdefault(self._slot, {}), on_array)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> RemovableHandle:
        """Call ``hook(self)`` once per backward, after the last addition to `self.grad`.

        Raises:
            RuntimeError: this tensor is not a leaf that requires grad.
        """
        if self._node is not None or not self._requires_grad:
            raise GradientError(
                "register_post_accumulate_grad_hook: expected a leaf tensor that requires grad"
            )
        if self._ready_hooks is None:
            self._ready_hooks = {}
        return RemovableHandle(self._ready_hooks, hook)

    # The methods that the engine calls on a leaf node.
    def free_grad_buffer(self) -> np.ndarray | None:
        """The memory into which a gradient may be written directly, if any."""
        if self._grad is None and not self._hooks:
            return self._grad_buffer
        return None

    def has_hooks(self) -> bool:
        """Whether somebody wants to see, or to change, the gradient of this run."""
        return bool(self._hooks)

    def run_hooks(self, grad: np.ndarray) -> np.ndarray:
        """Pass the whole gradient of this run through the hooks, in order of registration."""
        return run_hooks(self._hooks or {}, grad)

    def accumulate_grad(self, grad: np.ndarray, fresh: bool) -> None:
        """Add `grad`; an array that is `fresh` (held by nobody else) may be kept as it is."""
        if self._grad is not None:
            held = self._grad._array
            np.add(held, grad, out=held)
            self._grad._bump_version()
            return
        buffer = self._grad_buffer
        if buffer is not None:
            if grad is not buffer:
                np.copyto(buffer, grad)
            grad = buffer
        elif not (fresh and grad.base is None and grad.flags.c_contiguous):
            grad = np.array(grad, order="C")
        self._grad = self._new(grad)

    def run_ready_hooks(self) -> None:
        """Tell those who wait for this leaf's gradient that it is complete."""
        if self._ready_hooks is not None:
            for hook in list(self._ready_hooks.values()):
                hook(self)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Compute the gradient of this tensor for every leaf that requires one, and add it up.

        Args:
            gradient: gradient of the final result for this tensor, of its shape; may be left
                out for a scalar.
            retain_graph: keep the graph for a second backward.
            create_graph: differentiable gradients; not supported.

        Raises:
            RuntimeError: no gradient is required, a gradient must be given, shapes differ, the
                graph was freed, or a needed tensor was modified in place.
        """
        if create_graph:
            raise GradientError("backward: create_graph=True is not supported")
        Run(retain_graph).execute([root_of(self, gradient)])


def root_of(tensor: Any, gradient: Any) -> tuple[Any, int, np.ndarray]:
    """(node, slot, gradient array) from which a backward run starts."""
    array = tensor._array
    if not tensor.requires_grad:
        raise GradientError(
            "backward: this tensor does not require grad and has no grad_fn. Was it computed "
            "under no_grad(), or do none of the parameters require grad?"
        )
    if gradient is None:
        if array.size != 1:
            raise GradientError(
                "backward: gradient can be left out for scalar outputs only, this tensor has "
                f"shape {array.shape}. Reduce it (.mean(), .sum()) or pass gradient=..."
            )
        if array.dtype.kind == "c":
            raise GradientError(
                "backward: gradient can be left out for real scalar outputs only, this tensor is "
                f"{tensor.dtype}. Take .abs() or .real of it, or pass gradient=..."
            )
        grad = np.ones(array.shape, array.dtype)
    else:
        grad = gradient._array
        if grad.shape != array.shape:
            raise ShapeError(f"backward: gradient has shape {grad.shape}, the tensor {array.shape}")
        if (grad.dtype.kind == "c") != (array.dtype.kind == "c"):
            raise GradientError(
                f"backward: a {tensor.dtype} tensor was given a {gradient.dtype} gradient; both "
                "must be complex, or neither"
            )
        if grad.dtype != array.dtype:
            grad = grad.astype(array.dtype)
    graph.compute_all()
    node = graph.node_of(tensor)
    return (tensor if node is None else node), tensor._slot, grad


_hook_ids = itertools.count()


class RemovableHandle:
    """What registering a hook returns; `remove()` takes the hook away."""

    def __init__(self, hooks: dict[Any, Any], hook: Any) -> None:
        self._hooks = hooks
        self.id = next(_hook_ids)
        hooks[self.id] = hook

    def remove(self) -> None:
        """Take the hook away; does nothing the second time."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
