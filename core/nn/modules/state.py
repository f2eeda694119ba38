"""The state of a module: `state_dict`, `load_state_dict`, and their hooks.

Loading has two phases: every module first says what does not fit and notes what to copy; values
are copied only if everything fits, so a refused state changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...autograd import no_grad
from ...errors import CheckpointError
from ...tensors import Parameter, Tensor
from ...tensors.gradients import RemovableHandle
from .uninitialized import Uninitialized, is_lazy

_EXTRA = "_extra_state"
_PLAN = "copies"  # where `local_metadata` carries what is to be copied at the end


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


class _Plan:
    """What one `load_state_dict` will do when everything was found to fit."""

    def __init__(self, assign: bool) -> None:
        self.assign = assign
        self.actions: list[Callable[[], None]] = []


class StateMethods:
    """Methods of Module that concern its state."""

    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent: set[str]
    _state_hooks: dict[str, dict[Any, Any]] | None = None

    # -- hooks -------------------------------------------------------------------------------
    def _add_state_hook(self, kind: str, hook: Any) -> RemovableHandle:
        tables: dict[str, Any] = self.__dict__.setdefault("_state_hooks", {})
        return RemovableHandle(tables.setdefault(kind, {}), hook)

    def _state_hooks_of(self, kind: str) -> list[Any]:
        return list((self._state_hooks or {}).get(kind, {}).values())

    def register_state_dict_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before this module writes its state."""
        return self._add_state_hook("save_pre", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` when state was written."""
        return self._add_state_hook("save_post", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call `hook` before this module reads its state, which it may change.

        Args:
            hook: (module, state_dict, prefix, local_metadata, strict, missing_keys,
                unexpected_keys, error_msgs) -> None.
        """
        return self._add_state_hook("load_pre", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` when this module has read its state.

        The hook may change the two lists; keys that it removes are no error.
        """
        return self._add_state_hook("load_post", hook)

    # -- writing -----------------------------------------------------------------------------
    def get_extra_state(self) -> Any:
        """What a subclass wants in the state beside parameters and buffers."""
        raise NotImplementedError(f"{type(self).__name__} has no extra state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise NotImplementedError(f"{type(self).__name__} has no extra state")

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Write this module's own entries; a subclass may override it."""
        for registry in (self._parameters, self._buffers):
            for name, value in registry.items():
                if value is not None and name not in self._non_persistent:
                    destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not StateMethods.get_extra_state:
            destination[f"{prefix}{_EXTRA}"] = self.get_extra_state()

    def state_dict(
        self,
        *args: Any,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Every parameter and persistent buffer under its dotted name, sharing memory.

        Args:
            args: `destination`, `prefix`, `keep_vars` by position, as PyTorch once had them.
            destination: the dict to write into; a new ordered one by default.
            prefix: put before every name.
            keep_vars: give the parameters themselves instead of detached tensors.
        """
        for name, value in zip(("destination", "prefix", "keep_vars"), args, strict=False):
            if name == "destination":
                destination = value
            elif name == "prefix":
                prefix = value
            else:
                keep_vars = value
        state: dict[str, Any] = OrderedDict() if destination is None else destination
        for hook in self._state_hooks_of("save_pre"):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(state, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                below = f"{prefix}{name}."
                module.state_dict(destination=state, prefix=below, keep_vars=keep_vars)
        for hook in self._state_hooks_of("save_post"):
            hook(self, state, prefix, {})
        return state

    # -- reading -----------------------------------------------------------------------------
    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((k, v) for k, v in self._parameters.items() if v is not None)
        for name, value in self._buffers.items():
            if value is not None and name not in self._non_persistent:
                yield name, value

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Read this module's own entries; a subclass may override it.

        The lists take the names and messages of what does not fit.
        """
        for hook in self._state_hooks_of("load_pre"):
            hook(
                self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                error_msgs,
            )  # fmt: skip
        plan = local_metadata.get(_PLAN) or _Plan(assign=False)
        known = (
            {_EXTRA} if type(self).set_extra_state is not StateMethods.set_extra_state else set()
        )
        for name, own in self._own_state():
            key = prefix + name
            known.add(name)
            if key in state_dict:
                self._plan_entry(plan, name, own, key, state_dict[key], error_msgs)
            elif strict:
                missing_keys.append(key)
        if _EXTRA in known:
            self._plan_extra(plan, prefix + _EXTRA, state_dict, strict, missing_keys)
        if strict:
            unexpected_keys += [
                k for k in state_dict
                if k.startswith(prefix) and self._is_unexpected(k[len(prefix) :], known)
            ]  # fmt: skip
        if _PLAN not in local_metadata:
            _carry_out(plan)

    def _is_unexpected(self, rest: str, known: set[str]) -> bool:
        first, _, below = rest.partition(".")
        return first not in self._modules if below else rest not in known

    def _plan_extra(
        self, plan: _Plan, key: str, state_dict: Mapping[str, Any], strict: bool, missing: list[str]
    ) -> None:
        if key in state_dict:
            plan.actions.append(lambda: self.set_extra_state(state_dict[key]))
        elif strict:
            missing.append(key)

    def _plan_entry(
        self, plan: _Plan, name: str, own: Tensor, key: str, value: Any, error_msgs: list[str]
    ) -> None:
        if not isinstance(value, Tensor | np.ndarray | np.generic):
            error_msgs.append(
                f'While copying the parameter named "{key}", expected a tensor from the '
                f"checkpoint but received {type(value)}"
            )
            return
        value = value if isinstance(value, Tensor) else Tensor(np.asarray(value))
        lazy = is_lazy(own)
        if is_lazy(value):
            if not lazy:
                error_msgs.append(f'"{key}" of the state has no shape yet: it is a lazy parameter')
            return
        shape = () if lazy else tuple(own._array.shape)
        if not lazy and not shape and value.shape == (1,):
            value = value.reshape(())  # as old checkpoints have it
        if not lazy and tuple(value.shape) != shape:
            error_msgs.append(
                f"size mismatch for {key}: copying a param with shape {value.shape} from "
                f"checkpoint, the shape in current model is {own.shape}."
            )
            return
        if plan.assign:
            plan.actions.append(lambda: self._assign_entry(name, own, value))
        else:
            plan.actions.append(lambda: _copy_entry(own, value))

    def _assign_entry(self, name: str, own: Tensor, value: Tensor) -> None:
        """Put the tensor of the state itself in the place of `own`."""
        if name in self._buffers:
            self._buffers[name] = value
        elif isinstance(value, Parameter):
            self._parameters[name] = value
        else:
            self._parameters[name] = Parameter(value, requires_grad=own.requires_grad)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names.

        Args:
            state_dict: names and tensors (or arrays), as `state_dict` gives them.
            strict: names must match exactly.
            assign: put the given tensors themselves in place instead of copying their values;
                they keep their dtype, and optimizers made before do not know them.

        Raises:
            RuntimeError: missing, unexpected or wrongly shaped entries, listed separately;
                nothing is copied then.
            TypeError: `state_dict` is not a mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        state = OrderedDict(state_dict)
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        plan = _Plan(assign)
        _read(self, state, "", plan, missing, unexpected, errors)
        if strict and unexpected:
            names = ", ".join(f'"{k}"' for k in unexpected)
            errors.insert(0, f"Unexpected key(s) in state_dict: {names}. ")
        if strict and missing:
            names = ", ".join(f'"{k}"' for k in missing)
            errors.insert(0, f"Missing key(s) in state_dict: {names}. ")
        if errors:
            listed = "\n\t".join(errors)
            raise CheckpointError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{listed}"
            )
        _carry_out(plan)
        return IncompatibleKeys(missing, unexpected)


def _read(
    module: Any,
    state: dict[str, Any],
    prefix: str,
    plan: _Plan,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    metadata = {_PLAN: plan, "assign_to_params_buffers": plan.assign}
    module._load_from_state_dict(state, prefix, metadata, True, missing, unexpected, errors)
    for name, child in module._modules.items():
        if child is not None:
            _read(child, state, f"{prefix}{name}.", plan, missing, unexpected, errors)
    keys = IncompatibleKeys(missing, unexpected)
    for hook in module._state_hooks_of("load_post"):
        if hook(module, keys) is not None:
            raise ValueError(
                "a hook of register_load_state_dict_post_hook must not return a value; it changes "
                "the lists of its argument"
            )


def _copy_entry(own: Tensor, value: Tensor) -> None:
    if isinstance(own, Uninitialized):
        own.materialize(tuple(value.shape))
    own.copy_(value)


def _carry_out(plan: _Plan) -> None:
    with no_grad():
        for action in plan.actions:
            action()
    plan.actions.clear()
