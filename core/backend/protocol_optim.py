"""The part of the backend protocol that steps parameters.

`step_all` is what the optimizers call; the `*_step` kernels are what it can be asked for. A kernel
changes `param` and the state arrays in place and only reads `grad`; all have one shape. Settings
are Python numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class OptimBackend(Protocol):
    """Kernels of the optimizers."""

    def step_all(
        self,
        kernel: str,
        params: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[Sequence[Array] | None],
        **settings: Any,
    ) -> None:
        """Call `kernel` for all parameters, cut and gathered into arrays of a size that is fast.

        Args:
            kernel: name of one of the kernels below.
            params, grads: arrays of any shapes and strides; narrow floats are stepped in float32.
            states: for every state argument of the kernel its arrays, or None.
            settings: the kernel's keyword arguments.
        """
        ...

    def sgd_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array | None,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        maximize: bool,
        first: bool,
    ) -> None:
        """One SGD step in place; `first` fills the momentum buffer with the gradient."""
        ...

    def adam_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        max_exp_avg_sq: Array | None,
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
    ) -> None:
        """One Adam (or, `decoupled`, AdamW) step in place; `step` counts from 1."""
        ...

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
        """One RMSprop step; centered when `grad_avg` is given."""
        ...

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
        """One Adagrad step; `lr` is the rate already decayed."""
        ...

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
        """One Adadelta step."""
        ...

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
        """One Adamax step; `lr` is already divided by the bias correction."""
        ...

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
        """param -= lr * (grad_share * g + avg_share * m) / (sqrt(v / correction) + eps)."""
        ...

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
        """One RAdam step; without `rectification` the second moment does not count yet."""
        ...

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
        """One averaged SGD step: `ax` moves by the share `mu` towards the new parameter."""
        ...

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
        """One Rprop step: `step_size` grows or shrinks by the sign of grad * prev."""
        ...

    def lars_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
        eps: float,
        nesterov: bool,
        maximize: bool,
        adapt: bool,
    ) -> None:
        """One LARS step; without `adapt` neither trust ratio nor weight decay."""
        ...

    def lamb_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bounds: tuple[float, float] | None,
        maximize: bool,
        adapt: bool,
    ) -> None:
        """One LAMB step; `bounds` limit the norm of the parameter; `adapt` as in `lars_step`."""
        ...

    def adafactor_step(
        self,
        param: Array,
        grad: Array,
        row_var: Array | None,
        col_var: Array | None,
        variance: Array | None,
        *,
        step: int,
        lr: float,
        beta2_decay: float,
        eps1: float,
        eps2: float,
        d: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """One Adafactor step: `row_var` and `col_var` for matrices, else `variance`."""
        ...

    def muon_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array,
        *,
        lr: float,
        adjusted_lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        coefficients: tuple[float, float, float],
        eps: float,
        steps: int,
    ) -> None:
        """One Muon step: the momentum, made orthogonal, times `adjusted_lr`."""
        ...
