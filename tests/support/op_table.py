"""The table of ops: one row per behaviour, from which `test_op_table.py` builds its tests.

A function of a row is written once for both libraries: `lib` is allgrad or torch, `F` the
functional module of the same library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.inputs import Spec


@dataclass(frozen=True)
class Row:
    """A function of tensors and the ops that it is made of.

    Attributes:
        name: unique name of the row.
        ops: names of the Op classes that must be met in its graph.
        function: (lib, F, *tensors) -> tensor or tuple of tensors.
        inputs: specifications of the tensors.
        torch: whether PyTorch computes the same (random ops do not).
        torch_rounds: PyTorch has constants of single precision in its float64 kernel.
        batches: batch sizes, beside the usual one, that must work.
        differentiable: whether there is a gradient that finite differences can see.
    """

    name: str
    ops: tuple[str, ...]
    function: Callable[..., Any]
    inputs: tuple[Spec, ...]
    torch: bool = True
    torch_rounds: bool = False
    batches: tuple[int, ...] = (0, 1)
    differentiable: bool = True


def row(name: str, ops: str, function: Callable[..., Any], *inputs: Spec, **options: Any) -> Row:
    """A row whose ops are given as one string."""
    return Row(name, tuple(ops.split()), function, inputs, **options)


def all_rows() -> list[Row]:
    """Every row of every family."""
    from support import (
        rows_double,
        rows_elementwise,
        rows_functions,
        rows_index,
        rows_linalg,
        rows_losses,
        rows_margins,
        rows_moves,
        rows_network,
        rows_recurrent,
        rows_resampling,
        rows_shape,
    )

    families = (
        rows_elementwise,
        rows_functions,
        rows_index,
        rows_moves,
        rows_shape,
        rows_network,
        rows_recurrent,
        rows_linalg,
        rows_losses,
        rows_margins,
        rows_resampling,
        rows_double,
    )
    rows = [r for family in families for r in family.ROWS]
    names = [r.name for r in rows]
    assert len(set(names)) == len(names), "two rows of one name"
    return rows
