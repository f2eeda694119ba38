"""Comparing gradients with finite differences: `gradcheck` and `gradgradcheck`.

For complex numbers the loss is Re(conj(v) * output), for v = 1 and v = i, and the gradient for an
input z = x + iy is dL/dx + i dL/dy.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import on, to_host
from ..dtypes import DIFFERENTIABLE
from ..errors import AllgradError
from ..tensors import Tensor, graph
from ..tensors.differentiate import grad
from .mode import enable_grad, no_grad

Tensors = Tensor | Sequence[Tensor]


class GradcheckError(AllgradError, RuntimeError):
    """The gradient of a function differs from its finite differences."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensors,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of `func` at `inputs` agree with central finite differences.

    Args:
        func: of the inputs, gives a tensor or several.
        inputs: tensors; those that require grad are checked, in float64 or complex128.
        eps: step of the differences.
        atol, rtol: tolerances, absolute and relative.
        raise_exception: raise where they disagree, instead of returning False.
        nondet_tol: how far two backward passes may differ.
        check_undefined_grad: outputs are differentiated one by one, so the others' gradients are
            undefined in any case; nothing more is done.
        check_grad_dtypes: gradients must have the inputs' dtypes.
        check_backward_ad: must be True, as there is no other mode.
        fast_mode: compare one random projection of the Jacobian instead of all its elements.
        check_batched_grad, check_batched_forward_grad, check_forward_ad, masked: not supported.

    Raises:
        RuntimeError: they disagree.
        ValueError: no input requires grad.

    >>> import allgrad as ag
    >>> x = ag.tensor([0.3, 2.0], dtype=ag.float64, requires_grad=True)
    >>> gradcheck(lambda x: x.sin() * x, x)
    True
    """
    refused = {
        "check_batched_grad": check_batched_grad,
        "check_batched_forward_grad": check_batched_forward_grad,
        "check_forward_ad": check_forward_ad,
        "masked": masked,
    }
    _refuse("gradcheck", refused)
    if not check_backward_ad:
        raise ValueError("gradcheck: check_backward_ad=False leaves nothing to check")
    check = _Check(func, _listed(inputs), eps, atol, rtol, nondet_tol, check_grad_dtypes)
    try:
        check.run(fast_mode)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensors,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Like `gradcheck`, for the gradients of `func` (``create_graph=True``).

    Args:
        grad_outputs: gradients of the outputs; random ones that require grad by default.
        gen_non_contig_grad_outputs: make the random ones non-contiguous in memory.
        check_fwd_over_rev: not supported.
        check_rev_over_rev: must be True.

    >>> import allgrad as ag
    >>> x = ag.tensor([0.3, 2.0], dtype=ag.float64, requires_grad=True)
    >>> gradgradcheck(lambda x: x.sin() * x, x)
    True
    """
    _refuse("gradgradcheck", {"check_fwd_over_rev": check_fwd_over_rev})
    if not check_rev_over_rev:
        raise ValueError("gradgradcheck: check_rev_over_rev=False leaves nothing to check")
    given = _listed(inputs)
    with enable_grad():
        outputs = _differentiable(func(*given))
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        vs = [_random_like(rng, t._array, gen_non_contig_grad_outputs) for t in outputs]
        cotangents = [
            Tensor(on(v, t._array), requires_grad=True) for v, t in zip(vs, outputs, strict=True)
        ]
    else:
        cotangents = _listed(grad_outputs)
    count = len(given)

    def gradients(*values: Any) -> tuple[Any, ...]:
        wanted = [t for t in values[:count] if isinstance(t, Tensor) and t.requires_grad]
        with enable_grad():
            found = grad(
                _differentiable(func(*values[:count])),
                wanted,
                values[count:],
                create_graph=True,
                allow_unused=True,
            )
        return tuple(g for g in found if g is not None)

    return gradcheck(
        gradients,
        [*given, *cotangents],
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        fast_mode=fast_mode,
        masked=masked,
    )


def _refuse(name: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value:
            raise NotImplementedError(f"{name}: {option}={value} is not supported")


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, Tensor) else list(value)


def _differentiable(outputs: Any) -> list[Tensor]:
    return [t for t in _floating(outputs) if t.requires_grad]


def _floating(outputs: Any) -> list[Tensor]:
    listed = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    return [t for t in listed if isinstance(t, Tensor) and t._array.dtype.kind in DIFFERENTIABLE]


def _random_like(rng: np.random.Generator, array: np.ndarray, apart: bool) -> np.ndarray:
    value = rng.standard_normal(array.shape)
    if array.dtype.kind == "c":
        value = value + 1j * rng.standard_normal(array.shape)
    value = np.asarray(value, array.dtype)
    return np.stack([value, value], -1)[..., 0] if apart else value


