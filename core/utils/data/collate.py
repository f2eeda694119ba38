"""Samples become a batch.

Stage: after the data set. Keeps the memory layout: images that are channels-last in memory give a
channels-last batch, which is what the convolution kernels want, at the price of one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...tensors import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples along a new first axis, field by field.

    Args:
        batch: non-empty sequence of samples of one structure: tensors, NumPy arrays and scalars,
            numbers, strings, and mappings, tuples or lists of these.

    Returns:
        The same structure of tensors: numbers give int64 or float64, booleans bool; tuples become
        lists (named tuples stay); strings and bytes stay a sequence of them.

    Raises:
        ShapeError: fields of different shapes or lengths. TypeError: something else in a sample.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        if any(t.requires_grad for t in batch):
            from ... import stack  # the graph must be kept; rare, so not imported above

            return stack(list(batch))
        return Tensor(_stack([t._array for t in batch]))
    if isinstance(first, np.ndarray):
        return Tensor(_stack(batch))
    if isinstance(first, bool | np.bool_):
        return Tensor(np.array(batch, dtype=np.bool_))
    if isinstance(first, int):
        return Tensor(np.array(batch, dtype=np.int64))
    if isinstance(first, float) and not isinstance(first, np.floating):
        return Tensor(np.array(batch, dtype=np.float64))
    if isinstance(first, np.generic):
        return Tensor(np.array(batch, dtype=first.dtype))
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return _like(first, {k: default_collate([sample[k] for sample in batch]) for k in first})
    if isinstance(first, tuple | list):
        return _collate_sequences(first, batch)
    raise TypeError(
        "default_collate: expected tensors, arrays, numbers, strings, mappings or sequences in a "
        f"sample, came {type(first).__name__}; give DataLoader a collate_fn"
    )


def _collate_sequences(first: Any, batch: Sequence[Any]) -> Any:
    lengths = {len(sample) for sample in batch}
    if len(lengths) > 1:
        raise ShapeError(f"default_collate: samples have {sorted(lengths)} fields in one batch")
    columns = [default_collate(column) for column in zip(*batch, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else columns


def _like(first: Mapping[Any, Any], fields: dict[Any, Any]) -> Any:
    """`fields` in the mapping type of the samples where that type can be built from a dict."""
    if type(first) is dict:
        return fields
    try:
        return type(first)(fields)  # type: ignore[call-arg]
    except TypeError:
        return fields


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    first = arrays[0]
    for position, array in enumerate(arrays):
        if array.shape != first.shape:
            raise ShapeError(
                f"default_collate: sample 0 of the batch has shape {first.shape}, sample "
                f"{position} has {array.shape}; a transform must bring them to one size, or give "
                "DataLoader a collate_fn"
            )
    if first.ndim == 3 and not first.flags.c_contiguous:
        inside = [a.transpose(1, 2, 0) for a in arrays]
        if inside[0].flags.c_contiguous:
            return _stack_contiguous(inside).transpose(0, 3, 1, 2)
    return _stack_contiguous(arrays)


def _stack_contiguous(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if arrays[0].ndim == 0:
        return np.array(arrays) if type(arrays[0]) is np.ndarray else np.stack(arrays)
    # One concatenation is about three times faster than np.stack, which reshapes every array.
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def default_convert(data: Any) -> Any:
    """Turn the arrays inside one sample into tensors and leave the rest (`batch_size=None`)."""
    if isinstance(data, np.ndarray | np.generic):
        return Tensor(np.asarray(data))
    if isinstance(data, Mapping):
        return _like(data, {k: default_convert(v) for k, v in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(v) for v in data))
    if isinstance(data, tuple | list):
        return [default_convert(v) for v in data]
    return data
