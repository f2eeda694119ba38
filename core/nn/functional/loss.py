"""Loss functions."""

from __future__ import annotations

from typing import Any

from ...backend.arrays import on_device
from ...errors import ArgumentError, BoundsError, DtypeError, ShapeError
from ...ops import loss as ops
from ...ops.softmax import NLL, SoftTargetCrossEntropy
from ...tensors import Tensor, promote
from ...tensors.autocasting import widens
from ...tensors.graph import apply
from .checks import (
    REDUCTIONS,
    need_floating,
    need_same_shape,
    need_tensor,
    reduced,
    reduction_of,
    warn_of_broadcast,
)

Flag = bool | None


def _pair(name: str, op: Any, input: Tensor, target: Tensor) -> Tensor:
    need_tensor(name, target=target)
    if input._array.shape != target._array.shape:
        warn_of_broadcast(name, input, target)
    need_floating(name, input)
    a, b = promote.operands(name, input, target)
    try:
        return apply(op, a, b)
    except ValueError as err:
        raise promote.mismatch(name, err, a, b) from err


def _weighted(name: str, op: Any, input: Tensor, target: Tensor, weight: Tensor,
              reduction: str) -> Tensor:  # fmt: skip
    """A pair loss with one factor for each element; "mean" divides by their sum."""
    loss = _pair(name, op, input, target) * weight
    return loss.sum() / weight.sum() if reduction == "mean" else reduced(loss, reduction)


@widens
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)**2, reduced by "mean", "sum" or "none".

    Args:
        input, target: floating tensors of one shape (others are broadcast, with a warning).
        size_average, reduce: deprecated; see `reduction`.
        reduction: "mean", "sum" or "none".
        weight: a factor for each element; "mean" divides by the sum of the factors.

    Raises:
        ShapeError: shapes that do not broadcast.
        ValueError: an unknown reduction.
    """
    reduction = reduction_of("mse_loss", reduction, size_average, reduce)
    if weight is None:
        return _pair("mse_loss", ops.MSE(reduction), input, target)
    return _weighted("mse_loss", ops.MSE("none"), input, target, weight, reduction)


@widens
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|, reduced; arguments as `mse_loss`."""
    reduction = reduction_of("l1_loss", reduction, size_average, reduce)
    if weight is None:
        return _pair("l1_loss", ops.L1(reduction), input, target)
    return _weighted("l1_loss", ops.L1("none"), input, target, weight, reduction)


@widens
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Quadratic below `beta`, linear above, reduced; other arguments as `mse_loss`."""
    reduction = reduction_of("smooth_l1_loss", reduction, size_average, reduce)
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: expected beta >= 0, came {beta}")
    return _pair("smooth_l1_loss", ops.SmoothL1(reduction, beta), input, target)


@widens
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """0.5 d**2 below `delta`, delta * (|d| - 0.5 delta) above, reduced."""
    reduction = reduction_of("huber_loss", reduction)
    if delta <= 0:
        raise ArgumentError(f"huber_loss: expected delta > 0, came {delta}")
    if weight is None:
        return _pair("huber_loss", ops.SmoothL1(reduction, delta, delta), input, target)
    op = ops.SmoothL1("none", delta, delta)
    return _weighted("huber_loss", op, input, target, weight, reduction)


@widens
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p, reduced.

    Args:
        weight: a factor for each element, broadcast.

    Raises:
        ValueError: different shapes, or an unknown reduction.
        RuntimeError: input values outside 0..1 (on a GPU, where looking at them would wait for
            the device, they give nan), or another dtype of the target.
    """
    name = "binary_cross_entropy"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_same_shape(name, input, target)
    array = input._array
    if target._array.dtype != array.dtype:
        raise DtypeError(f"{name}: expected a target of {input.dtype} as the input, came "
                         f"{target.dtype}")  # fmt: skip
    if array.size and not on_device(array) and not (array.min() >= 0 and array.max() <= 1):
        raise ShapeError(
            "binary_cross_entropy: expected input values within 0..1, came "
            f"{array.min()}..{array.max()}; use binary_cross_entropy_with_logits for raw outputs"
        )
    if weight is None:
        return _pair(name, ops.BCE(reduction), input, target)
    return reduced(_pair(name, ops.BCE("none"), input, target) * weight, reduction)


@widens
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(input), without overflow, reduced.

    Args:
        weight: a factor for each element, broadcast.
        pos_weight: multiplies the term of positive targets; broadcast against the input.

    Raises:
        ValueError: different shapes, or an unknown reduction.
        RuntimeError: the target is not floating, or `pos_weight` does not broadcast.
    """
    name = "binary_cross_entropy_with_logits"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_same_shape(name, input, target)
    if target._array.dtype.kind in "iub":
        raise DtypeError(f"{name}: expected a floating target as {input.dtype} of the input, came "
                         f"{target.dtype}; convert it with .float()")  # fmt: skip
    positive = None if pos_weight is None else pos_weight._array
    if weight is None:
        return _pair(name, ops.BCEWithLogits(reduction, positive), input, target)
    op = ops.BCEWithLogits("none", positive)
    return reduced(_pair(name, op, input, target) * weight, reduction)


@widens
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """t * (log t - input) of log-probabilities; "batchmean" divides by the batch size."""
    known = (*REDUCTIONS, "batchmean")
    reduction = reduction_of("kl_div", reduction, size_average, reduce, known)
    inner = "sum" if reduction == "batchmean" else reduction
    if log_target:
        loss = reduced(target.exp() * (target - input), inner)
    else:
        need_floating("kl_div", input)
        a, b = promote.operands("kl_div", input, target)
        loss = promote.binary(ops.KLDiv(inner), "kl_div", a, b)
    return loss / input._array.shape[0] if reduction == "batchmean" else loss


def _check_weight(name: str, input: Tensor, weight: Tensor | None, classes: int) -> None:
    """One factor for each class, of the input's dtype."""
    if weight is None:
        return
    if weight._array.shape != (classes,):
        raise ShapeError(
            f"{name}: expected one weight for each of {classes} classes of input "
            f"{input._array.shape}, came {weight._array.shape}"
        )
    if weight._array.dtype != input._array.dtype:
        raise DtypeError(f"{name}: input is {input.dtype}, weight {weight.dtype}; expected one "
                         "dtype")  # fmt: skip


