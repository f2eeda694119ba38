"""Losses that compare scores, distances or labels with a margin. Compositions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...backend import ufuncs
from ...backend.arrays import on_device
from ...errors import ArgumentError, DtypeError, ShapeError
from ...ops.elementwise import Minimum
from ...tensors import Tensor, promote
from ...tensors.arithmetic import where
from ...tensors.autocasting import widens
from ...tensors.reductions import norm
from .activation import logsigmoid, softplus
from .checks import need_fit, need_floating, reduced, reduction_of

Flag = bool | None


def _signs(target: Tensor, value: int) -> Tensor:
    """Where the target has the given sign."""
    found: Tensor = target == value
    return found


@widens
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """input where the target is 1, max(0, margin - input) where it is -1, reduced.

    Args:
        input: distances, any shape.
        target: 1 or -1, broadcast.
    """
    name = "hinge_embedding_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_floating(name, input)
    need_fit(name, input, target)
    far = where(target != 1, (margin - input).clamp(min=0), 0.0)
    return reduced(far + where(target != -1, input, 0.0), reduction)


@widens
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1, reduced.

    Args:
        input1, input2: vectors (N, D) or (D).
        target: (N) or ().
        margin: -1 to 1.
    """
    name = "cosine_embedding_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    shapes = (input1._array.shape, input2._array.shape)
    if target.ndim > 1 or any(len(s) != target.ndim + 1 for s in shapes):
        raise ShapeError(
            f"{name}: expected inputs (N, D) with a target (N), or (D) with (), came {shapes[0]}, "
            f"{shapes[1]} and target {target._array.shape}"
        )
    need_fit(name, input1, input2)
    if shapes[0][:-1] != target._array.shape and target.ndim:
        raise ShapeError(f"{name}: inputs {shapes[0]} and {shapes[1]} do not fit a target "
                         f"{target._array.shape}")  # fmt: skip
    tiny = 1e-12
    product = (input1 * input2).sum(-1)
    lengths = ((input1 * input1).sum(-1) + tiny) * ((input2 * input2).sum(-1) + tiny)
    cosine = product / lengths.sqrt()
    near = where(_signs(target, 1), 1 - cosine, 0.0)
    far = where(_signs(target, -1), (cosine - margin).clamp(min=0), 0.0)
    return reduced(near + far, reduction)


@widens
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, -target * (input1 - input2) + margin), reduced; target 1: input1 ranks higher."""
    name = "margin_ranking_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    if not input1.ndim == input2.ndim == target.ndim:
        raise ShapeError(
            f"{name}: expected tensors of as many dimensions, came {tuple(input1.shape)}, "
            f"{tuple(input2.shape)} and target {tuple(target.shape)}"
        )
    need_fit(name, input1, input2, target)
    return reduced((-target * (input1 - input2) + margin).clamp(min=0), reduction)


@widens
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + e**(-target * input)) of targets 1 and -1, reduced."""
    name = "soft_margin_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_floating(name, input)
    need_fit(name, input, target)
    return reduced(softplus(-target * input, threshold=float("inf")), reduction)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the classes (the last dimension) of the binary cross-entropies, reduced.

    Args:
        target: 0 or 1 for each class.
        weight: a factor for each class.
    """
    name = "multilabel_soft_margin_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_fit(name, input, target)
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        loss = loss * weight
    return reduced(loss.sum(-1) / input._array.shape[-1], reduction)


def _classes(name: str, input: Tensor, target: Tensor, target_ndim: int) -> tuple[Tensor, Tensor]:
    """(scores (N, C), integer target with a batch dimension) of a batch or of one sample."""
    shape = input._array.shape
    if len(shape) not in (1, 2) or not shape[-1]:
        raise ShapeError(f"{name}: expected scores (N, C) or (C), came {shape}")
    x = input if len(shape) == 2 else input.unsqueeze(0)
    wanted = x._array.shape[:target_ndim]
    if target._array.size != np.prod(wanted) or target.ndim > target_ndim:
        raise ShapeError(
            f"{name}: input {shape} expects a target of shape {shape[:target_ndim] or '()'}, came "
            f"{target._array.shape}"
        )
    if target._array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected an int64 target, came {target.dtype}")
    need_floating(name, input)
    return x, target.reshape(*wanted)


def _within(name: str, target: np.ndarray, low: int, classes: int) -> None:
    """Raise unless classes are known ones; a GPU's are not looked at."""
    if target.size and not on_device(target) and (target.min() < low or target.max() >= classes):
        raise ShapeError(
            f"{name}: target is out of range: expected {low}..{classes - 1}, came "
            f"{target.min()}..{target.max()}"
        )


