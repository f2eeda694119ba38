"""Stepping all parameters of an optimizer on the CPU: in few calls, on memory that is in cache.

A network has many small parameters, for which a call costs more than the numbers, and some large
ones, whose temporaries would not stay in cache. So small ones are gathered into one array, stepped
in one call and scattered again, and large ones are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cpu_base import CpuBase
from .protocol import Array
from .reference.optim import step_one

_GATHERED = 8192  # elements from which on a parameter is worth a call of its own
_BLOCK = 32768  # elements of a block: with state and temporaries it fits into a core's L2 cache
_SWEEPING = ("sgd_step", "adam_step")  # these cut large arrays into blocks themselves
_WHOLE = ("lars_step", "lamb_step", "adafactor_step", "muon_step")  # want their norm, rows, ...
_LAYOUTS = 64  # remembered ways of gathering; a training uses one per group

Shapes = tuple[tuple[int, ...], ...]


class _Pack(NamedTuple):
    """Small parameters that are stepped together.

    Args:
        members: their positions among the parameters.
        rows: one vector per argument of the kernel (parameter, gradient, states).
        views: per row, the part of each member in the member's shape.
    """

    members: list[int]
    rows: list[Array]
    views: list[list[Array]]


class CpuOptimBlocks(CpuBase):
    """Kernel `step_all` of the backend protocol."""

    def __init__(self) -> None:
        super().__init__()
        self._packs: dict[tuple[Any, ...], list[_Pack]] = {}

    def step_all(
        self,
        kernel: str,
        params: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[Sequence[Array] | None],
        **settings: Any,
    ) -> None:
        """See the protocol."""
        if kernel in _WHOLE:
            super().step_all(kernel, params, grads, states, **settings)
            return
        if kernel == "sgd_step" and states[0] is None and not settings["weight_decay"]:
            _descend(params, grads, -settings["lr"] if settings["maximize"] else settings["lr"])
            return
        step = getattr(self, kernel)
        small: dict[np.dtype[Any], list[int]] = {}
        for i, param in enumerate(params):
            if param.size < _GATHERED and param.dtype.kind == "f" and param.dtype.itemsize >= 4:
                small.setdefault(param.dtype, []).append(i)
                continue
            arrays = [param, grads[i], *(None if s is None else s[i] for s in states)]
            if kernel in _SWEEPING or not _can_be_cut(arrays):
                step_one(step, arrays, settings)
            else:
                _step_in_blocks(step, arrays, settings)
        operands = [params, grads, *states]
        for dtype, members in small.items():
            self._step_gathered(step, dtype, members, operands, settings)

    def _step_gathered(
        self,
        step: Callable[..., None],
        dtype: np.dtype[Any],
        members: list[int],
        operands: Sequence[Sequence[Array] | None],
        settings: dict[str, Any],
    ) -> None:
        held = [o for o in operands if o is not None]
        shapes = tuple([operands[0][i].shape for i in members])  # type: ignore[index]
        for pack in self._layout(dtype, len(held), members, shapes):
            for row, arrays in zip(pack.rows, held, strict=True):
                np.concatenate([arrays[i] for i in pack.members], axis=None, out=row)
            rows = iter(pack.rows)
            step(*[None if o is None else next(rows) for o in operands], **settings)
            for position, (views, arrays) in enumerate(zip(pack.views, held, strict=True)):
                if position != 1:  # the gradient is only read
                    for i, view in zip(pack.members, views, strict=True):
                        arrays[i][...] = view

    def _layout(
        self, dtype: np.dtype[Any], rows: int, members: list[int], shapes: Shapes
    ) -> list[_Pack]:
        """How `members` are gathered into packs of a block each; remembered."""
        key = (dtype, rows, tuple(members), shapes)
        packs = self._packs.get(key)
        if packs is None:
            if len(self._packs) >= _LAYOUTS:
                self._packs.clear()
            packs = self._packs[key] = _lay_out(dtype, rows, members, shapes)
        return packs


def _descend(params: Sequence[Array], grads: Sequence[Array], rate: float) -> None:
    """param -= rate * grad: so little that gathering, or a primitive, would cost more."""
    for param, grad in zip(params, grads, strict=True):
        if param.dtype.kind != "f" or param.dtype.itemsize < 4:
            param[...] = param - rate * grad.astype(np.result_type(grad.dtype, np.float32))
        elif param.size <= _BLOCK or not param.flags.c_contiguous:
            param -= rate * grad
        else:
            flat, slope = param.reshape(-1), grad.reshape(-1)
            for start in range(0, param.size, _BLOCK):
                block = slice(start, start + _BLOCK)
                flat[block] -= rate * slope[block]


def _lay_out(
    dtype: np.dtype[Any], row_count: int, members: list[int], shapes: Shapes
) -> list[_Pack]:
    packs, start = [], 0
    sizes = [int(np.prod(shape)) for shape in shapes]
    while start < len(members):
        stop, total = start, 0
        while stop < len(members) and total + sizes[stop] <= max(_BLOCK, sizes[start]):
            total += sizes[stop]
            stop += 1
        rows = [np.empty(total, dtype) for _ in range(row_count)]
        ends = np.cumsum(sizes[start:stop])
        views = [
            [
                part.reshape(shape)
                for part, shape in zip(np.split(row, ends[:-1]), shapes[start:stop], strict=True)
            ]
            for row in rows
        ]
        packs.append(_Pack(members[start:stop], rows, views))
        start = stop
    return packs


def _can_be_cut(arrays: Sequence[Array | None]) -> bool:
    dtype = arrays[0].dtype  # type: ignore[union-attr]
    contiguous = all(a is None or i == 1 or a.flags.c_contiguous for i, a in enumerate(arrays))
    return contiguous and dtype.kind == "f" and dtype.itemsize >= 4


def _step_in_blocks(
    step: Callable[..., None], arrays: Sequence[Array | None], settings: dict[str, Any]
) -> None:
    """Step one large parameter block by block; a gradient of another layout is copied first."""
    flat = [None if a is None else a.reshape(-1) for a in arrays]
    size = flat[0].size  # type: ignore[union-attr]
    for start in range(0, size, _BLOCK):
        block = slice(start, start + _BLOCK)
        step(*[None if a is None else a[block] for a in flat], **settings)
