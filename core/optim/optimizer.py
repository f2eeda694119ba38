"""What all optimizers share: parameter groups, state, hooks, saving and loading.

The stage after ``backward``: reads ``p.grad``, writes ``p`` in place. Imports tensors and autograd.
Optimizers know nothing of ranks: with data parallelism every rank makes the same step from the
same averaged gradients.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autograd import enable_grad
from ..errors import DtypeError, ShapeError
from ..tensors import Tensor
from ..tensors.gradients import RemovableHandle
from ..tensors.graph import compute_all
from ..timeline import active
from . import groups, state
from .checks import as_float as as_float
from .groups import required as required
from .hooks import HookTable
from .users import note_user, without_users

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
StateDict = dict[str, Any]


class Optimizer:
    """Base class of all optimizers, with PyTorch's interface and state layout.

    Args:
        params: tensors, or (name, tensor) pairs, or dicts with the key ``"params"`` and settings
            of that group. The order must be the same in every run (state is saved by position).
        defaults: settings of groups that do not bring their own.

    Attributes:
        param_groups: list of dicts: ``"params"`` and the settings; change them at any time.
        state: dict from parameter to its dict of state, filled at the first `step`.
        defaults: as given.

    Raises:
        TypeError: `params` is a tensor or a set, or holds something that is not a tensor.
        ValueError: nothing to optimize, a tensor that is not a leaf, a parameter in two groups.

    A subclass defines ``step(closure=None)``. Source: PyTorch manual, torch.optim.Optimizer.
    """

    # names of the state tensors that have the shape of their parameter (checked when loading)
    _state_like_param: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.step)  # type: ignore[method-assign]

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__}: expected params to be an iterable of tensors or dicts, "
                "came one Tensor; write [tensor]"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._hooks = HookTable()
        self._inside_step = False
        self._opt_called = False  # read by the schedulers: was there a step before theirs?
        given = list(params)
        if not given:
            raise ValueError(
                f"{type(self).__name__}: optimizer got an empty parameter list. A generator can "
                "be used only once: call model.parameters() again"
            )
        if not isinstance(given[0], dict):
            given = [{"params": given}]
        for group in given:
            self.add_param_group(group)  # type: ignore[arg-type]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; a subclass defines how.

        Args:
            closure: computes the loss again (with ``backward``) and returns it.

        Returns:
            What `closure` returned, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(closure=None)")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters.

        Args:
            set_to_none: True (default) sets ``p.grad`` to None, so that parameters which get no
                gradient are skipped by `step`; False fills them with zeros.
        """
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad._array.fill(0)
                    p.grad._bump_version()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; missing settings are taken from `defaults`.

        Args:
            param_group: ``{"params": tensor or list, setting: value, ...}``; it is kept and
                completed in place, as PyTorch does.

        Raises:
            TypeError, ValueError: as for the class.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"add_param_group: expected a dict, came {type(param_group).__name__}")
        groups.complete(param_group, self.defaults, type(self).__name__)
        groups.check_overlap(param_group, self.param_groups)
        self.param_groups.append(param_group)
        for p in param_group["params"]:
            note_user(p, self)

    def __getstate__(self) -> dict[str, Any]:
        return without_users(self.__dict__)

    def state_dict(self) -> StateDict:
        """The state in PyTorch's layout; the tensors in it are the living ones, not copies.

        Returns:
            ``{"state": {index: {name: value}}, "param_groups": [{..., "params": [index, ...]}]}``
            where a parameter's index is its position over all groups.
        """
        for pre_hook in self._hooks.state_dict_pre.values():
            pre_hook(self)
        result = state.pack(self.state, self.param_groups)
        for post_hook in self._hooks.state_dict_post.values():
            changed = post_hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over the state and the settings that `state_dict` returned.

        Unlike PyTorch the tensors are always copied, so that two optimizers loaded from one dict
        never write to the same memory. Floating state takes the dtype of its parameter, except
        ``"step"``. Nothing is changed when an error is raised.

        Args:
            state_dict: what `state_dict` of an optimizer over the same parameters returned.

        Raises:
            ValueError: another number of groups, or of parameters in a group.
            ShapeError: a state tensor does not have the shape of its parameter.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._hooks.load_pre.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self.state, self.param_groups = state.unpack(
            state_dict,
            self.param_groups,
            self.defaults,
            self._state_like_param,
            type(self).__name__,
        )
        for post_hook in self._hooks.load_post.values():
            post_hook(self)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it may return new ones."""
        return self._hooks.add(self._hooks.step_pre, hook)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return self._hooks.add(self._hooks.step_post, hook)

    def register_state_dict_pre_hook(
        self, hook: Callable[..., None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` before `state_dict` collects."""
        return self._hooks.add(self._hooks.state_dict_pre, hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` on the result; it may return another one."""
        return self._hooks.add(self._hooks.state_dict_post, hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before loading; it may return another one."""
        return self._hooks.add(self._hooks.load_pre, hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[..., None], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after loading."""
        return self._hooks.add(self._hooks.load_post, hook, prepend)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join([*lines, ")"])

    # -- for the subclasses ---------------------------------------------------------------------

    def _begin_step(self, closure: Callable[[], Any] | None) -> Any:
        """Run `closure`, if there is one, with gradients recorded; then nothing may be pending.

        See Note [Pending outputs] in tensors: an op that is not computed yet must still see the
        parameters as they are now.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        compute_all()
        return loss

    def _ready(self, group: dict[str, Any]) -> list[tuple[Tensor, np.ndarray, np.ndarray]]:
        """The parameters of `group` that have a gradient, with their arrays and gradients.

        Raises:
            ShapeError, DtypeError: a gradient does not fit its parameter.
        """
        ready = []
        for p in group["params"]:
            grad = p.grad
            if grad is None:
                continue
            array, g = p._array, grad._array
            if array.shape != g.shape or array.dtype != g.dtype:
                raise self._misfit(p, grad)
            ready.append((p, array, g))
        return ready

    def _misfit(self, param: Tensor, grad: Tensor) -> Exception:
        """The error for a gradient that does not fit its parameter."""
        a, g = param._array, grad._array
        where = f"{type(self).__name__}.step: {self._name_of(param)}"
        if a.shape != g.shape:
            return ShapeError(
                f"{where} has shape {a.shape}, its gradient {g.shape}; expected equal shapes. "
                "Was the parameter resized after backward()?"
            )
        return DtypeError(
            f"{where} has dtype {a.dtype}, its gradient {g.dtype}; expected equal dtypes. Was "
            "the parameter converted after backward()?"
        )

    def _name_of(self, param: Tensor) -> str:
        for g, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p is param:
                    names = group.get("param_names")
                    label = f" ({names[i]!r})" if names else ""
                    return f"parameter {i} of group {g}{label}"
        return "a parameter"


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` that calls the hooks around itself and remembers that it was called."""

    @functools.wraps(step)
    def wrapper(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        self._opt_called = True
        timeline = active()
        if timeline is not None:
            with timeline.optimizer_step(self):
                return hooked(self, *args, **kwargs)
        return hooked(self, *args, **kwargs)

    def hooked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if self._inside_step or not self._hooks.around_step:  # super().step() hooks only once
            return step(self, *args, **kwargs)
        self._inside_step = True
        try:
            for pre_hook in self._hooks.step_pre.values():
                changed = pre_hook(self, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
            result = step(self, *args, **kwargs)
            for post_hook in self._hooks.step_post.values():
                post_hook(self, args, kwargs)
            return result
        finally:
            self._inside_step = False

    wrapper._tracks_calls = True  # type: ignore[attr-defined]
    return wrapper
