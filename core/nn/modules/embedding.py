"""Tables of vectors looked up by integer index."""

from __future__ import annotations

from typing import Any

from ...autograd import no_grad
from ...tensors import Parameter, Tensor
from .. import init
from ..functional.embedding import PaddingError, embedding, embedding_bag
from .linear import new_parameter
from .module import Module


class _Table(Module):
    """What the embeddings share: the table and its settings."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
        weight: Tensor | None,
        freeze: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise PaddingError(
                f"{name}: padding_idx {padding_idx} is outside {num_embeddings} rows"
            )
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        if weight is None:
            self.weight = new_parameter(num_embeddings, embedding_dim, dtype=dtype)
            self.weight.requires_grad_(not freeze)
            self.reset_parameters()
        else:
            if tuple(weight.shape) != (num_embeddings, embedding_dim):
                raise PaddingError(
                    f"{name}: expected a weight of shape {(num_embeddings, embedding_dim)}, came "
                    f"{tuple(weight.shape)}"
                )
            self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw the table again, from a normal distribution; the row of padding is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **settings: Any) -> Any:
        """The layer on a given table (V, D), whose memory it shares.

        Args:
            freeze: the table gets no gradient.
            settings: as of the class.
        """
        if embeddings.ndim != 2:
            raise PaddingError(
                f"{cls.__name__}: expected a table (V, D), came {tuple(embeddings.shape)}"
            )
        make: Any = cls
        return make(*embeddings.shape, _weight=embeddings, _freeze=freeze, **settings)

    def _settings(self, **shown: tuple[Any, Any]) -> str:
        """The settings in `shown`, name: (value, default), that are not the default."""
        return "".join(f", {name}={a!r}" for name, (a, b) in shown.items() if a != b)


class Embedding(_Table):
    """A table of vectors looked up by integer index.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of a vector.
        padding_idx: a row that starts at 0 and gets no gradient.
        max_norm: rows longer than this are shortened to it, in place, when looked up.
        norm_type: p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often it was looked up.
        sparse: must be False when called.

    Shape: (...) -> (..., embedding_dim).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, dtype,
        )  # fmt: skip
        self._place(device)

    def forward(self, input: Tensor) -> Tensor:
        return embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
            self.scale_grad_by_freq, self.sparse,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}" + self._settings(
            padding_idx=(self.padding_idx, None),
            max_norm=(self.max_norm, None),
            norm_type=(self.norm_type, 2),
            scale_grad_by_freq=(self.scale_grad_by_freq, False),
            sparse=(self.sparse, False),
        )


class EmbeddingBag(_Table):
    """Sums, means or maxima over bags of rows of a table; see `functional.embedding_bag`.

    Args:
        mode: "sum", "mean" or "max".
        include_last_offset: the last offset is the end of the last bag.
        padding_idx: the index whose rows are left out.
        num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, sparse: see
            `Embedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        _freeze: bool = False,
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, dtype,
        )  # fmt: skip
        self.mode, self.include_last_offset = mode, include_last_offset
        self._place(device)

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """One row for each bag."""
        return embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq,
            self.mode, self.sparse, per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}" + self._settings(
            max_norm=(self.max_norm, None),
            norm_type=(self.norm_type, 2),
            scale_grad_by_freq=(self.scale_grad_by_freq, False),
        )
        return f"{text}, mode={self.mode!r}" + self._settings(
            padding_idx=(self.padding_idx, None), sparse=(self.sparse, False)
        )