class _Check:
    def __init__(
        self,
        func: Callable[..., Any],
        inputs: list[Any],
        eps: float,
        atol: float,
        rtol: float,
        nondet_tol: float,
        check_dtypes: bool,
    ) -> None:
        self.func, self.inputs = func, inputs
        self.eps, self.atol, self.rtol = eps, atol, rtol
        self.nondet_tol, self.check_dtypes = nondet_tol, check_dtypes
        self.wanted = [
            (i, t) for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad
        ]
        if not self.wanted:
            raise ValueError(
                "gradcheck: expected at least one input tensor with requires_grad=True, came none"
            )
        for i, t in self.wanted:
            if t._array.dtype.itemsize < (16 if t._array.dtype.kind == "c" else 8):
                warnings.warn(
                    f"gradcheck: input {i} is {t.dtype}; in less than double precision finite "
                    "differences will likely disagree",
                    stacklevel=4,
                )

    def run(self, fast: bool) -> None:
        with enable_grad():
            outputs = _floating(self.func(*self.inputs))
        for k, out in enumerate(outputs):
            pairs = self._projected(k, out) if fast else self._jacobians(k, out)
            for i, analytical, numerical in pairs:
                if not np.allclose(analytical, numerical, self.rtol, self.atol):
                    raise GradcheckError(
                        f"gradcheck: Jacobian mismatch for output {k} with respect to input {i},\n"
                        f"numerical: {numerical}\nanalytical: {analytical}"
                    )

    # -- the whole Jacobian --------------------------------------------------------------------
    def _jacobians(self, k: int, out: Tensor) -> Iterator[tuple[int, Any, Any]]:
        analytical = [self._rows(out, n) for n in range(len(self.wanted))]
        for (i, t), rows in zip(self.wanted, analytical, strict=True):
            yield i, rows, self._columns(k, t, out)

    def _rows(self, out: Tensor, n: int) -> np.ndarray:
        t = self.wanted[n][1]
        rows = []
        for unit, place in itertools.product(_units(out._array), np.ndindex(out._array.shape)):
            v = np.zeros(out._array.shape, out._array.dtype)
            v[place] = unit
            rows.append(self._gradient(out, v)[n].reshape(-1))
        return np.array(rows).reshape(-1, t._array.size)

    def _gradient(self, out: Tensor, v: np.ndarray) -> list[np.ndarray]:
        """The gradients of one output for all inputs, computed twice."""
        tensors = [t for _, t in self.wanted]
        zeros = [np.zeros(t._array.shape, t._array.dtype) for t in tensors]
        if not out.requires_grad:
            return zeros
        once, again = (
            grad(out, tensors, Tensor(there.copy()), retain_graph=True, allow_unused=True)
            for there in (on(v, out._array),) * 2
        )
        results = []
        for (i, t), a, b, zero in zip(self.wanted, once, again, zeros, strict=True):
            if a is None or b is None:
                results.append(zero)
                continue
            if self.check_dtypes and a._array.dtype != t._array.dtype:
                raise GradcheckError(
                    f"gradcheck: the gradient of input {i} is {a.dtype}, the input {t.dtype}"
                )
            first, second = to_host(a._array), to_host(b._array)
            if not np.allclose(first, second, rtol=0, atol=self.nondet_tol, equal_nan=True):
                raise GradcheckError(
                    f"gradcheck: two backward passes gave gradients of input {i} that differ by "
                    f"{np.abs(first - second).max()}; nondet_tol={self.nondet_tol}"
                )
            results.append(first)
        return results

    def _columns(self, k: int, t: Tensor, out: Tensor) -> np.ndarray:
        units = _units(out._array)
        columns = []
        for place in np.ndindex(t._array.shape):
            total: Any = 0
            for unit in _units(t._array):
                direction = np.zeros(t._array.shape, t._array.dtype)
                direction[place] = unit
                slope = self._slope(k, [(t, direction)]).reshape(-1)
                parts = [(np.conj(v) * slope).real for v in units]
                total = total + unit * np.concatenate(parts)
            columns.append(total)
        shape = (t._array.size, len(units) * out._array.size)
        return np.array(columns).reshape(shape).T

    def _slope(self, k: int, moves: list[tuple[Tensor, np.ndarray]]) -> np.ndarray:
        """Central difference of output `k` along a direction of the inputs."""
        graph.compute_all()
        before = [t._array.copy() for t, _ in moves]
        values = []
        with no_grad():
            for step in (self.eps, -self.eps):
                for (t, direction), held in zip(moves, before, strict=True):
                    t._array[...] = held + step * on(direction, held)
                values.append(to_host(_floating(self.func(*self.inputs))[k]._array).copy())
        for (t, _), held in zip(moves, before, strict=True):
            t._array[...] = held
        return np.asarray((values[0] - values[1]) / (2 * self.eps))

    # -- one projection of it ------------------------------------------------------------------
    def _projected(self, k: int, out: Tensor) -> Iterator[tuple[int, Any, Any]]:
        rng = np.random.default_rng(k)
        v = _unit_vector(rng, out._array)
        gradients = self._gradient(out, v)
        for (i, t), g in zip(self.wanted, gradients, strict=True):
            u = _unit_vector(rng, t._array)
            slope = self._slope(k, [(t, u)])
            yield i, float((np.conj(u) * g).real.sum()), float((np.conj(v) * slope).real.sum())


def _units(array: np.ndarray) -> tuple[Any, ...]:
    return (1.0, 1.0j) if array.dtype.kind == "c" else (1.0,)


def _unit_vector(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    value = _random_like(rng, array, False)
    return value / max(float(np.linalg.norm(value.reshape(-1))), 1e-12)
