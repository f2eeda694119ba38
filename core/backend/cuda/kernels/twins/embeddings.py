"""Twins of `embedding.cu`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named, wide


def embedding_rows(
    table: Array, indices: Array, out: Array, n: int, row_bytes: int, rows: int
) -> None:
    source = table.view(np.uint8).reshape(int(rows), int(row_bytes))
    target = out.view(np.uint8).reshape(int(n), int(row_bytes))
    there = (indices >= 0) & (indices < rows)
    target[:] = np.where(there[:, None], source[np.where(there, indices, 0)], np.uint8(255))


def embedding_links(indices: Array, n: int, next: Array, first: Array) -> None:
    embedding_links_sorted(indices, np.argsort(indices[:n], kind="stable"), n, next, first)


def embedding_links_sorted(
    indices: Array,
    order: Array,
    n: int,
    next: Array,
    first: Array,
) -> None:
    ordered = indices[order]
    same = ordered[1:] == ordered[:-1]
    next[order] = np.append(np.where(same, order[1:], -1), -1)
    first[order] = np.append(True, ~same)


def embedding_sums(
    grad: Array,
    indices: Array,
    next: Array,
    first: Array,
    out: Array,
    cols: int,
    rows: int,
    padding: int,
    by_frequency: int,
) -> None:
    values, result = wide(grad).reshape(-1, int(cols)), out.reshape(int(rows), int(cols))
    for begin in np.flatnonzero(first):
        row, total, count, i = int(indices[begin]), np.zeros(int(cols), np.float32), 0, int(begin)
        if row == padding or not 0 <= row < rows:
            continue
        while i >= 0:
            total += values[i]
            count, i = count + 1, int(next[i])
        result[row] = total / np.float32(count) if by_frequency else total


TWINS = named(embedding_rows, embedding_links, embedding_links_sorted, embedding_sums)
