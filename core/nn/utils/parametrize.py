"""Parametrisations: a parameter computed from others, under PyTorch's names and keys.

``register_parametrization(layer, "weight", P())`` moves the parameter to
``parametrizations.weight.original`` and makes ``layer.weight`` the result of ``P`` on it, computed
at every access.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ...autograd import no_grad
from ...tensors import Parameter, Tensor
from ..modules.container import ModuleDict, ModuleList
from ..modules.module import Module


class _Cache(threading.local):
    def __init__(self) -> None:
        self.depth = 0
        self.values: dict[tuple[int, str], Tensor] = {}


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Inside, every parametrised tensor is computed once and then remembered.

    Worth it where a weight is read many times in one step, as in a recurrent loop.
    """
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            _cache.values = {}


class ParametrizationList(ModuleList):
    """The parametrisations of one tensor, applied in order, and what they start from.

    Attributes:
        original: the tensor they start from; or original0, original1, ... where `right_inverse`
            of the first gave several.
    """

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        found: Any = original
        with no_grad():
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    with suppress(NotImplementedError):  # then the value stays as it is
                        found = module.right_inverse(found)
        self.is_tensor = isinstance(found, Tensor)
        if self.is_tensor:
            self.ntensors = 1
            _take_over(self, "original", original, found)
        else:
            self.ntensors = len(found)
            for i, part in enumerate(found):
                kept = part.detach().clone()
                if isinstance(original, Parameter):
                    self.register_parameter(f"original{i}", Parameter(kept))
                else:
                    self.register_buffer(f"original{i}", kept)

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals such that the parametrised tensor becomes `value`."""
        with no_grad():
            found: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"parametrization {type(module).__name__} does not define right_inverse, "
                        "so its tensor cannot be assigned to"
                    )
                found = module.right_inverse(found)
            parts = [found] if self.is_tensor else list(found)
            names = ["original"] if self.is_tensor else [f"original{i}" for i in range(len(parts))]
            for name, part in zip(names, parts, strict=True):
                getattr(self, name).data = part.detach().clone()

    def forward(self) -> Tensor:
        modules = iter(self)
        if self.is_tensor:
            x = self.original
        else:
            x = next(modules)(*[getattr(self, f"original{i}") for i in range(self.ntensors)])
        for module in modules:
            x = module(x)
        result: Tensor = x
        return result


def _take_over(owner: Module, name: str, original: Tensor, value: Tensor) -> None:
    """Register `original`, with the values of `value`, under `name`."""
    if value is not original:
        original.data = value.detach()
    if isinstance(original, Parameter):
        owner.register_parameter(name, original)
    else:
        owner.register_buffer(name, original)


def _parametrized_property(name: str) -> property:
    def read(self: Any) -> Tensor:
        if not _cache.depth:
            found: Tensor = self.parametrizations[name]()
            return found
        key = (id(self), name)
        if key not in _cache.values:
            _cache.values[key] = self.parametrizations[name]()
        return _cache.values[key]

    def write(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(read, write)


def _new_class(module: Module) -> None:
    """Give `module` a class of its own that can hold the properties."""
    base = type(module)

    def deepcopied(self: Any, memo: dict[int, Any]) -> Any:
        # A class of its own: removing a parametrisation takes a property away from it.
        kept = {k: v for k, v in vars(type(self)).items() if k not in ("__dict__", "__weakref__")}
        replica = base.__new__(base)
        object.__setattr__(replica, "__class__", type(type(self).__name__, (base,), kept))
        memo[id(self)] = replica
        replica.__dict__ = copy.deepcopy(self.__dict__, memo)
        return replica

    def refused(self: Any) -> Any:
        raise RuntimeError(
            f"a parametrized {base.__name__} cannot be pickled as a whole; save its state_dict()"
        )

    members: dict[str, Any] = {"__getstate__": refused}
    if "__deepcopy__" not in base.__dict__:
        members["__deepcopy__"] = deepcopied
    object.__setattr__(module, "__class__", type(f"Parametrized{base.__name__}", (base,), members))
    module.parametrizations = ModuleDict()


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Make ``module.tensor_name`` the result of `parametrization`; returns the module.

    Args:
        parametrization: a module whose forward maps the original tensor(s) to the new one; its
            `right_inverse`, if any, finds the originals from the present value.
        unsafe: leave out the checks of shape and dtype.

    Raises:
        ValueError: there is no such parameter or buffer, or shape or dtype change.

    >>> from allgrad import nn
    >>> class Symmetric(nn.Module):
    ...     def forward(self, x):
    ...         return x.triu() + x.triu(1).t()
    >>> layer = register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.t()).all())
    True
    >>> sorted(layer.state_dict())
    ['bias', 'parametrizations.weight.original']
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        return _add(module, tensor_name, parametrization, unsafe)
    original = module._parameters.get(tensor_name, module._buffers.get(tensor_name))
    if original is None:
        raise ValueError(
            f"register_parametrization: {type(module).__name__} has no parameter or buffer "
            f"{tensor_name!r}"
        )
    parametrizations = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            result = parametrizations()
        _check(result, original, parametrization)
    module._parameters.pop(tensor_name, None)
    module._buffers.pop(tensor_name, None)
    if not is_parametrized(module):
        _new_class(module)
    setattr(type(module), tensor_name, _parametrized_property(tensor_name))
    module.parametrizations[tensor_name] = parametrizations
    return module


def _add(module: Module, tensor_name: str, parametrization: Module, unsafe: bool) -> Module:
    """One more parametrisation of an already parametrised tensor."""
    parametrizations = module.parametrizations[tensor_name]
    with no_grad():
        present = getattr(module, tensor_name)
        if not unsafe:
            _check(parametrization(present), present, parametrization)
        if hasattr(parametrization, "right_inverse"):
            value = parametrization.right_inverse(present)
            if not isinstance(value, Tensor):
                raise ValueError(
                    "register_parametrization: right_inverse of a further parametrization must "
                    f"return one tensor, came {type(value).__name__}"
                )
            parametrizations.right_inverse(value)
    parametrizations.append(parametrization)
    parametrizations.unsafe |= unsafe
    return module


def _check(result: Any, original: Tensor, parametrization: Module) -> None:
    name = type(parametrization).__name__
    if not isinstance(result, Tensor):
        raise ValueError(f"parametrization {name} must return a tensor, came {type(result)}")
    if result.dtype != original.dtype or result.shape != original.shape:
        raise ValueError(
            f"parametrization {name} must keep dtype and shape: {original.dtype} "
            f"{tuple(original.shape)} became {result.dtype} {tuple(result.shape)}; pass "
            "unsafe=True if that is meant"
        )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether `module` has a parametrised tensor (of this name)."""
    found = module._modules.get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Turn ``module.tensor_name`` into a plain parameter again; returns the module.

    Args:
        leave_parametrized: keep the present, parametrised value instead of the original.

    Raises:
        ValueError: the tensor is not parametrised, or the original is lost (several tensors).
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(
            f"remove_parametrizations: {type(module).__name__} has no parametrized {tensor_name!r}"
        )
    parametrizations = module.parametrizations[tensor_name]
    if not parametrizations.is_tensor and not leave_parametrized:
        raise ValueError(
            "remove_parametrizations: leave_parametrized=False needs a parametrization of one "
            "tensor; this one starts from several"
        )
    with no_grad():
        value = getattr(module, tensor_name).detach().clone()
    original = getattr(parametrizations, "original" if parametrizations.is_tensor else "original0")
    if leave_parametrized:
        if parametrizations.is_tensor:
            original.data = value
        else:
            original = Parameter(value) if isinstance(original, Parameter) else value
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    if not is_parametrized(module):
        del module._modules["parametrizations"]
        object.__setattr__(module, "__class__", type(module).__bases__[0])
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of `module` without its parametrisations."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)
