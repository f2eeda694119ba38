"""Steps of parameters that lie on GPUs: one launch for a group, and no waiting.

See Note [Steps on a GPU] in `backend/cuda/optim.py`. What a GPU has no kernel for goes the way of
the CPU, on arrays of the GPU, with counts and settings that the host knows.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import backend, kernel_counts
from ..backend import arrays
from ..errors import DeviceError, Unsupported
from ..tensors import Tensor

EQUAL = -1.0  # in place of a decay: all that were averaged weigh the same


class Recipe(NamedTuple):
    """How a group of parameters is stepped by a kernel that counts steps by itself.

    Attributes:
        kernel: its name, without ``_step``.
        states: names of its state tensors, or None.
        settings: in the order that the kernel wants.
        maximize, nesterov: as the optimizers say.
        adapts: whether the rate of a parameter depends on its norm.
        counts_first: whether the first step of a parameter without ``"step"`` differs.
    """

    kernel: str
    states: tuple[str | None, ...]
    settings: tuple[float, ...]
    maximize: bool = False
    nesterov: bool = False
    adapts: Callable[[Tensor], bool] | None = None
    counts_first: bool = False


class _Memory:
    """What steps of one optimizer keep on devices.

    Attributes:
        steps: per (group, device, element type) the settings.
        counts: counts of steps of parameters whose state has none.
    """

    def __init__(self) -> None:
        self.steps: dict[tuple[int, int, str], Any] = {}
        self.counts: dict[int, Any] = {}  # by id of the parameter


_memories: weakref.WeakKeyDictionary[Any, _Memory] = weakref.WeakKeyDictionary()


def _memory(optimizer: Any) -> _Memory:
    found = _memories.get(optimizer)
    if found is None:
        found = _memories[optimizer] = _Memory()
    return found


def split(params: list[Any]) -> list[tuple[int | None, list[Any]]]:
    """(device number or None for main memory, its parameters), in the order of the first ones."""
    found: dict[int | None, list[Any]] = {}
    for ready in params:
        found.setdefault(arrays.index_of(ready[1]), []).append(ready)
    return list(found.items())


def step(optimizer: Any, number: int, group: dict[str, Any], params: list[Any], index: int) -> bool:
    """Step parameters of one GPU by its kernel.

    Args:
        optimizer: a `KernelOptimizer`.
        number, group: which group it is.
        params: (parameter, its array, the array of its gradient).
        index: the GPU.

    Returns:
        False if there is no such kernel here: nothing was done.

    Raises:
        DeviceError: a graph is being captured, and the step cannot be part of it.
    """
    kernels = backend.on_cuda(index)
    from ..backend.cuda import device  # noqa: PLC0415 - needs CuPy

    recipe = optimizer._recipe(group)
    try:
        if recipe is None:
            raise Unsupported("no kernel of our own")
        rows = _rows(optimizer, recipe, group, params)
    except Unsupported as refusal:
        if device.capturing():
            raise DeviceError(
                f"cuda.capture: {type(optimizer).__name__}.step cannot be part of a graph "
                f"({refusal}): every replay would use the settings of now. Call it outside"
            ) from refusal
        kernels.fall_back(f"{type(optimizer).__name__}.step", refusal)
        return False
    _run(optimizer, recipe, number, group, rows, index)
    return True


def _run(
    optimizer: Any, recipe: Recipe, number: int, group: dict[str, Any], rows: Any, index: int
) -> None:
    from ..backend.cuda import optim  # noqa: PLC0415 - needs CuPy

    memory, amp = _memory(optimizer), optimizer.loss_scale
    found, scale = (None, None) if amp is None else amp
    plain = optim.Recipe(recipe.kernel, recipe.settings, recipe.maximize, recipe.nesterov)
    again = functools.partial(_settings_of, weakref.ref(optimizer), number, recipe.settings)
    for members in optim.by_type(rows):
        key = (number, index, str(members[0].grad.dtype))
        if key not in memory.steps:
            memory.steps[key] = optim.Step(index)
        memory.steps[key].run(plain, members, found, scale, again)
    kernel_counts.count_fast(f"{recipe.kernel}_step")


def _settings_of(
    optimizer: weakref.ref[Any], number: int, last: tuple[float, ...]
) -> tuple[float, ...]:
    """The settings that group `number` has now, for the replay of a graph."""
    owner = optimizer()
    if owner is None:
        return last
    settings: tuple[float, ...] = owner._recipe(owner.param_groups[number]).settings
    return settings


def _rows(optimizer: Any, recipe: Recipe, group: dict[str, Any], params: list[Any]) -> list[Any]:
    """What the kernel steps, with state that is made where it is missing.

    Raises:
        Unsupported: an array that the kernel does not serve.
    """
    from ..backend.cuda import device, tables  # noqa: PLC0415 - needs CuPy
    from ..backend.cuda.optim import row_of  # noqa: PLC0415 - needs CuPy

    for _, array, _ in params:
        if array.size:
            tables.checked(array)
    if device.capturing():
        _refuse_new_state(optimizer, recipe, params)
    copies, rows = optimizer._copies or {}, []
    for p, array, grad in params:
        values, count = _state(optimizer, recipe, p, group)
        if not array.size and count is None:
            continue
        states = [None if name is None else values[name]._array for name in recipe.states]
        adapts = recipe.adapts is not None and recipe.adapts(p)
        rows.append(row_of(array, grad, states, count, adapts, copies.get(id(p))))
    return rows


def _refuse_new_state(optimizer: Any, recipe: Recipe, params: list[Any]) -> None:
    wanted = [name for name in recipe.states if name is not None]
    for p, _, _ in params:
        if wanted and any(name not in optimizer.state.get(p, {}) for name in wanted):
            raise DeviceError(
                f"cuda.capture: the first {type(optimizer).__name__}.step was made inside of the "
                "captured step, so every replay would start its state anew. Make one step before"
            )


def _state(
    optimizer: Any, recipe: Recipe, p: Tensor, group: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """(state tensors of `p` by name, where its steps are counted on the device or None)."""
    if not any(recipe.states):
        return {}, None
    values = optimizer.state[p]
    if not values:
        values.update(optimizer._start_state(p, group))
    optimizer._complete(p, values, group)
    if "step" in values:
        values["step"] = counted_on_device(values["step"], p)
        return values, values["step"]._array
    first = optimizer._tick(p, values, group)
    if not recipe.counts_first:
        return values, None
    counts = _memory(optimizer).counts
    if first or id(p) not in counts:
        counts[id(p)] = np.full_like(p._array, 0.0 if first else 1.0, np.float32, shape=())
    return values, counts[id(p)]


def counted_on_device(count: Any, p: Tensor) -> Tensor:
    """The count of steps as a float32 tensor of shape () on the device of `p`."""
    if isinstance(count, Tensor) and arrays.on_device(count._array):
        return count
    value = float(count.item() if isinstance(count, Tensor) else count)
    return Tensor(np.full_like(p._array, value, np.float32, shape=()))


def average_on_device(
    averaged: list[Tensor], new: list[Tensor], count: Tensor, decay: float
) -> bool:
    """averaged = decay * averaged + (1 - decay) * new, in one launch and without waiting.

    Args:
        averaged, new: tensors of one GPU.
        count: int64 (), how many were averaged before; the first is copied.
        decay: `EQUAL` for the equal average of all.

    Returns:
        False where kernels do not serve these tensors: nothing was done.
    """
    places = {arrays.index_of(t._array) for t in (*averaged, *new)}
    index = places.pop() if len(places) == 1 else None
    if index is None:
        return False
    from ..backend.cuda import optim  # noqa: PLC0415 - needs CuPy

    there = arrays.on_device(count._array)
    settings = (decay, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 if there else float(count.item()))
    place = count._array if there else None
    try:
        rows = [
            optim.row_of(a._array, b._array, (), place)
            for a, b in zip(averaged, new, strict=True)
            if a._array.size
        ]
    except Unsupported:
        return False
    for members in optim.by_type(rows):
        optim.Step(index).run(optim.Recipe("average", settings), members)
    for t in averaged:
        t._bump_version()
    return True


def copies(optimizer: Any, dtype: np.dtype[Any]) -> dict[Tensor, Tensor]:
    """Copies in a half type of all float32 parameters that GPUs step, in their memory order.

    Raises:
        DeviceError: there is none, or `dtype` is no half type.
    """
    found = {}
    for group in optimizer.param_groups:
        served = dtype.itemsize == 2 and optimizer._recipe(group) is not None
        for p in group["params"]:
            if served and arrays.on_device(p._array) and p._array.dtype == np.float32:
                found[p] = Tensor(p._array.astype(dtype))
    if not found:
        raise DeviceError(
            f"{type(optimizer).__name__}.write_copies: expected float32 parameters on a GPU whose "
            f"step has a kernel, and float16 or bfloat16, came {dtype}"
        )
    return found


def takes_loss_scale(optimizer: Any) -> bool:
    """Whether all gradients lie on GPUs and the steps there read a `LossScale`."""
    if not arrays.known():
        return False
    from ..backend.cuda import tables  # noqa: PLC0415 - needs CuPy

    for group in optimizer.param_groups:
        stepped = [p for p in group["params"] if p.grad is not None]
        if not stepped:
            continue
        if optimizer._recipe(group) is None:
            return False
        for p in stepped:
            if not arrays.on_device(p._array):
                return False
            try:
                if p._array.size:
                    tables.checked(p._array)
            except Unsupported:
                return False
    return True
