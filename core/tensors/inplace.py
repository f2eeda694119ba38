"""Changes of a tensor in place: what is allowed, and the history that results.

May import: graph, dtypes, errors. See Note [Views and in-place changes] in `graph.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes
from ..autograd.mode import mode
from ..backend.arrays import is_array, may_share_memory
from ..errors import DtypeError, GradientError, ShapeError
from ..ops.base import Op
from .graph import (
    REFUSALS,
    Place,
    TensorBase,
    Untracked,
    apply,
    compute_all,
    joined,
    link,
    node_of,
    place_of,
    root_of_history,
)
from .together import different, together


class AssignView(Op):
    """A tensor of which a region was overwritten. Inputs: the tensor before, the new value."""

    takes_half = True

    def __init__(self, place: Place) -> None:
        self.place = place

    def backward(self, grad: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        whole, part = self.place.memory(grad, zeros=False)
        whole[...] = grad
        value = part.copy() if self.needs[1] else None
        part[...] = 0
        return (whole if self.needs[0] else None), value


def check_in_place(t: TensorBase, name: str) -> None:
    """Raise unless `t` may be changed in place; run pending ops that still read it.

    Raises:
        GradientError: `t` is, or is a view of, a leaf that requires grad, in a recorded region.
    """
    compute_all()
    if t._base is not None:
        joined(t)
    if type(t._version) is Untracked and not mode.inference:
        raise GradientError(
            f"{name}: a tensor made in inference_mode() cannot be changed in place outside of it; "
            "clone() it first"
        )
    if not mode.enabled:
        return
    root = root_of_history(t)
    if root._requires_grad and root._node is None:
        raise GradientError(
            f"{name}: a leaf tensor that requires grad (or a view of it) cannot be changed in "
            "place while operations are recorded. Do it under no_grad()."
        )


def check_overlap(array: np.ndarray, name: str) -> None:
    """Raise if elements of the memory that is to be overwritten share one place.

    Raises:
        GradientError: as happens in an expanded tensor.
    """
    if (
        0 in array.strides
        and array.size
        and any(step == 0 and n > 1 for step, n in zip(array.strides, array.shape, strict=True))
    ):
        raise GradientError(
            f"{name}: several elements of this expanded tensor share one memory location; "
            "clone() it before writing to it."
        )


def assign(t: TensorBase, value: Any, name: str) -> Any:
    """Overwrite the memory of `t` by the tensor `value`, and its history by value's.

    Raises:
        ShapeError: value's shape does not broadcast to that of `t`.
        DtypeError: value's dtype is of a higher kind, such as float32 for an int64 `t`.
        GradientError: see `check_in_place` and `check_overlap`.
    """
    check_in_place(t, name)
    if value._base is not None:
        joined(value)
    source, target = value._array, t._canonical()
    if dtypes.category(source.dtype) > dtypes.category(target.dtype):
        raise DtypeError(
            f"{name}: result type {dtypes.from_numpy(source.dtype)} cannot be stored in a tensor "
            f"of {dtypes.from_numpy(target.dtype)}"
        )
    if source.ndim or value._requires_grad:  # one number everywhere does no harm
        check_overlap(target, name)
    tracked = mode.enabled and (value._requires_grad or t._requires_grad)
    if tracked and value._node is not None:
        _keep_original(value._node, t)
    if type(source) is not type(target):
        raise different(name, t, value)
    try:
        np.copyto(target, source, casting="unsafe")
    except ValueError:
        raise ShapeError(
            f"{name}: expected a value that broadcasts to {target.shape}, came {source.shape}"
        ) from None
    t._version[0] += 1
    if tracked:
        set_history(t, value)
    return t


def changed(op: Any, name: str, t: Any, rest: tuple[Any, ...], in_place: bool) -> Any:
    """The result of `op`, whose method `write` changes its first input, on `t` and `rest`.

    Args:
        in_place: store it in `t` and return `t`; where nothing is recorded, without a copy.
    """
    if not in_place:
        return apply(op, t, *rest)
    check_in_place(t, name)
    tensors = [r for r in (t, *rest) if isinstance(r, TensorBase)]
    if mode.enabled and any(r._requires_grad or joined_view(r) for r in tensors):
        return assign(t, apply(op, t, *rest), name)
    array = t._canonical()
    check_overlap(array, name)
    arrays = [r._array if isinstance(r, TensorBase) else r for r in rest]
    for i, r in enumerate(arrays):
        if is_array(r) and may_share_memory(r, array):
            arrays[i] = r.copy()
    try:
        with np.errstate(all="ignore"):
            op.write(array, *arrays)
    except REFUSALS:
        moved = together(name, (t, *rest), op)
        if moved is None or moved[0] is not t:
            raise
        return changed(op, name, t, moved[1:], True)
    t._version[0] += 1
    return t


def joined_view(t: TensorBase) -> bool:
    """Whether `t` is a view whose root was changed in place since."""
    return t._base is not None and joined(t)


def _keep_original(op: Op, t: TensorBase) -> None:
    """Copy what `op` saved of the memory of `t`, which is about to be overwritten."""
    version = t._version
    if any(guard[0] is version for guard in op.guards):
        saved = list(op.saved or ())
        for guard in op.guards:
            if guard[0] is version:
                saved[guard[2]] = saved[guard[2]].copy()
        op.saved = tuple(saved)
        op.guards = tuple(guard for guard in op.guards if guard[0] is not version)


def set_history(t: TensorBase, value: TensorBase) -> None:
    """Give `t`, whose memory now holds `value`, the history of `value`."""
    root = root_of_history(t)
    if root is t:
        node = node_of(value)
        if node is not None and value._array.shape == t._array.shape:
            t._node, t._slot, t._requires_grad = node, value._slot, True
            t._generation += 1
        else:
            _assign_region(t, t, value)
        return
    _assign_region(root, t, value)
    node_of(t)


def _assign_region(root: TensorBase, t: TensorBase, value: TensorBase) -> None:
    op = AssignView(place_of(t, root))
    link(op, (root, value))
    op.shape, op.dtype = root._array.shape, root._array.dtype
    root._node, root._slot, root._requires_grad = op, 0, True
    root._generation += 1