def _check_classes(
    name: str, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> None:
    """Class indices against scores (N, C, *S)."""
    x, t = input._array, target._array
    if x.dtype.kind in "iub":
        need_floating(name, input)
    if x.ndim < 2 or t.shape != (x.shape[0], *x.shape[2:]):
        # PyTorch raises ValueError for batch sizes and RuntimeError for the rest.
        floating = t.dtype.kind not in "iub"
        raise ArgumentError(
            f"{name}: input {x.shape} has {x.shape[1] if x.ndim > 1 else x.shape[0]} classes, "
            f"so a target of shape {(x.shape[0], *x.shape[2:])} was expected, came {t.shape}"
            + (f" (or probabilities of shape {x.shape})" if floating else "")
        )
    if t.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected integer class indices as target, came {target.dtype}")
    _check_weight(name, input, weight, x.shape[1])
    # On a GPU they are not looked at, which would wait for it: a class that there is not gives NaN.
    if t.size and not on_device(t) and (t.min() < 0 or t.max() >= x.shape[1]):
        bad = t[((t < 0) | (t >= x.shape[1])) & (t != ignore_index)]
        if bad.size:
            raise BoundsError(f"{name}: target {bad[0]} is out of bounds for {x.shape[1]} classes")


@widens
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood: log-probabilities (N, C, *S), class indices (N, *S).

    Args:
        weight: one factor per class; "mean" divides by the sum of the factors used.
        size_average, reduce: deprecated; see `reduction`.
        ignore_index: target value without effect.

    Raises:
        ValueError: batch sizes differ, or an unknown reduction.
        ShapeError, DtypeError, IndexError: target or weight do not fit, named with shapes.
    """
    name = "nll_loss"
    reduction = reduction_of(name, reduction, size_average, reduce)
    need_tensor(name, target=target)
    if input.ndim == 0:
        raise ArgumentError(f"{name}: expected 1 or more dimensions (C) or (N, C), came ()")
    if input.ndim == 1:
        one = nll_loss(
            input.unsqueeze(0), _only(name, input, target), weight, None, ignore_index, None,
            reduction,
        )  # fmt: skip
        return one.reshape(()) if reduction == "none" else one
    _check_classes(name, input, target, weight, ignore_index)
    return apply(NLL(reduction, ignore_index), input, target, weight)


def _only(name: str, input: Tensor, target: Tensor) -> Tensor:
    """The target of a single sample, as a batch of one."""
    if target.numel() != 1:
        raise ArgumentError(
            f"{name}: input {tuple(input.shape)} is one sample, so a target with one class was "
            f"expected, came {tuple(target.shape)}"
        )
    one: Tensor = target.reshape(1)
    return one


@widens
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits (N, C, *S) with class indices (N, *S) or probabilities (N, C, *S).

    Args:
        weight: one factor per class; "mean" divides by the sum of the factors used.
        size_average, reduce: deprecated; see `reduction`.
        ignore_index: target value without effect; not for probabilities.
        label_smoothing: share of the target that is spread evenly over all classes.

    Raises:
        ShapeError, DtypeError, IndexError: target or weight do not fit, named with shapes.
        ValueError: unknown reduction, or label_smoothing outside 0..1.
    """
    reduction = reduction_of("cross_entropy", reduction, size_average, reduce)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(
            f"cross_entropy: expected label_smoothing within 0..1, came {label_smoothing}"
        )
    need_tensor("cross_entropy", target=target)
    if target._array.dtype.kind not in "iub" and input._array.shape == target._array.shape:
        return _soft_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    if input.ndim == 1:
        one = cross_entropy(
            input.unsqueeze(0), _only("cross_entropy", input, target), weight, None, ignore_index,
            None, reduction, label_smoothing,
        )  # fmt: skip
        return one.reshape(())
    _check_classes("cross_entropy", input, target, weight, ignore_index)
    op = NLL(reduction, ignore_index, label_smoothing, logits=True)
    return apply(op, input, target, weight)


def _soft_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Tensor:
    """Cross-entropy with class probabilities."""
    name = "cross_entropy"
    need_floating(name, input)
    if ignore_index >= 0:
        raise ArgumentError(f"{name}: ignore_index={ignore_index} has no meaning for targets that "
                            "are class probabilities")  # fmt: skip
    classes = input._array.shape[min(1, input.ndim - 1)]
    _check_weight(name, input, weight, classes)
    if input._array.dtype != target._array.dtype:
        input, target = promote.operands(name, input, target)
    if input.ndim == 1:
        whole = SoftTargetCrossEntropy("sum" if reduction == "mean" else reduction, smoothing)
        y = apply(whole, input.unsqueeze(0), target.unsqueeze(0), weight)
        return y.reshape(())
    return apply(SoftTargetCrossEntropy(reduction, smoothing), input, target, weight)
