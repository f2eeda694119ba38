"""The seam between ops and libraries: every kernel that an op may ask for, by name.

Ops call these and never name a library or a device. Arrays have logical shape (N, C, spatial...)
and ANY strides; what comes back is logical (N, C, spatial...) too, and may be channels-last in
memory. Per-dimension arguments are tuples with one entry per spatial dimension (1 to 3).
`activation` is None or "relu". A kernel that cannot serve a call raises `errors.Unsupported`.

See Note [Layout] in `tensors/tensor.py` for who may see channels-last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .protocol_optim import Array as Array
from .protocol_optim import OptimBackend
from .protocol_recurrent import AttentionBackend, RecurrentBackend
from .protocol_softmax import (
    ActivationBackend,
    DropoutBackend,
    EmbeddingBackend,
    SoftmaxBackend,
)

Dims = tuple[int, ...]


class Backend(
    OptimBackend,
    RecurrentBackend,
    AttentionBackend,
    ActivationBackend,
    DropoutBackend,
    EmbeddingBackend,
    SoftmaxBackend,
    Protocol,
):
    """Kernels of one device; one instance per thread."""

    name: str
    xp: Any

    # -- convolution and matrix product -----------------------------------------------------
    def conv_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        activation: str | None = None,
    ) -> Array:
        """Cross-correlation. x (N, C, *S), weight (O, C/groups, *K), bias (O) -> (N, O, *S')."""
        ...

    def conv_backward_input(
        self,
        grad_y: Array,
        weight: Array,
        x_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
    ) -> Array:
        """Gradient of `conv_forward` for x; also the forward of a transposed convolution."""
        ...

    def conv_backward_weight(
        self,
        grad_y: Array,
        x: Array,
        weight_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        with_bias: bool,
        out: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Gradients for weight (C-contiguous, in `out` if given) and bias."""
        ...

    def linear_forward(
        self, x: Array, weight: Array, bias: Array | None, activation: str | None = None
    ) -> Array:
        """x (M, K) @ weight (N, K).T + bias (N) -> (M, N)."""
        ...

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """a @ b, both with at least two dimensions; leading ones broadcast."""
        ...

    def sum_to_channels(self, grad_y: Array) -> Array:
        """Sum over every axis but axis 1: the gradient of a bias. (N, C, *S) -> (C,)."""
        ...

    # -- elementwise -------------------------------------------------------------------------
    def relu_forward(self, x: Array) -> Array:
        """max(x, 0)."""
        ...

    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        """grad_y where the result y is positive, else 0."""
        ...

    def add_relu_forward(self, a: Array, b: Array) -> Array:
        """max(a + b, 0) for equal shapes."""
        ...

    # -- pooling -----------------------------------------------------------------------------
    def max_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        ceil_mode: bool,
    ) -> tuple[Array, Any]:
        """Maximum of each window, and what `max_pool_backward` needs."""
        ...

    def max_pool_backward(
        self,
        grad_y: Array,
        saved: Any,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
    ) -> Array:
        """Gradient goes to the (first) maximum of each window."""
        ...

    def avg_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        """Mean of each window."""
        ...

    def avg_pool_backward(
        self,
        grad_y: Array,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        """Gradient is spread evenly over each window."""
        ...

    # -- normalisation -----------------------------------------------------------------------
    def batch_norm_forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array, Any]:
        """Training: (y, mean, biased variance, what backward needs); statistics per channel."""
        ...

    def batch_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        saved: Any,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array]:
        """(grad_x, grad_weight, grad_bias) of `batch_norm_forward`, its activation included."""
        ...

    def batch_norm_inference(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        activation: str | None = None,
    ) -> Array:
        """Normalise with given statistics."""
        ...

    def batch_norm_running(
        self,
        running_mean: Array,
        running_var: Array,
        mean: Array,
        var: Array,
        momentum: float,
        count: int,
    ) -> None:
        """Move running statistics towards a batch's, in place.

        Args:
            var: biased; the running one moves towards the unbiased.
            momentum: the share of the batch.
            count: elements per channel.
        """
        ...

    def layer_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """(y, mean, 1/std) over the last `axes_count` axes."""
        ...

    def layer_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        """(grad_x, grad_weight, grad_bias) of `layer_norm_forward`."""
        ...

    def rms_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        """(x / sqrt(mean(x**2) + eps) * weight over the last axes, the factors (rows, 1))."""
        ...

    def rms_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        rstd: Array,
        needs: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None]:
        """(grad_x, grad_weight) of `rms_norm_forward`, each if it is needed."""
        ...

    def group_norm_forward(
        self, x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """(y, mean, 1/std) over groups of channels and all positions."""
        ...

    def group_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        num_groups: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        """(grad_x, grad_weight, grad_bias) of `group_norm_forward`."""
        ...


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Positions of a window along one dimension (floor mode).

    >>> output_size(28, 5, 1, 0)
    24
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def broadcast_channels(vector: Array, ndim: int) -> Array:
    """View a vector (C,) as (1, C, 1, ...) with `ndim` dimensions."""
    shape: Sequence[int] = (1, -1) + (1,) * (ndim - 2)
    return vector.reshape(shape)
