"""Optimizers whose update is a kernel of the backend: nearly all of them.

The kernel gets all parameters of a group at once, so that the backend can step them in few calls,
many small ones as one array (`step_all`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from .. import backend, dtypes
from ..backend import arrays
from ..tensors import Tensor
from . import on_device
from .checks import as_float
from .optimizer import Optimizer

#: a parameter with its array and its gradient's
Ready = tuple[Tensor, np.ndarray, np.ndarray]


class Update(NamedTuple):
    """What a subclass asks the backend for: a kernel, its state tensors and its settings."""

    kernel: str
    state: tuple[str | None, ...]
    settings: dict[str, Any]


class Batch(NamedTuple):
    """Parameters of one group that are stepped with the same numbers."""

    params: list[np.ndarray]
    grads: list[np.ndarray]
    values: list[dict[str, Any]]


class KernelOptimizer(Optimizer):
    """Base class of the optimizers whose update is a kernel.

    A subclass defines `_start_state` and `_update`; where its numbers depend on more than the
    count of steps, `_tick`; where state is added later, `_complete`; and if GPUs have a kernel for
    it that counts steps by itself, `_recipe`.
    """

    # Set for one step by a `GradScaler` that keeps its numbers on the device: float32 that is not
    # 0 where gradients are not finite, and {scale, 1 / scale} of gradients that are still scaled.
    loss_scale: tuple[Any, Any] | None = None
    # per id of a parameter, a 16-bit array that a step on a GPU writes beside it
    _copies: dict[int, Any] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; see the class for the equations.

        Args:
            closure: computes the loss again (with ``backward``) and returns it.

        Returns:
            What `closure` returned, or None.
        """
        loss = self._begin_step(closure)
        # all gradients are checked before the first parameter changes
        ready = [(group, self._ready(group)) for group in self.param_groups]
        for number, (group, params) in enumerate(ready):
            if arrays.known():
                self._step_by_device(number, group, params)
            else:
                self._step_batches(group, params)
            for p, _, _ in params:
                p._bump_version()
        return loss

    def _step_by_device(self, number: int, group: dict[str, Any], params: list[Ready]) -> None:
        """Step what lies on GPUs there, the rest here."""
        for index, members in on_device.split(params):
            if index is None or not on_device.step(self, number, group, members, index):
                self._step_batches(group, members)

    def _step_batches(self, group: dict[str, Any], params: list[Ready]) -> None:
        """Step with counts and settings that the host knows."""
        if params:
            batches = self._batches(group, params)
            for clock, batch in batches.items():
                update = self._update(group, clock)
                states = [
                    None if name is None else [v[name]._array for v in batch.values]
                    for name in update.state
                ]
                step_all = backend.of(batch.params[0]).step_all
                step_all(update.kernel, batch.params, batch.grads, states, **update.settings)

    def write_copies(self, dtype: Any) -> dict[Tensor, Tensor]:
        """From now on each step writes every float32 parameter on a GPU in a half type, too.

        The kernel that steps a parameter writes its copy, which saves reading it again for a cast.

        Args:
            dtype: `float16` or `bfloat16`.

        Returns:
            By parameter the copy, which holds the present values; it must stay where it is.

        Raises:
            RuntimeError: no kernel of a GPU steps these parameters.
        """
        copies = on_device.copies(self, dtypes.to_numpy(dtype))
        self._copies = {id(p): copy._array for p, copy in copies.items()}
        return copies

    def takes_loss_scale(self) -> bool:
        """Whether `step` reads `loss_scale`: all gradients are on a GPU, with kernels for them."""
        return on_device.takes_loss_scale(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `Optimizer.load_state_dict`; a ``"step"`` saved as a number becomes a tensor."""
        super().load_state_dict(state_dict)
        for values in self.state.values():
            if "step" in values and not isinstance(values["step"], Tensor):
                values["step"] = scalar(values["step"])

    def _start_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of `p` before its first step with a gradient."""
        raise NotImplementedError

    def _update(self, group: dict[str, Any], clock: Any) -> Update:
        """The kernel call for parameters of `group` whose `_tick` was `clock`."""
        raise NotImplementedError

    def _recipe(self, group: dict[str, Any]) -> on_device.Recipe | None:
        """How a GPU steps parameters of `group` in one launch; None: as `_update` says."""
        return None

    def _complete(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> None:
        """Add state that was not needed until now."""

    def _tick(self, p: Tensor, values: dict[str, Any], group: dict[str, Any]) -> Hashable:
        """Count one more step; parameters of equal results are stepped in one call."""
        count = values["step"]._array
        count += 1
        return int(count)

    def _batches(self, group: dict[str, Any], params: list[Ready]) -> dict[Hashable, Batch]:
        """The parameters by `_tick`."""
        batches: dict[Hashable, Batch] = {}
        state, tick, complete = self.state, self._tick, self._complete
        for p, array, grad in params:
            values = state[p]
            if not values:
                values.update(self._start_state(p, group))
            complete(p, values, group)
            clock = tick(p, values, group)
            batch = batches.get(clock)
            if batch is None:
                batch = batches[clock] = Batch([], [], [])
            batch.params.append(array)
            batch.grads.append(grad)
            batch.values.append(values)
        return batches


def scalar(value: float) -> Tensor:
    """A state tensor of shape (), float32: a count, or a number that changes per step."""
    return Tensor(np.array(value, dtype=np.float32))


def zeros_like(p: Tensor) -> Tensor:
    """A state tensor of zeros with shape and dtype of `p`."""
    return Tensor(np.zeros_like(p._array))


def numbers(group: dict[str, Any], *names: str) -> dict[str, float]:
    """The settings `names` of `group` as floats; each may be a tensor of one element."""
    return {name: as_float(group[name]) for name in names}


def betas_of(group: dict[str, Any]) -> dict[str, float]:
    """The two decay rates of `group` under the kernels' names."""
    beta1, beta2 = group["betas"]
    return {"beta1": as_float(beta1), "beta2": as_float(beta2)}
