"""Loss functions."""

from __future__ import annotations

from typing import Any

from ... import dtypes
from ...errors import ArgumentError, BoundsError, DtypeError, OptionError, ShapeError
from ...ops import loss as ops
from ...ops.softmax import NLL, SoftTargetCrossEntropy
from ...tensors import Tensor, promote
from ...tensors.graph import apply
from ...tensors.promote import cast

_REDUCTIONS = ("mean", "sum", "none")


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise OptionError.unknown(f"reduction of {name}", reduction, _REDUCTIONS)


def _check_pair(name: str, input: Tensor, target: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"{name}: expected a tensor as target, came {type(target).__name__}")
    if input._array.shape != target._array.shape:
        raise ArgumentError(
            f"{name}: expected a target of the input's shape {input._array.shape}, came "
            f"{target._array.shape}"
        )


def _pair(name: str, op: Any, input: Tensor, target: Tensor) -> Tensor:
    _check_reduction(name, op.reduction)
    if not isinstance(target, Tensor):
        raise TypeError(f"{name}: expected a tensor as target, came {type(target).__name__}")
    a, b = promote.operands(name, input, target)
    if a._array.dtype.kind not in dtypes.DIFFERENTIABLE:
        a, b = (cast(t, dtypes.get_default_dtype().numpy) for t in (a, b))
    try:
        return apply(op, a, b)
    except ValueError as err:
        raise promote.mismatch(name, err, a, b) from err


def _reduced(y: Tensor, reduction: str) -> Tensor:
    return y.mean() if reduction == "mean" else y.sum() if reduction == "sum" else y


def mse_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """(input - target)**2, reduced by "mean", "sum" or "none"."""
    if weight is None:
        return _pair("mse_loss", ops.MSE(reduction), input, target)
    _check_reduction("mse_loss", reduction)
    weighted = _pair("mse_loss", ops.MSE("none"), input, target) * weight
    return weighted.sum() / weight.sum() if reduction == "mean" else _reduced(weighted, reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|input - target|, reduced."""
    return _pair("l1_loss", ops.L1(reduction), input, target)


def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Quadratic below `beta`, linear above, reduced."""
    if beta < 0:
        raise OptionError(f"smooth_l1_loss: expected beta >= 0, came {beta}")
    return _pair("smooth_l1_loss", ops.SmoothL1(reduction, beta), input, target)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """0.5 d**2 below `delta`, delta * (|d| - 0.5 delta) above, reduced."""
    if delta <= 0:
        raise OptionError(f"huber_loss: expected delta > 0, came {delta}")
    return _pair("huber_loss", ops.SmoothL1(reduction, delta, delta), input, target)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p, reduced.

    Raises:
        ShapeError: different shapes.
        RuntimeError: input values outside 0..1.
    """
    _check_pair("binary_cross_entropy", input, target)
    array = input._array
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ShapeError(
            "binary_cross_entropy: expected input values within 0..1, came "
            f"{array.min()}..{array.max()}; use binary_cross_entropy_with_logits for raw outputs"
        )
    if weight is None:
        return _pair("binary_cross_entropy", ops.BCE(reduction), input, target)
    _check_reduction("binary_cross_entropy", reduction)
    return _reduced(_pair("binary_cross_entropy", ops.BCE("none"), input, target) * weight,
                    reduction)  # fmt: skip


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(input), without overflow, reduced.

    Args:
        pos_weight: multiplies the term of positive targets; broadcast against the input.
    """
    name = "binary_cross_entropy_with_logits"
    _check_pair(name, input, target)
    positive = None if pos_weight is None else pos_weight._array
    if weight is None:
        return _pair(name, ops.BCEWithLogits(reduction, positive), input, target)
    _check_reduction(name, reduction)
    return _reduced(_pair(name, ops.BCEWithLogits("none", positive), input, target) * weight,
                    reduction)  # fmt: skip


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """t * (log t - input) of log-probabilities; "batchmean" divides by the batch size."""
    known = (*_REDUCTIONS, "batchmean")
    if reduction not in known:
        raise OptionError.unknown("reduction of kl_div", reduction, known)
    inner = "sum" if reduction == "batchmean" else reduction
    if log_target:
        loss = _reduced(target.exp() * (target - input), inner)
    else:
        loss = _pair("kl_div", ops.KLDiv(inner), input, target)
    return loss / input._array.shape[0] if reduction == "batchmean" else loss


def _check_classes(
    name: str, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> None:
    """Class indices against scores (N, C, *S)."""
    x, t = input._array, target._array
    if t.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected integer class indices as target, came {target.dtype}")
    if x.ndim < 2 or t.shape != (x.shape[0], *x.shape[2:]):
        raise ArgumentError(
            f"{name}: input {x.shape} has {x.shape[1] if x.ndim > 1 else x.shape[0]} classes, "
            f"so a target of shape {(x.shape[0], *x.shape[2:])} was expected, came {t.shape}"
        )
    if weight is not None and weight._array.shape != (x.shape[1],):
        raise ShapeError(
            f"{name}: expected one weight for each of {x.shape[1]} classes, came "
            f"{weight._array.shape}"
        )
    if t.size and (t.min() < 0 or t.max() >= x.shape[1]):
        bad = t[((t < 0) | (t >= x.shape[1])) & (t != ignore_index)]
        if bad.size:
            raise BoundsError(f"{name}: target {bad[0]} is out of bounds for {x.shape[1]} classes")


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood: log-probabilities (N, C, *S), class indices (N, *S).

    Args:
        weight: one factor per class; "mean" divides by the sum of the factors used.
        ignore_index: target value without effect.

    Raises:
        ShapeError, DtypeError, IndexError: target or weight do not fit, named with shapes.
    """
    _check_reduction("nll_loss", reduction)
    if input.ndim == 1:
        one = nll_loss(input.unsqueeze(0), target.reshape(1), weight, ignore_index, reduction)
        return one.reshape(()) if reduction == "none" else one
    _check_classes("nll_loss", input, target, weight, ignore_index)
    return apply(NLL(reduction, ignore_index), input, target, weight)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits (N, C, *S) with class indices (N, *S) or probabilities (N, C, *S).

    Args:
        weight: one factor per class; "mean" divides by the sum of the factors used.
        ignore_index: target value without effect.
        label_smoothing: share of the target that is spread evenly over all classes.

    Raises:
        ShapeError, DtypeError, IndexError: target or weight do not fit, named with shapes.
        ValueError: unknown reduction, or label_smoothing outside 0..1.
    """
    _check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise OptionError(
            f"cross_entropy: expected label_smoothing within 0..1, came {label_smoothing}"
        )
    if target._array.dtype.kind in dtypes.FLOATING:
        _check_pair("cross_entropy", input, target)
        if input.ndim == 1:
            whole = "sum" if reduction == "mean" else reduction
            soft = SoftTargetCrossEntropy(whole, label_smoothing)
            y = apply(soft, input.unsqueeze(0), target.unsqueeze(0), weight)
            return y.reshape(())
        return apply(SoftTargetCrossEntropy(reduction, label_smoothing), input, target, weight)
    if input.ndim == 1:
        one = cross_entropy(
            input.unsqueeze(0), target.reshape(1), weight, ignore_index, reduction,
            label_smoothing,
        )  # fmt: skip
        return one.reshape(())
    _check_classes("cross_entropy", input, target, weight, ignore_index)
    op = NLL(reduction, ignore_index, label_smoothing, logits=True)
    return apply(op, input, target, weight)
