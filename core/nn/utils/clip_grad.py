"""Gradient clipping, between ``backward`` and ``step``. Imports tensors."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable

import numpy as np

from ...backend import arrays
from ...errors import GradientError, OptionError, Unsupported
from ...tensors import Tensor

Tensors = Tensor | Iterable[Tensor]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients by ``min(1, max_norm / (norm + 1e-6))``, in place.

    Args:
        parameters: tensors whose ``.grad`` is changed; those without one are skipped.
        max_norm: largest norm of all gradients taken as one vector.
        norm_type: p of the p-norm; ``float("inf")`` for the largest absolute value.
        error_if_nonfinite: refuse a norm that is NaN or infinite.
        foreach: choice between PyTorch's implementations; accepted, no effect.

    Returns:
        The norm before clipping, shape (), dtype of the first gradient.

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set.
        ValueError: `norm_type` is not positive.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1.

    >>> from allgrad import tensor
    >>> w = tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> clip_grad_norm_([w], max_norm=1.0).item()
    10.0
    """
    if isinstance(parameters, types.GeneratorType):
        parameters = list(parameters)
        if not parameters:
            warnings.warn(
                "`parameters` is an empty generator, no gradient clipping will occur. Was it "
                "used before?",
                stacklevel=2,
            )
    tensors = _listed(parameters)
    grads = _grads(tensors)
    index = _one_gpu(grads)
    if index is not None and float(norm_type) == 2.0:
        total = _clip_there(grads, float(max_norm), index, error_if_nonfinite)
        if total is not None:
            return total
    total = get_total_norm(grads, norm_type, error_if_nonfinite)
    clip_grads_with_norm_(tensors, max_norm, total)
    return total


def _one_gpu(tensors: list[Tensor]) -> int | None:
    """The GPU on which all are; None in main memory or where they are on several."""
    if not arrays.known() or not tensors:
        return None
    found = {arrays.index_of(t._array) for t in tensors}
    return found.pop() if len(found) == 1 else None


def _clip_there(grads: list[Tensor], max_norm: float, index: int, check: bool) -> Tensor | None:
    """Clip on the GPU without waiting for it (unless `check`); None where kernels do not serve."""
    from ...backend.cuda import grads as kernels  # noqa: PLC0415 - needs CuPy

    listed = [g._array for g in grads]
    try:
        found = kernels.norm(listed, index, max_norm)
        if check:
            _refuse_nonfinite(float(found[0]), 2.0, listed)
        kernels.clip(listed, index, found[1:2])
    except Unsupported:
        return None
    for grad in grads:
        grad._bump_version()
    return Tensor(found[0].astype(listed[0].dtype))


def _refuse_nonfinite(total: float, p: float, listed: list[np.ndarray]) -> None:
    if not math.isfinite(total):
        bad = [i for i, a in enumerate(listed) if not math.isfinite(_norm(a, p))]
        raise GradientError(
            f"The total norm of order {p} for gradients from `parameters` is non-finite "
            f"({total}; gradients number {bad}), so it cannot be clipped. To disable this error "
            "and scale the gradients by the non-finite norm anyway, set error_if_nonfinite=False"
        )


def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """The second half of `clip_grad_norm_`, with a norm that is known already.

    Args:
        parameters, max_norm, foreach: as `clip_grad_norm_`.
        total_norm: the norm, one element.
    """
    grads = _grads(_listed(parameters))
    if _one_gpu(grads) is not None:
        total = total_norm.to(grads[0].device)._array.astype(np.float64).reshape(())
        limited = np.minimum(float(max_norm) / (total + 1e-6), 1.0)
        for grad in grads:
            grad._array *= limited.astype(grad._array.dtype)
            grad._bump_version()
        return
    factor = float(max_norm) / (total_norm.item() + 1e-6)
    if factor >= 1.0:  # NaN goes on, as in PyTorch: it must show in the gradients
        return
    with np.errstate(invalid="ignore"):
        for grad in grads:
            grad._array *= factor
            grad._bump_version()


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value], in place.

    Args:
        parameters: tensors whose ``.grad`` is changed; those without one are skipped.
        clip_value: the limit, >= 0.
        foreach: choice between PyTorch's implementations; accepted, no effect.
    """
    limit = float(clip_value)
    for grad in _grads(_listed(parameters)):
        np.clip(grad._array, -limit, limit, out=grad._array)
        grad._bump_version()


def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The p-norm of all `tensors` taken as one vector.

    Args:
        tensors: any shapes; an empty list has norm 0.
        norm_type, error_if_nonfinite, foreach: as `clip_grad_norm_`.

    Returns:
        Shape (), dtype of the first tensor. Partial sums are float64.

    Raises:
        RuntimeError, ValueError: as `clip_grad_norm_`.
    """
    p = float(norm_type)
    if not p > 0:
        raise OptionError(f"norm_type: expected a number above 0, or infinity, came {norm_type}")
    given = _listed(tensors)
    index = _one_gpu(given)
    if index is not None:
        return _norm_there(given, p, index, error_if_nonfinite)
    listed = [t._array for t in given]
    norms = [_norm(a, p) for a in listed]
    total = _norm(np.array(norms, dtype=np.float64), p) if norms else 0.0
    if error_if_nonfinite:
        _refuse_nonfinite(total, p, listed)
    return Tensor(np.asarray(total, dtype=listed[0].dtype if listed else np.float32))


def _norm_there(tensors: list[Tensor], p: float, index: int, check: bool) -> Tensor:
    """`get_total_norm` of tensors on one GPU."""
    from ...backend.cuda import grads as kernels  # noqa: PLC0415 - needs CuPy

    listed = [t._array for t in tensors]
    try:
        if p != 2.0:
            raise Unsupported("another order")
        total = kernels.norm(listed, index)[0]
    except Unsupported:
        sizes = [abs(a).astype(np.float64).ravel() for a in listed if a.size]
        if p == math.inf:
            total = np.max(np.stack([s.max() for s in sizes]))
        else:
            total = np.sum(np.stack([(s**p).sum() for s in sizes])) ** (1 / p)
    if check:
        _refuse_nonfinite(float(total), p, listed)
    return Tensor(total.astype(listed[0].dtype))


def _norm(array: np.ndarray, p: float) -> float:
    flat = array.ravel(order="K")  # a view, also of channels-last memory
    if flat.size == 0:
        return 0.0
    if p == 2.0:
        # dot runs at memory speed; its sum may leave the range of the dtype, then scale first
        square = float(np.vdot(flat, flat).real)
        if 1e-30 < square < math.inf and flat.dtype != np.float16:
            return math.sqrt(square)
    size = np.abs(flat)
    top = float(size.max())
    if p == math.inf or top == 0.0 or not math.isfinite(top):
        return top
    scaled = size.astype(np.float64) / top
    total = float(np.sum(scaled**p))
    return top * math.pow(total, 1.0 / p)


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _grads(tensors: list[Tensor]) -> list[Tensor]:
    return [t.grad for t in tensors if t.grad is not None]
