"""Adaptive softmax: cheap class scores where most classes are rare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError, ShapeError
from ...tensors import Tensor
from ...tensors.joining import cat
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from .container import ModuleList, Sequential
from .linear import Linear
from .module import Module


class _Result(NamedTuple):
    """What AdaptiveLogSoftmaxWithLoss returns."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-probabilities of many classes, sorted by frequency, in a head and clusters of rare ones.

    Args:
        in_features: size of a hidden vector.
        n_classes: number of classes; the most frequent ones come first.
        cutoffs: where one cluster ends and the next begins, increasing, below `n_classes`.
        div_value: each cluster's vectors are this much shorter than those of the one before.
        head_bias: whether the head has a bias.

    Source: Grave et al. 2017, "Efficient softmax approximation for GPUs".
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        ends = list(cutoffs)
        if not ends:
            raise ArgumentError("AdaptiveLogSoftmaxWithLoss: expected at least one cutoff")
        if (
            ends != sorted(set(ends))
            or ends[0] <= 0
            or ends[-1] > n_classes - 1
            or any(int(c) != c for c in ends)
        ):
            raise ArgumentError(
                "AdaptiveLogSoftmaxWithLoss: expected increasing integers within "
                f"1..{n_classes - 1} as cutoffs, came {cutoffs}"
            )
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*ends, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // (div_value ** (i + 1)))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, dtype=dtype),
                    Linear(hidden, size, bias=False, dtype=dtype),
                )
            )
        self._place(device)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.head.reset_parameters()
        for first, second in self.tail:
            first.reset_parameters()
            second.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> _Result:
        """(log-probability of each sample's class, minus their mean).

        Args:
            input: (N, in_features) or (in_features,).
            target: class indices (N,) or ().
        """
        single = input.ndim == 1
        x = input.unsqueeze(0) if single else input
        classes = target._array.reshape(1) if single else target._array
        self._check(input, target, x, classes)
        head = F.log_softmax(self.head(x), dim=1)
        # The class itself where it is frequent, else its cluster, in the head.
        cluster = np.searchsorted(self.cutoffs, classes, side="right") - 1
        frequent = classes < self.shortlist_size
        place = np.where(frequent, classes, self.shortlist_size + cluster)
        output = head.gather(1, Tensor(place[:, None])).squeeze(1)
        for i in range(self.n_clusters):
            rows = np.flatnonzero(~frequent & (cluster == i))
            if rows.size:
                scores = F.log_softmax(self.tail[i](x[Tensor(rows)]), dim=1)
                inside = Tensor((classes[rows] - self.cutoffs[i])[:, None])
                found = scores.gather(1, inside).squeeze(1)
                output = output.scatter_add(0, Tensor(rows), found)
        loss = -output.mean()
        return _Result(output.squeeze(0) if single else output, loss)

    def _check(self, input: Tensor, target: Tensor, x: Tensor, classes: np.ndarray) -> None:
        name = type(self).__name__
        if x.ndim != 2 or classes.shape != x._array.shape[:1]:
            raise ShapeError(
                f"{name}: expected input (N, {self.in_features}) with target (N,), or one sample, "
                f"came {tuple(input.shape)} and {tuple(target.shape)}"
            )
        if classes.size and (classes.min() < 0 or classes.max() >= self.n_classes):
            raise ShapeError(
                f"{name}: expected targets within 0..{self.n_classes - 1}, came "
                f"{classes.min()}..{classes.max()}"
            )

    def log_prob(self, input: Tensor) -> Tensor:
        """Log-probabilities of all classes, (N, n_classes)."""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            scores = F.log_softmax(tail(input), dim=1)
            parts.append(scores + head[:, self.shortlist_size + i].unsqueeze(1))
        whole: Tensor = cat(parts, 1)
        return whole

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each sample, (N,)."""
        best: Tensor = self.log_prob(input).argmax(1)
        return best
