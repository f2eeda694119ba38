"""L-BFGS: a quasi-Newton method for whole batches; calls the closure several times per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import enable_grad
from ..errors import OptionError
from ..tensors import Tensor
from ..tensors.graph import compute_all
from .checks import as_float, check_lr
from .line_search import Point, strong_wolfe
from .optimizer import Optimizer, Params

_LEAST_CURVATURE = 1e-10


class LBFGS(Optimizer):
    r"""L-BFGS with step length `lr`, or with a line search for the strong Wolfe conditions.

    The direction is :math:`-H_t g_t`, where :math:`H_t` approximates the inverse Hessian by the
    last `history_size` differences of parameters and gradients. One group of parameters only.

    Args:
        params: tensors, (name, tensor) pairs, or one dict.
        lr: step length (without line search) or the first one tried, >= 0.
        max_iter: most iterations per `step`.
        max_eval: most calls of the closure per `step`; None: ``max_iter * 5 // 4``.
        tolerance_grad: stop when no element of the gradient is larger.
        tolerance_change: stop when no parameter, or the loss, changes by more.
        history_size: how many differences are remembered.
        line_search_fn: None or "strong_wolfe".

    Raises:
        ValueError: `lr` is negative, or there are several groups.
        OptionError: another `line_search_fn`.

    State, under the first parameter: ``n_iter``, ``func_evals``, ``d`` (direction), ``t`` (step
    length), the lists ``old_dirs``, ``old_stps``, ``ro``, ``al``, ``H_diag``, ``prev_flat_grad``,
    ``prev_loss``.

    Source: Nocedal and Wright 2006, "Numerical optimization", algorithms 7.4 and 7.5.

    >>> from allgrad import optim, tensor
    >>> w = tensor([3.0, -2.0], requires_grad=True)
    >>> optimizer = optim.LBFGS([w], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((w - 1) ** 4).sum()
    ...     loss.backward()
    ...     return loss
    >>> round(optimizer.step(closure).item())
    97
    >>> bool(closure().item() < 1e-4)
    True
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_lr(lr)
        if line_search_fn not in (None, "strong_wolfe"):
            raise OptionError.unknown("line_search_fn", line_search_fn, ("strong_wolfe",))
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Make up to `max_iter` iterations.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns it.

        Returns:
            The loss before the step, as `closure` returned it.
        """
        group = self.param_groups[0]
        state = self.state[group["params"][0]]
        first, loss = self._evaluate(closure)
        grad = self._flat_grad()
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        state["func_evals"] += 1
        if _largest(grad) <= group["tolerance_grad"]:
            return first
        calls = 1
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, grad, group["history_size"])
            last_loss = loss
            t: float = as_float(group["lr"])
            if state["n_iter"] == 1:
                t *= min(1.0, 1.0 / float(np.abs(grad).sum()))
            slope = float(grad @ direction)
            state.update(d=Tensor(direction), t=t, prev_loss=loss)
            state["prev_flat_grad"] = Tensor(grad)
            if slope > -group["tolerance_change"]:
                break
            now = Point(0.0, loss, grad, slope)
            last = iteration == group["max_iter"]
            point, made = self._move(closure, now, direction, t, last)
            loss, grad, state["t"] = point.loss, point.grad, point.t
            calls += made
            state["func_evals"] += made
            if (
                calls >= group["max_eval"]
                or _largest(grad) <= group["tolerance_grad"]
                or _largest(direction * point.t) <= group["tolerance_change"]
                or abs(loss - last_loss) < group["tolerance_change"]
            ):
                break
        return first

    def _move(
        self, closure: Callable[[], Any], now: Point, direction: np.ndarray, t: float, last: bool
    ) -> tuple[Point, int]:
        """Go along `direction`; returns where that led, and how often the closure was called."""
        group = self.param_groups[0]
        if group["line_search_fn"] is None:
            self._add(direction, t)
            if last:  # nobody will look at the loss there
                return now._replace(t=t), 0
            _, loss = self._evaluate(closure)
            return Point(t, loss, self._flat_grad(), 0.0), 1
        origin = [p._array.copy() for p in group["params"]]

        def point_at(length: float) -> Point:
            self._add(direction, length)
            _, loss = self._evaluate(closure)
            grad = self._flat_grad()
            self._put_back(origin)
            return Point(length, loss, grad, float(grad @ direction))

        tolerance = 1e-9
        point, made = strong_wolfe(point_at, now, t, _largest(direction), tolerance)
        self._add(direction, point.t)
        return point, made

    def _direction(self, state: dict[str, Any], grad: np.ndarray, history_size: int) -> np.ndarray:
        """-H @ grad, after the last step's differences were added to the history."""
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
            return -grad
        changes, steps, inverse = state["old_dirs"], state["old_stps"], state["ro"]
        change = grad - state["prev_flat_grad"]._array
        step = state["d"]._array * _same_kind(state["t"], grad)
        curvature = change @ step
        if float(curvature) > _LEAST_CURVATURE:
            if len(changes) == history_size:
                del changes[0], steps[0], inverse[0]
            changes.append(Tensor(change))
            steps.append(Tensor(step))
            inverse.append(Tensor(np.asarray(1.0 / curvature, grad.dtype)))
            state["H_diag"] = Tensor(np.asarray(curvature / (change @ change), grad.dtype))
        shares: list[Any] = state.setdefault("al", [None] * history_size)
        result = -grad
        for i in reversed(range(len(changes))):
            share = (steps[i]._array @ result) * inverse[i]._array
            shares[i] = Tensor(np.asarray(share, grad.dtype))
            result -= share * changes[i]._array
        scale = state["H_diag"]
        result *= scale._array if isinstance(scale, Tensor) else scale
        for i in range(len(changes)):
            back = (changes[i]._array @ result) * inverse[i]._array
            result += steps[i]._array * (shares[i]._array - back)
        return result

    # -- flat vectors and parameters ----------------------------------------------------------

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[Any, float]:
        with enable_grad():
            loss = closure()
        compute_all()
        return loss, float(loss)

    def _flat_grad(self) -> np.ndarray:
        parts = []
        for p in self.param_groups[0]["params"]:
            if p.grad is not None and p.grad._array.shape != p._array.shape:
                raise self._misfit(p, p.grad)
            array = np.zeros_like(p._array) if p.grad is None else p.grad._array
            flat = np.ascontiguousarray(array).reshape(-1)
            parts.append(flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat)
        return np.concatenate(parts)

    def _add(self, direction: np.ndarray, t: float) -> None:
        offset = 0
        for p in self.param_groups[0]["params"]:
            array = p._array
            count = array.size * (2 if array.dtype.kind == "c" else 1)
            part = direction[offset : offset + count] * _same_kind(t, direction)
            if array.dtype.kind == "c":
                part = part.view(array.dtype)
            array += part.reshape(array.shape)
            p._bump_version()
            offset += count

    def _put_back(self, origin: list[np.ndarray]) -> None:
        for p, array in zip(self.param_groups[0]["params"], origin, strict=True):
            p._array[...] = array
            p._bump_version()


def _same_kind(number: Any, like: np.ndarray) -> Any:
    """`number` so that its product with `like` keeps the dtype."""
    return like.dtype.type(float(number))


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0))
