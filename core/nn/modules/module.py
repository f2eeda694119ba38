"""Module: parameters, buffers and sub-modules under names, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ... import dtypes
from ...autograd import no_grad
from ...devices import require
from ...tensors import Parameter, Tensor
from ...tensors.conversion import target_of
from ...tensors.creation import empty_like
from ...tensors.gradients import RemovableHandle
from ...tensors.layouts import check_format
from . import hooks
from .buffer import Buffer
from .hooks import ANYWHERE
from .hooks import register_module_forward_hook as register_module_forward_hook
from .hooks import register_module_forward_pre_hook as register_module_forward_pre_hook
from .hooks import register_module_full_backward_hook as register_module_full_backward_hook
from .hooks import register_module_full_backward_pre_hook as register_module_full_backward_pre_hook
from .state import StateMethods
from .uninitialized import is_lazy


class Module(StateMethods):
    """Base class of all networks and layers.

    Assigning a Parameter or a Module to an attribute registers it. Subclasses define `forward`.

    >>> from allgrad import nn
    >>> net = nn.Linear(3, 2)
    >>> [name for name, _ in net.named_parameters()]
    ['weight', 'bias']
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _hooks: hooks.Table

    def __init__(self) -> None:
        set_ = super().__setattr__
        set_("training", True)
        set_("_parameters", {})
        set_("_buffers", {})
        set_("_modules", {})
        set_("_non_persistent", set())
        set_("_hooks", {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            hooked = self._hooks
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() before using the module"
            ) from None
        if hooked or ANYWHERE:
            return hooks.call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    # -- attributes --------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._put("_parameters", name, value)
        elif isinstance(value, Module):
            self._put("_modules", name, value)
        elif isinstance(value, Buffer):
            self._put("_buffers", name, value)
            (self._non_persistent.discard if value.persistent else self._non_persistent.add)(name)
        elif name in self.__dict__.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"{name!r} is a parameter: expected an nn.Parameter or None, came "
                    f"{type(value).__name__}"
                )
            self._parameters[name] = None
        elif name in self.__dict__.get("_buffers", ()) and isinstance(value, Tensor | None):
            self._buffers[name] = value
        elif name in self.__dict__.get("_modules", ()) and value is None:
            self._modules[name] = None
        else:
            self._drop(name)
            super().__setattr__(name, value)

    def _own(self, registry: str, name: str) -> dict[str, Any]:
        if registry not in self.__dict__:
            raise AttributeError(
                f"cannot assign {name!r}: call super().__init__() first in the module's __init__"
            )
        return self.__dict__[registry]

    def _put(self, registry: str, name: str, value: Any) -> None:
        """Register under `name`, replacing whatever had it; a known name keeps its place."""
        held = self._own(registry, name)
        self._check_name(name)
        if name not in held:
            self._drop(name)
        held[name] = value

    def _new(self, registry: str, name: str, value: Any) -> None:
        """Register under a name that no other attribute has."""
        held = self._own(registry, name)
        self._check_name(name)
        if name not in held and hasattr(self, name):
            raise KeyError(f"attribute {name!r} already exists in {type(self).__name__}")
        held[name] = value

    def _drop(self, name: str) -> None:
        for registry in ("_parameters", "_buffers", "_modules"):
            held = self.__dict__.get(registry)
            if held and name in held:
                del held[name]
        self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        for registry in ("_parameters", "_modules", "_buffers"):
            held = self.__dict__.get(registry)
            if held is not None and name in held:
                return held[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for registry in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(registry, ()):
                del self.__dict__[registry][name]
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register `param` under `name`.

        Raises:
            TypeError: not a Parameter.
            KeyError: a bad name, or one that another attribute has.
        """
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"parameter {name!r}: expected nn.Parameter, came {type(param)}")
        self._new("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that is part of the state but no parameter.

        Args:
            persistent: whether it belongs to the state_dict.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"buffer {name!r}: expected a Tensor, came {type(tensor).__name__}")
        self._new("_buffers", name, tensor)
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a name must be a string, came {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(
                f"a name of a parameter, buffer or module is not empty and has no '.': {name!r}"
            )

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a sub-module under `name`."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"module {name!r}: expected an nn.Module, came {type(module).__name__}")
        self._new("_modules", name, module)

    register_module = add_module

    # -- walking -----------------------------------------------------------------------------
    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below, each once."""
        memo = set() if memo is None else memo
        if remove_duplicate and self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below, each once."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct sub-modules."""
        for name, module in self._modules.items():
            if module is not None:
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct sub-modules."""
        for _, module in self.named_children():
            yield module

    def _named(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        walk = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for path, module in walk:
            for name, value in getattr(module, registry).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of all parameters, shared ones once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, shared ones once."""
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) of all buffers."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers."""
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; the module itself for "".

        Raises:
            AttributeError: there is none.
        """
        module = self
        for part in target.split(".") if target else ():
            found = module._modules.get(part) or getattr(module, part, None)
            if not isinstance(found, Module):
                what = "has no attribute" if found is None else "has no module at"
                raise AttributeError(f"{type(module).__name__} {what} {part!r} ({target!r})")
            module = found
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at a dotted path.

        Args:
            target: the path; all but its last part must exist.
            module: the new module.
            strict: the last part must exist, too.

        Raises:
            AttributeError: a part of the path is missing.
            ValueError: an empty path, or not a module.
        """
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("set_submodule: cannot set a submodule without a name")
        if not isinstance(module, Module):
            raise ValueError(f"set_submodule: expected an nn.Module, came {type(module).__name__}")
        parent = self.get_submodule(path)
        if (strict or hasattr(parent, name)) and parent._modules.get(name) is None:
            raise AttributeError(f"{type(parent).__name__} has no sub-module {name!r}")
        setattr(parent, name, module)

    def _member(self, target: str, registry: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if not hasattr(owner, name):
            raise AttributeError(f"{type(owner).__name__} has no attribute {name!r}")
        if name not in getattr(owner, registry):
            raise AttributeError(f"{target!r} is not {what}")
        return getattr(owner, registry)[name]

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path.

        Raises:
            AttributeError: there is none.
        """
        found: Parameter = self._member(target, "_parameters", "an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path.

        Raises:
            AttributeError: there is none.
        """
        found: Tensor = self._member(target, "_buffers", "a buffer")
        return found

    def apply(self, fn: Callable[[Module], None]) -> Module:
        """Call `fn` on every sub-module, then on self; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # -- modes ---------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Module:
        """Switch to training (or, with False, evaluation) behaviour; returns self.

        Raises:
            ValueError: `mode` is not a bool.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"train: expected True or False, came {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Module:
        """Switch to evaluation behaviour; returns self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Set `requires_grad` of all parameters; returns self."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove (or set to 0) the gradients of all parameters."""
        for p in self.parameters():
            if p.grad is not None:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
        """Replace the memory of every parameter, its gradient, and every buffer by ``fn`` of it."""
        if recurse:
            for child in self.children():
                child._apply(fn)
        with no_grad():
            for registry in (self._parameters, self._buffers):
                for t in registry.values():
                    if t is not None:
                        _replace(t, fn)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Module:
        """Cast floating parameters and buffers (``to(dtype)``), or move all (``to("cuda")``).

        Raises:
            TypeError: the dtype is neither floating nor complex.
            RuntimeError: a device that is not here.
        """
        if "memory_format" in kwargs:  # weights lie as their kernels want them
            check_format("nn.Module.to", kwargs.pop("memory_format"))
        wanted = target_of("nn.Module.to", args, dict(kwargs))
        if wanted.dtype is not None and dtypes.to_numpy(wanted.dtype).kind in "biu":
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, came {wanted.dtype}"
            )
        there = {"non_blocking": wanted.non_blocking, "copy": wanted.copy}

        def moved(t: Tensor) -> Tensor:
            dtype = wanted.dtype if _is_real_valued(t) else None
            return t.to(device=wanted.device, dtype=dtype, **there)

        return self._apply(moved)

    def _place(self, device: Any) -> None:
        """Move to the argument `device` of a layer, or to the default one.

        Layers are made in main memory and moved when they are filled: the same seed then gives the
        same numbers on every device (PyTorch draws them on the device).
        """
        wanted = require(device)
        if wanted.type != "cpu":
            self.to(wanted)

    def type(self, dst_type: Any) -> Module:
        """All parameters and buffers, integer ones too, as `dst_type`."""
        return self._apply(lambda t: t.to(dst_type))

    def float(self) -> Module:
        """All floating parameters and buffers as float32."""
        return self.to(dtypes.float32)

    def double(self) -> Module:
        """All floating parameters and buffers as float64."""
        return self.to(dtypes.float64)

    def half(self) -> Module:
        """All floating parameters and buffers as float16."""
        return self.to(dtypes.float16)

    def bfloat16(self) -> Module:
        """All floating parameters and buffers as bfloat16."""
        return self.to(dtypes.bfloat16)

    def cpu(self) -> Module:
        """Parameters and buffers moved to main memory; returns self."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Module:
        """The module on a GPU.

        Raises:
            RuntimeError: this build cannot compute there.
        """
        return self.to("cuda" if device is None else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Module:
        """Memory for all parameters and buffers on a device, filled with anything."""
        return self._apply(lambda t: empty_like(t, device=device), recurse)

    # -- hooks ---------------------------------------------------------------------------------
    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns replaces the arguments.

        Args:
            hook: returns None, one argument, or a tuple of arguments.
            prepend: put it before the hooks that are there.
            with_kwargs: call ``hook(module, args, kwargs)``, which returns None or a pair.
        """
        return hooks.register(self._hooks, hooks.Hook(hooks.PRE, hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns replaces the output.

        Args:
            hook: returns None or the new output.
            prepend: put it before the hooks that are there.
            with_kwargs: call ``hook(module, args, kwargs, output)``.
            always_call: call it, with output None, also when forward raises.
        """
        entry = hooks.Hook(hooks.FORWARD, hook, with_kwargs, always_call)
        return hooks.register(self._hooks, entry, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` when the gradients of the outputs are known.

        What it returns replaces them. Outputs nobody used have None.
        """
        return hooks.register(self._hooks, hooks.Hook(hooks.BACKWARD_PRE, hook), prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the inputs' gradients are known.

        What it returns replaces `grad_input`. Both are tuples over the positional arguments and
        the outputs, with None for what is no tensor. Where no input requires grad, the hook is
        called as soon as the gradients of the outputs are known, with None for every input.
        """
        return hooks.register(self._hooks, hooks.Hook(hooks.BACKWARD, hook), prepend)

    def extra_repr(self) -> str:
        """Settings shown in the printed form."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        below = []
        for name, module in self._modules.items():
            text = repr(module).replace("\n", "\n  ")
            below.append(f"({name}): {text}")
        if len(lines) + len(below) == 0 or (len(lines) == 1 and not below):
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + below) + "\n)"


def _is_real_valued(t: Tensor) -> bool:
    return is_lazy(t) or t._array.dtype.kind not in "biu"


def _replace(t: Tensor, fn: Callable[[Tensor], Tensor]) -> None:
    """Give a parameter or buffer, and its gradient, other memory; the object stays the same."""
    found = t.detach()
    new = fn(found)
    if new is not found:
        t.data = new
        if t.grad is not None:
            grad = fn(t.grad)
            t.grad = None
            if grad._array.dtype == new._array.dtype:
                t.grad = grad
