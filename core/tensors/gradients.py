"""The gradient of a tensor: its flags, its hooks, and what the engine calls on a leaf.

May import: graph, promote, autograd.engine, errors.
"""

from __future__ import annotations

import importlib
import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.engine import Run, run_hooks
from ..autograd.mode import mode
from ..backend.arrays import owned
from ..dtypes import DIFFERENTIABLE
from ..errors import DeviceError, GradientError, ShapeError
from . import graph
from .graph import TensorBase
from .promote import cast


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
        if value and self.is_inference() and not mode.inference:
            raise GradientError(
                "requires_grad: a tensor made in inference_mode() cannot require gradients outside "
                "of it; clone() it first"
            )
        self._requires_grad = bool(value)

    def is_inference(self) -> bool:
        """Whether this tensor was made in `inference_mode`."""
        return type(self._version) is graph.Untracked

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad()` was called on this non-leaf tensor."""
        return self._retains_grad

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
        if value is not None and type(value._array) is not type(self._array):
            raise DeviceError(
                f"grad: expected a gradient on {self.device} as the tensor, came one on "  # type: ignore[attr-defined]
                f"{value.device}. Move it by .to({str(self.device)!r})"  # type: ignore[attr-defined]
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

        def keep(grad: Any) -> Any:
            t = me()
            if t is None:
                return grad
            if isinstance(grad, TensorBase):  # a run with create_graph=True
                t._grad = grad if t._grad is None else t._grad + grad
            elif t._grad is None:
                t._grad = t._new(owned(grad))
            else:
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

        def on_array(grad: Any) -> Any:
            recorded = isinstance(grad, TensorBase)  # a run with create_graph=True
            result = hook(grad if recorded else new(grad))
            if result is None:
                return grad
            if not isinstance(result, TensorBase) or result.shape != grad.shape:
                raise GradientError(
                    f"register_hook: expected the hook to return None or a tensor of shape "
                    f"{tuple(grad.shape)}, came {result!r}"
                )
            if recorded:
                return cast(result, grad._array.dtype)
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

    def run_hooks(self, grad: Any) -> Any:
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
            grad = owned(grad)
        self._grad = self._new(grad)

    def accumulate_tensor(self, grad: Any) -> None:
        """Add `grad`, a tensor with a graph of its own, so that the sum has one too."""
        self._grad = grad.clone() if self._grad is None else self._grad + grad

    def run_ready_hooks(self) -> None:
        """Tell those who wait for this leaf's gradient that it is complete."""
        if self._ready_hooks is not None:
            for hook in list(self._ready_hooks.values()):
                hook(self)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Compute the gradient of this tensor for every leaf that requires one, and add it up.

        Args:
            gradient: gradient of the final result for this tensor, of its shape; may be left
                out for a scalar.
            retain_graph: keep the graph for a second backward; as `create_graph` by default.
            create_graph: the gradients get a graph of their own, to be differentiated again.
            inputs: compute the gradients of these tensors alone (one, or several).

        Raises:
            RuntimeError: no gradient is required, a gradient must be given, shapes differ, the
                graph was freed, a needed tensor was modified in place, or an op has no second
                derivative.
        """
        if create_graph or inputs is not None:
            several = importlib.import_module(f"{__package__}.differentiate")
            several.backward(self, gradient, retain_graph, create_graph, inputs=inputs)
            return
        Run(bool(retain_graph)).execute([root_of(self, gradient)])


def root_of(tensor: Any, gradient: Any, recorded: bool = False) -> tuple[Any, int, Any]:
    """(node, slot, gradient) from which a backward run starts.

    Args:
        recorded: the gradient stays a tensor, connected to its own graph; else it is an array.
    """
    array = tensor._array
    if not tensor.requires_grad:
        raise GradientError(
            "backward: this tensor does not require grad and has no grad_fn. Was it computed "
            "under no_grad(), or do none of the parameters require grad?"
        )
    grad: Any
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
        grad = np.ones_like(array, order="C")
    else:
        grad = gradient._array
        if type(grad) is not type(array):
            raise DeviceError(
                f"backward: the tensor lies on {tensor.device}, its gradient on {gradient.device}; "
                f"move it by .to({str(tensor.device)!r})"
            )
        if grad.shape != array.shape:
            raise ShapeError(f"backward: gradient has shape {grad.shape}, the tensor {array.shape}")
        if (grad.dtype.kind == "c") != (array.dtype.kind == "c"):
            raise GradientError(
                f"backward: a {tensor.dtype} tensor was given a {gradient.dtype} gradient; both "
                "must be complex, or neither"
            )
        if recorded:
            grad = cast(gradient, array.dtype)
        elif grad.dtype != array.dtype:
            grad = grad.astype(array.dtype)
    graph.compute_all()
    node = graph.node_of(tensor)
    if recorded and gradient is None:
        grad = tensor._new(grad)
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