@widens
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over classes i != y of max(0, margin - x[y] + x[i])**p, reduced over samples.

    Args:
        input: scores (N, C) or (C).
        target: class indices (N) or ().
        p: 1 or 2.
        weight: a factor for each class, applied by the target's class.
    """
    name = "multi_margin_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    if p not in (1, 2):
        raise ArgumentError(f"{name}: expected p 1 or 2, came {p}")
    x, y = _classes(name, input, target, 1)
    classes = x._array.shape[1]
    if weight is not None and weight._array.shape != (classes,):
        raise ShapeError(
            f"{name}: expected one weight for each of {classes} classes of input "
            f"{tuple(input.shape)}, came {tuple(weight.shape)}"
        )
    _within(name, y._array, 0, classes)
    right = x.gather(1, y.unsqueeze(1))
    excess = (margin - right + x).clamp(min=0)
    excess = excess * excess if p == 2 else excess
    others = Tensor(np.arange(classes, like=y._array) != y._array[:, None])
    loss = where(others, excess, 0.0)
    if weight is not None:
        loss = loss * weight[y].unsqueeze(1)
    loss = loss.sum(1) / classes
    return reduced(loss if input.ndim == 2 else loss.reshape(()), reduction)


@widens
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Sum over labels j and other classes i of max(0, 1 - (x[j] - x[i])) / C, reduced.

    Args:
        input: scores (N, C) or (C).
        target: class indices (N, C) or (C); a row's labels end at its first -1.
    """
    name = "multilabel_margin_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    x, y = _classes(name, input, target, 2)
    classes = x._array.shape[1]
    _within(name, y._array, -1, classes)
    valid = np.cumsum(y._array < 0, axis=1) == 0
    labels = np.where(valid, y._array, 0)
    is_label = np.zeros_like(valid, np.int64)
    rows = np.arange(len(valid), like=valid)[:, None]
    ufuncs.at(np.add, is_label, (rows, labels), valid.astype(np.int64))
    chosen = x.gather(1, Tensor(labels))
    excess = (1 - chosen.unsqueeze(2) + x.unsqueeze(1)).clamp(min=0)
    pairs = Tensor(valid[:, :, None] & (is_label == 0)[:, None, :])
    loss = where(pairs, excess, 0.0).sum((1, 2)) / classes
    return reduced(loss if input.ndim == 2 else loss.reshape(()), reduction)


def _check_triplet(name: str, margin: float, *tensors: Tensor) -> None:
    if margin <= 0:
        raise ArgumentError(f"{name}: expected a margin above 0, came {margin}")
    if len({t.ndim for t in tensors}) != 1:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ShapeError(
            f"{name}: expected anchor, positive and negative of as many dimensions, came {shapes}"
        )
    need_fit(name, *tensors)


@widens
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), reduced.

    Args:
        anchor, positive, negative: vectors (N, D) or (D).
        p: order of the norm that measures distances.
        swap: take d(positive, negative) where it is the smaller one (Balntas et al. 2016).
    """
    name = "triplet_margin_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    _check_triplet(name, margin, anchor, positive, negative)

    return _triplet(
        anchor, positive, negative, lambda a, b: _distance(a, b, p, eps), margin, swap,
        reduction,
    )  # fmt: skip


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with a distance of the user's own (2-norm by default)."""
    name = "triplet_margin_with_distance_loss"
    reduction = reduction_of(name, reduction)
    _check_triplet(name, margin, anchor, positive, negative)
    distance = _distance if distance_function is None else distance_function
    return _triplet(anchor, positive, negative, distance, margin, swap, reduction)


def _distance(a: Tensor, b: Tensor, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    """The p-norm of a - b + eps along the last dimension."""
    length: Tensor = norm(a - b + eps, p, -1)
    return length


def _triplet(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = promote.binary(Minimum(), "triplet_margin_loss", far, distance(positive, negative))
    return reduced((near - far + margin).clamp(min=0), reduction)
