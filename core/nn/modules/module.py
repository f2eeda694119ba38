"""Module: parameters, buffers and sub-modules under names, as in PyTorch."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ... import dtypes
from ...autograd import no_grad
from ...errors import CheckpointError
from ...tensors import Parameter, Tensor
from ...tensors.gradients import RemovableHandle


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
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

    def __init__(self) -> None:
        set_ = super().__setattr__
        set_("training", True)
        set_("_parameters", {})
        set_("_buffers", {})
        set_("_modules", {})
        set_("_non_persistent", set())
        set_("_forward_pre_hooks", {})
        set_("_forward_hooks", {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            before, after = self._forward_pre_hooks, self._forward_hooks
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() before using the module"
            ) from None
        if before:
            for hook in list(before.values()):
                result = hook(self, args)
                if result is not None:
                    args = result if isinstance(result, tuple) else (result,)
        output = self.forward(*args, **kwargs)
        if after:
            for hook in list(after.values()):
                result = hook(self, args, output)
                if result is not None:
                    output = result
        return output

    # -- attributes --------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._put("_parameters", name, value)
        elif isinstance(value, Module):
            self._put("_modules", name, value)
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

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        for _, module in self.named_modules():
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
        """The module at a dotted path.

        Raises:
            AttributeError: there is none.
        """
        module = self
        for part in target.split(".") if target else ():
            found = module._modules.get(part)
            if found is None:
                raise AttributeError(f"{type(module).__name__} has no sub-module {part!r}")
            module = found
        return module

    def apply(self, fn: Callable[[Module], None]) -> Module:
        """Call `fn` on every sub-module, then on self; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # -- modes ---------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Module:
        """Switch to training (or, with False, evaluation) behaviour; returns self."""
        for module in self.modules():
            module.training = bool(mode)
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

    def to(self, *args: Any, **kwargs: Any) -> Module:
        """Cast floating parameters and buffers (``to(dtype)``), or move them (``to("cpu")``)."""
        for module in self.modules():
            for registry in (module._parameters, module._buffers):
                for t in registry.values():
                    if t is not None:
                        _move(t, args, kwargs)
        return self

    def float(self) -> Module:
        """All floating parameters and buffers as float32."""
        return self.to(dtypes.float32)

    def double(self) -> Module:
        """All floating parameters and buffers as float64."""
        return self.to(dtypes.float64)

    def cpu(self) -> Module:
        """The module in main memory: itself."""
        return self

    # -- hooks ---------------------------------------------------------------------------------
    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns replaces the arguments."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns replaces it."""
        return RemovableHandle(self._forward_hooks, hook)

    # -- state ---------------------------------------------------------------------------------
    def state_dict(self, *, prefix: str = "") -> dict[str, Tensor]:
        """Every parameter and persistent buffer under its dotted name, sharing memory."""
        state: dict[str, Tensor] = OrderedDict()
        for path, module in self.named_modules(prefix=prefix.rstrip("."), remove_duplicate=False):
            for name, value in itertools.chain(module._parameters.items(), module._buffers.items()):
                if value is not None and name not in module._non_persistent:
                    state[f"{path}.{name}" if path else name] = value.detach()
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names.

        Args:
            strict: names must match exactly.

        Raises:
            RuntimeError: missing, unexpected or wrongly shaped entries, listed separately;
                nothing is copied then.
        """
        own = self.state_dict()
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        wrong = [
            f"{k}: expected {tuple(own[k].shape)}, came {np.shape(_array(v))}"
            for k, v in state_dict.items()
            if k in own and tuple(own[k].shape) != np.shape(_array(v))
        ]
        parts = [f"wrong shape: {'; '.join(wrong)}"] if wrong else []
        if strict and missing:
            parts.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            parts.append(f"unexpected: {', '.join(unexpected)}")
        if parts:
            raise CheckpointError(
                f"load_state_dict: the state does not fit {type(self).__name__}. "
                + ". ".join(parts)
            )
        with no_grad():
            for k, v in state_dict.items():
                if k in own:
                    own[k].copy_(v if isinstance(v, Tensor) else Tensor(np.asarray(v)))
        return IncompatibleKeys(missing, unexpected)

    def extra_repr(self) -> str:
        """Settings shown in the printed form."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, module in self._modules.items():
            text = repr(module).replace("\n", "\n  ")
            lines.append(f"  ({name}): {text}")
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        head = f"{type(self).__name__}({extra}\n" if extra else f"{type(self).__name__}(\n"
        return head + "\n".join(lines) + "\n)"


def _array(value: Any) -> np.ndarray:
    return value._array if isinstance(value, Tensor) else np.asarray(value)


def _move(t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Cast the memory of a parameter or buffer in place; integers keep their type."""
    with no_grad():
        moved = t.detach().to(*args, **kwargs)
        if t.is_floating_point() and moved.dtype != t.dtype:
            t.data = moved
            if t.grad is not None:
                t.grad = None
