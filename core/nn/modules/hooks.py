"""Hooks of modules: what is called before and after forward and in backward.

A module keeps all its hooks in one table, so that calling a module without hooks costs one look.
Hooks for all modules (`register_module_forward_hook` and so on) belong to the thread that
registered them: ranks may run as threads of one process.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ...autograd import is_grad_enabled
from ...devices import at
from ...errors import GradientError
from ...ops.watch import Watch
from ...tensors import Tensor
from ...tensors.gradients import RemovableHandle
from ...tensors.graph import apply

PRE, FORWARD, BACKWARD_PRE, BACKWARD = "forward_pre", "forward", "backward_pre", "backward"


class Hook(NamedTuple):
    """One registered function."""

    kind: str
    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


Table = dict[int, Hook]


class _Global(threading.local):
    def __init__(self) -> None:
        self.hooks: Table = {}


_global = _Global()
ANYWHERE: dict[int, None] = {}  # ids of the global hooks of all threads: the quick look


def register(table: Table, hook: Hook, prepend: bool = False) -> RemovableHandle:
    """Enter `hook` as the last (or first) of the table."""
    handle = RemovableHandle(table, hook)
    if prepend:
        others = [(key, value) for key, value in table.items() if key != handle.id]
        for key, _ in others:
            del table[key]
        table.update(others)
    return handle


def has_global_hooks() -> bool:
    """Whether hooks for all modules exist on this thread."""
    return bool(_global.hooks)


class _GlobalHandle(RemovableHandle):
    def __init__(self, hook: Hook) -> None:
        super().__init__(_global.hooks, hook)
        ANYWHERE[self.id] = None

    def remove(self) -> None:
        super().remove()
        ANYWHERE.pop(self.id, None)


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, args)`` before the forward of every module of this thread."""
    return _GlobalHandle(Hook(PRE, hook))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after the forward of every module of this thread.

    Args:
        hook: what it returns replaces the output.
        with_kwargs: call ``hook(module, args, kwargs, output)``.
        always_call: call it, with output None, also when forward raises.
    """
    return _GlobalHandle(Hook(FORWARD, hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` before the backward of every module of this thread."""
    return _GlobalHandle(Hook(BACKWARD_PRE, hook))


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` in backward, for all modules of a thread."""
    return _GlobalHandle(Hook(BACKWARD, hook))


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``module.forward(*args, **kwargs)`` between its hooks, the global ones first."""
    hooks = [*_global.hooks.items(), *module._hooks.items()]
    called: set[int] = set()
    try:
        return _call(module, args, kwargs, hooks, called)
    except Exception:
        for key, hook in hooks:
            if hook.kind == FORWARD and hook.always_call and key not in called:
                _after_failure(module, hook, args, kwargs)
        raise


def _after_failure(module: Any, hook: Hook, args: Any, kwargs: Any) -> None:
    try:
        _run_forward_hook(module, hook, args, kwargs, None)
    except Exception as error:  # noqa: BLE001 - the first error is the one to be seen
        warnings.warn(
            f"{type(module).__name__}: a forward hook with always_call=True raised {error!r} "
            "after forward had failed",
            stacklevel=4,
        )


def _call(
    module: Any, args: Any, kwargs: Any, hooks: list[tuple[int, Hook]], called: set[int]
) -> Any:
    for _, hook in hooks:
        if hook.kind == PRE:
            args, kwargs = _run_pre_hook(module, hook, args, kwargs)
    watcher = None
    if is_grad_enabled() and any(h.kind in (BACKWARD_PRE, BACKWARD) for _, h in hooks):
        watcher = _Watcher(module, [h for _, h in hooks])
        args = watcher.watch_inputs(args)
    output = module.forward(*args, **kwargs)
    for key, hook in hooks:
        if hook.kind == FORWARD:
            called.add(key)
            result = _run_forward_hook(module, hook, args, kwargs, output)
            output = output if result is None else result
    return output if watcher is None else watcher.watch_outputs(output)


def _run_pre_hook(module: Any, hook: Hook, args: Any, kwargs: Any) -> tuple[Any, Any]:
    if hook.with_kwargs:
        result = hook.function(module, args, kwargs)
        if result is None:
            return args, kwargs
        if isinstance(result, tuple) and len(result) == 2:
            return result
        raise RuntimeError(
            "forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got "
            f"{result!r}"
        )
    result = hook.function(module, args)
    if result is None:
        return args, kwargs
    return (result if isinstance(result, tuple) else (result,)), kwargs


def _run_forward_hook(module: Any, hook: Hook, args: Any, kwargs: Any, output: Any) -> Any:
    if hook.with_kwargs:
        return hook.function(module, args, kwargs, output)
    return hook.function(module, args, output)


class _Watcher:
    """One call of a module whose backward hooks want the gradients of its inputs and outputs."""

    def __init__(self, module: Any, hooks: list[Hook]) -> None:
        self.module = module
        self.before = [h.function for h in hooks if h.kind == BACKWARD_PRE]
        self.after = [h.function for h in hooks if h.kind == BACKWARD]
        self.inputs: tuple[Any, ...] = ()
        self.places: list[int] = []
        self.grad_output: tuple[Any, ...] | None = None

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, those that require grad passed through a node that sees gradients."""
        self.inputs = tuple(
            (a.shape, a._array.dtype, a.device) if isinstance(a, Tensor) else None for a in args
        )
        self.places = _differentiable(args)
        return _watched(args, self.places, self.on_input_grads)

    def watch_outputs(self, output: Any) -> Any:
        """The output, passed through a node that sees its gradients."""
        single = isinstance(output, Tensor)
        if not single and not isinstance(output, tuple):
            warnings.warn(
                "for backward hooks to be called, the output of a module should be a tensor or a "
                f"tuple of tensors; {type(self.module).__name__} returned {type(output).__name__}",
                stacklevel=4,
            )
            return output
        outputs = (output,) if single else output
        places = _differentiable(outputs)

        def on_grads(grads: list[Any]) -> list[Any]:
            return self.on_output_grads(grads, places, len(outputs))

        watched = _watched(outputs, places, on_grads)
        return watched[0] if single else watched

    def on_output_grads(self, grads: list[Any], places: list[int], count: int) -> list[Any]:
        packed = _packed(grads, places, count)
        for hook in self.before:
            result = hook(self.module, packed)
            packed = packed if result is None else _checked(result, count, "grad_output")
        self.grad_output = packed
        if not self.places:  # no input waits for a gradient: the hooks are called here
            self._run_hooks((None,) * len(self.inputs))
        return [None if packed[i] is None else packed[i]._array for i in places]

    def on_input_grads(self, grads: list[Any]) -> list[Any]:
        if self.grad_output is None:  # backward did not come through the output
            return grads
        zeros = [None if a is None else Tensor(_zeros(*a)) for a in self.inputs]
        packed = _packed(grads, self.places, len(zeros))
        packed = tuple(z if p is None else p for p, z in zip(packed, zeros, strict=True))
        packed = self._run_hooks(packed)
        return [None if packed[i] is None else packed[i]._array for i in self.places]

    def _run_hooks(self, packed: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.after:
            result = hook(self.module, packed, self.grad_output)
            if result is None:
                continue
            packed = _checked(result, len(packed), "grad_input")
            if not self.places and any(g is not None for g in packed):
                raise GradientError(
                    f"{type(self.module).__name__}: no input requires grad, so a backward hook "
                    "must return None"
                )
        self.grad_output = None
        return packed


def _differentiable(values: Iterable[Any]) -> list[int]:
    return [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]


def _watched(values: Any, places: list[int], on_grads: Callable[..., Any]) -> tuple[Any, ...]:
    if not places:
        return tuple(values)
    results = apply(Watch(len(places), on_grads), *[values[i] for i in places])
    parts = iter(results if len(places) > 1 else (results,))
    chosen = set(places)
    return tuple(next(parts) if i in chosen else v for i, v in enumerate(values))


def _packed(grads: list[Any], places: list[int], count: int) -> tuple[Any, ...]:
    """`grads` as tensors at their places among `count` values, None elsewhere."""
    packed: list[Any] = [None] * count
    for place, grad in zip(places, grads, strict=True):
        packed[place] = None if grad is None else Tensor(grad)
    return tuple(packed)


def _checked(result: Any, count: int, what: str) -> tuple[Any, ...]:
    result = result if isinstance(result, tuple | list) else (result,)
    if len(result) != count:
        raise GradientError(
            f"a backward hook returned {len(result)} gradients as {what}, expected {count}"
        )
    return tuple(result)


def _zeros(shape: Any, dtype: Any, device: Any) -> Any:
    with at(device) as xp:
        return xp.zeros(shape, dtype)
