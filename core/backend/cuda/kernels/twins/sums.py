"""Twins of `sums.cu`."""

from __future__ import annotations

from ....protocol import Array
from .arrays import named, wide


def sum_columns(x: Array, partial: Array, rows: int, cols: int, chunk: int, vector: int) -> None:
    matrix = wide(x[: rows * cols]).reshape(rows, cols)
    for k, start in enumerate(range(0, int(rows), int(chunk))):
        partial[k * cols : (k + 1) * cols] = matrix[start : start + chunk].sum(axis=0)


def finish_columns(partial: Array, out: Array, chunks: int, cols: int) -> None:
    matrices = partial.reshape(-1, chunks, cols)
    out[:] = matrices.sum(axis=1).ravel()


def sum_rows(x: Array, out: Array, rows: int, cols: int, threads: int) -> None:
    out[:rows] = wide(x[: rows * cols]).reshape(rows, cols).sum(axis=1)


TWINS = named(sum_columns, finish_columns, sum_rows)
