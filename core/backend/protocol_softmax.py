"""Part of the backend protocol: activations, dropout, softmax and losses of class indices."""

from __future__ import annotations

from typing import Any, Protocol

from .protocol_optim import Array

# Length of what a fused cross-entropy saves: (x, target, weight, statistics of the rows, divisor).
# Others save the log-probabilities first; see `reference/softmax.py`.
FUSED = 5


class ActivationBackend(Protocol):
    """Kernels of activations, elementwise on arrays of any shape."""

    def gelu_forward(self, x: Array, approximate: str) -> Array:
        """x * Phi(x), exactly ("none") or by the "tanh" approximation."""
        ...

    def gelu_backward(self, grad_y: Array, x: Array, approximate: str) -> Array:
        """Gradient of `gelu_forward`."""
        ...

    def sigmoid_forward(self, x: Array) -> Array:
        """1 / (1 + e**-x), without overflow."""
        ...

    def sigmoid_backward(self, grad_y: Array, y: Array) -> Array:
        """Gradient of `sigmoid_forward`, of its result y."""
        ...

    def tanh_forward(self, x: Array) -> Array:
        """Hyperbolic tangent."""
        ...

    def tanh_backward(self, grad_y: Array, y: Array) -> Array:
        """Gradient of `tanh_forward`, of its result y."""
        ...

    def silu_forward(self, x: Array) -> Array:
        """x / (1 + e**-x)."""
        ...

    def silu_backward(self, grad_y: Array, x: Array) -> Array:
        """Gradient of `silu_forward`."""
        ...


class DropoutBackend(Protocol):
    """Kernels that draw random numbers; the generators are this thread's."""

    def dropout_forward(self, x: Array, p: float, channels: bool, keep: bool) -> tuple[Array, Any]:
        """0 with probability p, else x / (1 - p); and with `keep` what backward needs.

        Args:
            channels: draw once per (sample, channel), axes 0 and 1, instead of per element.
            keep: whether backward will be asked for.
        """
        ...

    def dropout_backward(self, grad_y: Array, saved: Any) -> Array:
        """Gradient of `dropout_forward`, from what that kept."""
        ...


class EmbeddingBackend(Protocol):
    """Kernels of tables whose rows are looked up."""

    def embedding_forward(self, weight: Array, indices: Array) -> Array:
        """weight[indices]: (V, ...) and integers of any shape -> (*indices.shape, ...)."""
        ...

    def embedding_backward(
        self, grad_y: Array, indices: Array, rows: int, padding: int | None, by_frequency: bool
    ) -> Array:
        """Gradient of the table of `rows` rows; that of row `padding` is 0.

        Args:
            by_frequency: divide the gradient of a row by how often it was looked up.
        """
        ...


class SoftmaxBackend(Protocol):
    """Kernels of classifiers.

    The losses take scores (N, C, *S), class indices `target` (N, *S), `weight` (C,) or None, a
    reduction ("mean", "sum" or "none"), the target value without effect, and the share of label
    smoothing. They return the loss, () or (N, *S), and what their gradient needs. Source: PyTorch
    manual, NLLLoss and CrossEntropyLoss.
    """

    def softmax_forward(self, x: Array, axis: int) -> Array:
        """exp(x) / sum(exp(x)) along `axis`, shifted so that it cannot overflow."""
        ...

    def softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        """Gradient of `softmax_forward`, of its result y."""
        ...

    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        """x - log(sum(exp(x))) along `axis`, shifted so that it cannot overflow."""
        ...

    def log_softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        """Gradient of `log_softmax_forward`, of its result y."""
        ...

    def cross_entropy_forward(
        self,
        x: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        """`nll_forward` of the log-softmax of logits x."""
        ...

    def cross_entropy_backward(
        self,
        grad_y: Array,
        saved: tuple[Any, ...],
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        """Gradient of `cross_entropy_forward` for x."""
        ...

    def nll_forward(
        self,
        log_probs: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        """Negative log-likelihood of log-probabilities."""
        ...

    def nll_backward(
        self,
        grad_y: Array,
        saved: tuple[Any, ...],
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        """Gradient of `nll_forward` for `log_probs`, in memory of its own."""
        ...
