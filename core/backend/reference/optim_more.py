"""More optimizer steps in plain array code; the optimizers' docstrings explain the letters.

All arrays have one shape and are changed in place, except `grad`, which is only read. On the CPU
they are called on blocks that fit into the cache (`cpu_optim_blocks.py`), so the temporaries of
these expressions are small and stay there.
"""

from __future__ import annotations

from typing import Any

from ..protocol import Array


def penalized(param: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    """The gradient to descend along: sign and L2 penalty applied; may be `grad` itself."""
    grad = -grad if maximize else grad
    return grad + weight_decay * param if weight_decay else grad


def shrunk(
    param: Array, grad: Array, lr: float, weight_decay: float, decoupled: bool, maximize: bool
) -> Array:
    """As `penalized`; a decoupled weight decay shrinks the parameter itself instead."""
    if not (weight_decay and decoupled):
        return penalized(param, grad, weight_decay, maximize)
    param *= 1 - lr * weight_decay
    return -grad if maximize else grad


def average(held: Array, new: Array, keep: float) -> None:
    """held = keep * held + (1 - keep) * new."""
    held *= keep
    held += (1 - keep) * new


class MoreOptimKernels:
    """Kernels `*_step` of the backend protocol other than SGD's and Adam's."""

    xp: Any

    def rmsprop_step(
        self,
        param: Array,
        grad: Array,
        square_avg: Array,
        momentum_buffer: Array | None,
        grad_avg: Array | None,
        *,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
        maximize: bool,
    ) -> None:
        """Source: Hinton 2012, lecture 6; Graves 2013, equations 38 to 45 (centered)."""
        grad = penalized(param, grad, weight_decay, maximize)
        average(square_avg, grad * grad, alpha)
        spread = square_avg
        if grad_avg is not None:
            average(grad_avg, grad, alpha)
            spread = square_avg - grad_avg * grad_avg
        update = grad / (self.xp.sqrt(spread) + eps)
        if momentum_buffer is not None:
            momentum_buffer *= momentum
            momentum_buffer += update
            update = momentum_buffer
        param -= lr * update

    def adagrad_step(
        self,
        param: Array,
        grad: Array,
        square_sum: Array,
        *,
        lr: float,
        eps: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """Source: Duchi et al. 2011."""
        grad = penalized(param, grad, weight_decay, maximize)
        square_sum += grad * grad
        param -= lr * (grad / (self.xp.sqrt(square_sum) + eps))

    def adadelta_step(
        self,
        param: Array,
        grad: Array,
        square_avg: Array,
        acc_delta: Array,
        *,
        lr: float,
        rho: float,
        eps: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """Source: Zeiler 2012, algorithm 1."""
        sqrt = self.xp.sqrt
        grad = penalized(param, grad, weight_decay, maximize)
        average(square_avg, grad * grad, rho)
        delta = sqrt(acc_delta + eps)
        delta /= sqrt(square_avg + eps)
        delta *= grad
        average(acc_delta, delta * delta, rho)
        param -= lr * delta

    def adamax_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_inf: Array,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """`lr` is already divided by the bias correction. Source: Kingma & Ba 2015, algorithm 2."""
        grad = penalized(param, grad, weight_decay, maximize)
        average(exp_avg, grad, beta1)
        exp_inf *= beta2
        self.xp.maximum(exp_inf, abs(grad) + eps, out=exp_inf)
        param -= lr * (exp_avg / exp_inf)

    def nadam_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
        grad_share: float,
        avg_share: float,
        correction: float,
    ) -> None:
        """param -= lr * (grad_share * g + avg_share * m) / (sqrt(v / correction) + eps).

        Source: Dozat 2016.
        """
        grad = shrunk(param, grad, lr, weight_decay, decoupled, maximize)
        average(exp_avg, grad, beta1)
        average(exp_avg_sq, grad * grad, beta2)
        scale = self.xp.sqrt(exp_avg_sq / correction)
        scale += eps
        update = (lr * grad_share) * grad
        update += (lr * avg_share) * exp_avg
        update /= scale
        param -= update

    def radam_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
        bias_correction: float,
        rectification: float | None,
    ) -> None:
        """`rectification` None: the variance of 1/sqrt(v) is unbounded yet, v does not count.

        Source: Liu et al. 2020, algorithm 2.
        """
        grad = shrunk(param, grad, lr, weight_decay, decoupled, maximize)
        average(exp_avg, grad, beta1)
        average(exp_avg_sq, grad * grad, beta2)
        update = (lr / bias_correction) * exp_avg
        if rectification is not None:
            scale = self.xp.sqrt(exp_avg_sq)
            scale += eps
            update *= rectification
            update /= scale
        param -= update

    def asgd_step(
        self,
        param: Array,
        grad: Array,
        ax: Array,
        *,
        eta: float,
        lambd: float,
        mu: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """Source: Polyak & Juditsky 1992; Bottou's settings as in PyTorch."""
        grad = penalized(param, grad, weight_decay, maximize)
        param *= 1 - lambd * eta
        param -= eta * grad
        if mu == 1:
            ax[...] = param
        else:
            ax += mu * (param - ax)

    def rprop_step(
        self,
        param: Array,
        grad: Array,
        prev: Array,
        step_size: Array,
        *,
        eta_minus: float,
        eta_plus: float,
        step_size_min: float,
        step_size_max: float,
        maximize: bool,
    ) -> None:
        """Source: Riedmiller & Braun 1993, without weight backtracking (Rprop-)."""
        xp = self.xp
        grad = -grad if maximize else grad
        agreement = grad * prev
        turned = agreement < 0
        step_size *= xp.where(
            agreement > 0, step_size.dtype.type(eta_plus), step_size.dtype.type(1)
        )
        step_size *= xp.where(turned, step_size.dtype.type(eta_minus), step_size.dtype.type(1))
        xp.clip(step_size, step_size_min, step_size_max, out=step_size)
        prev[...] = grad
        prev[turned] = 0
        param -= xp.sign(prev) * step_size
