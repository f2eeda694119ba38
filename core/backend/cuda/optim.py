"""Optimizer steps on a GPU: all parameters of a group in one launch, without waiting for it.

Note [Steps on a GPU]: settings that change between steps (rates, betas ...) lie in device memory,
and so do counts of steps, the loss scale and whether gradients were finite. A step whose gradients
were not is skipped on the device: it changes and counts nothing. A captured graph that holds a
step therefore follows what the host sets between replays. `optim_prepare` turns settings and
counts into the numbers of each tensor; then one kernel steps them all (LARS and LAMB: three).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from ... import kernel_counts
from ...errors import Unsupported
from ..layout import memory_order, same_memory_order
from ..protocol import Array
from . import device
from .base import CudaBase
from .elementwise import NULL
from .kernels import launch
from .tables import Row, Table, checked, table_of

_NUMBERS, _HYPER = 16, 10
_THREADS = (256,)
_KINDS = {"sgd": 0, "adam": 1, "rmsprop": 2, "adagrad": 3, "lars": 4, "lamb": 5, "average": 6}
COUNT = 6  # where in the settings the count of steps stands that tensors without a count have


class Recipe(NamedTuple):
    """What a step does, besides the arrays.

    Attributes:
        kernel: "sgd", "adam", "rmsprop", "adagrad", "lars", "lamb" or "average".
        numbers: the settings, in the order that `kernels/optim.cu` tells.
        maximize, nesterov: as the optimizers say.
    """

    kernel: str
    numbers: tuple[float, ...]
    maximize: bool = False
    nesterov: bool = False


class Step:
    """The step of one group of parameters; keeps its settings in device memory.

    Args:
        index: the GPU.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        with device.At(index):
            self.hyper = device.lasting(_HYPER, np.float64)
        self.values: tuple[float, ...] | None = None
        self._numbers: Array | None = None

    def set(self, numbers: tuple[float, ...]) -> None:
        """Store the settings, if they have changed."""
        if numbers == self.values:
            return
        self.values = numbers
        padded = [*numbers, *(0.0,) * (_HYPER - len(numbers))]
        with device.At(self.index):
            args = (self.hyper, *map(np.float64, padded))
            launch("optim_hyper", None, (1,), (32,), args)

    def run(
        self,
        recipe: Recipe,
        rows: Sequence[Row],
        found: Array | None = None,
        scale: Array | None = None,
        again: Callable[[], tuple[float, ...]] | None = None,
    ) -> None:
        """Step all tensors, which have one type and at least one element each.

        Args:
            recipe: what is done.
            rows: the tensors; see `tables.Row`.
            found: float32, not 0 if the step is to be skipped.
            scale: float32 (2,), what gradients were multiplied by, and its inverse.
            again: gives the settings of a later replay, when the step is being captured.
        """
        if device.capturing():
            self._captured(recipe, again)
        else:
            self.set(recipe.numbers)
        table = table_of(rows, self.index)
        numbers = self._room(len(rows))
        sign = np.float32(-1.0 if recipe.maximize else 1.0)
        kind = np.int32(_KINDS[recipe.kernel])
        head = (table.array, np.int32(table.tensors))
        amp = (NULL if found is None else found, NULL if scale is None else scale)
        grid = (-(-table.tensors // 128),)
        args = (*head, kind, self.hyper, sign, *amp, numbers)
        launch("optim_prepare", None, grid, (128,), args)
        dtype = rows[0].grad.dtype
        if not table.chunks:
            return
        if recipe.kernel in ("lars", "lamb"):
            _find_ratios(recipe.kernel, table, numbers, dtype)
        flags = (np.int32(recipe.nesterov),) if recipe.kernel in ("sgd", "lars") else ()
        args = (*head, numbers, *flags)
        launch(f"{recipe.kernel}_step", dtype, (table.chunks,), _THREADS, args)

    def _room(self, tensors: int) -> Array:
        room = self._numbers
        if room is None or room.size != tensors * _NUMBERS:
            room = self._numbers = cupy.empty(tensors * _NUMBERS, np.float32)
        if device.capturing():
            device.keep(room)
        return room

    def _captured(self, recipe: Recipe, again: Callable[[], tuple[float, ...]] | None) -> None:
        device.keep(self)
        numbers = recipe.numbers
        device.on_replay(lambda: self.set(again() if again is not None else numbers))


def _find_ratios(kernel: str, table: Table, numbers: Array, dtype: np.dtype[Any]) -> None:
    head = (table.array, np.int32(table.tensors))
    partial = cupy.empty(2 * table.chunks, np.float64)
    launch(f"{kernel}_norms", dtype, (table.chunks,), _THREADS, (*head, numbers, partial))
    args = (*head, np.int32(_KINDS[kernel]), partial, numbers)
    launch("optim_ratio", None, (table.tensors,), (128,), args)


def row_of(
    param: Array,
    grad: Array,
    states: Sequence[Array | None],
    count: Array | None = None,
    adapts: bool = False,
    copy: Array | None = None,
) -> Row:
    """A row of dense arrays; a gradient in another memory order is copied.

    Raises:
        Unsupported: another type, gaps, or a state in another memory order.
    """
    if (
        param.size
        and grad.strides != param.strides
        and not same_memory_order(param.shape, grad.strides, param.strides)
    ):
        if memory_order(param.shape, param.strides, param.itemsize) is None:
            raise Unsupported(f"a parameter {param.shape} with strides {param.strides}")
        ordered = cupy.empty_like(param)
        ordered[...] = grad
        grad = ordered
    if param.size:
        checked(param, grad, *states)
    return Row(param, grad, tuple(states), copy, count, adapts)


class CudaOptim(CudaBase):
    """`step_all` of the backend protocol, for the kernels that exist here."""

    def step_all(
        self,
        kernel: str,
        params: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[Sequence[Array] | None],
        **settings: Any,
    ) -> None:
        try:
            recipe, adapts = _recipe(kernel, settings)
            rows = []
            for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
                mine = [None if s is None else s[i] for s in states]
                if param.size:
                    rows.append(row_of(param, grad, mine, adapts=adapts))
        except Unsupported as refusal:
            self.fall_back(kernel, refusal)
            super().step_all(kernel, params, grads, states, **settings)
            return
        for group in by_type(rows):
            Step(self.index).run(recipe, group)
        kernel_counts.count_fast(kernel)

    def _scaled_to_one(self, matrix: Array, eps: float) -> Array:
        flat = matrix.reshape(-1).astype(np.float32, copy=False)
        size = cupy.sqrt(cupy.sum(flat * flat))
        return matrix / cupy.maximum(size, np.float32(eps)).astype(matrix.dtype, copy=False)


def by_type(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one element type each."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row.grad.dtype, []).append(row)
    return list(found.values())


def _recipe(kernel: str, s: dict[str, Any]) -> tuple[Recipe, bool]:
    """The recipe of a kernel of the protocol with its settings, and whether rates adapt.

    Raises:
        Unsupported: there is no such kernel here.
    """
    name = kernel.removesuffix("_step")
    maximize = bool(s.get("maximize"))
    numbers: tuple[float, ...]
    head: tuple[float, ...]
    if name == "sgd":
        dampening = 0.0 if s["first"] else s["dampening"]
        numbers = (s["lr"], s["momentum"], dampening, s["weight_decay"])
        return Recipe(name, numbers, maximize, s["nesterov"]), False
    if name == "adam":
        head = (s["lr"], s["beta1"], s["beta2"], s["eps"], s["weight_decay"])
        return Recipe(name, (*head, float(s["decoupled"]), float(s["step"])), maximize), False
    if name == "rmsprop":
        numbers = (s["lr"], s["alpha"], s["eps"], s["weight_decay"], s["momentum"])
        return Recipe(name, numbers, maximize), False
    if name == "adagrad":
        numbers = (s["lr"], 0.0, s["eps"], s["weight_decay"], 0.0, 0.0, 1.0)
        return Recipe(name, numbers, maximize), False
    if name == "lars":
        numbers = (s["lr"], s["momentum"], s["weight_decay"], s["trust_coefficient"], s["eps"])
        return Recipe(name, numbers, maximize, s["nesterov"]), s["adapt"]
    if name == "lamb":
        head = (s["lr"], s["beta1"], s["beta2"], s["eps"], s["weight_decay"], 0.0)
        low, high = s["bounds"] or (0.0, math.inf)
        return Recipe(name, (*head, float(s["step"]), low, high), maximize), s["adapt"]
    raise Unsupported("no kernel of our own")
