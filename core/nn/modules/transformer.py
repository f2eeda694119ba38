"""The encoder-decoder of "Attention is all you need" and its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import devices
from ...backend.arrays import on_device
from ...errors import OptionError, ShapeError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from .. import init
from .attention import MultiheadAttention
from .container import ModuleList
from .dropout import Dropout
from .linear import Linear
from .module import Module
from .norm import LayerNorm

Activation = str | Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class ActivationError(OptionError, RuntimeError):
    """An unknown activation; PyTorch raises a RuntimeError."""


def _activation(given: Activation) -> Callable[[Tensor], Tensor]:
    if not isinstance(given, str):
        return given
    if given not in _ACTIVATIONS:
        raise ActivationError.unknown("activation of a transformer", given, _ACTIVATIONS)
    return _ACTIVATIONS[given]


class _Layer(Module):
    """What the layers of encoder and decoder share: self-attention and the feed-forward part."""

    norms = 2

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()

        def attention() -> MultiheadAttention:
            return MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
            )

        self.self_attn = attention()
        if self.norms == 3:
            self.multihead_attn = attention()
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        for i in range(1, self.norms + 1):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        for i in range(1, self.norms + 1):
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)
        self._place(device)

    def _attend(
        self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        y = self.self_attn(
            x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=mask,
            is_causal=is_causal,
        )[0]  # fmt: skip
        return self.dropout1(y)

    def _feed(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with dropout, residual and layer norm.

    Args:
        d_model: features.
        nhead: heads of attention.
        dim_feedforward: hidden features of the feed-forward network.
        dropout: probability, of attention weights and of the outputs of the parts.
        activation: "relu", "gelu" or a function.
        layer_norm_eps: eps of the norms.
        batch_first: inputs are (N, L, E) instead of (L, N, E).
        norm_first: normalise before each part instead of after its residual.
        bias: whether linear layers and norms have biases.

    >>> import allgrad as ag
    >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> tuple(layer(ag.ones(3, 5, 8)).shape)
    (3, 5, 8)
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The new features, in the shape of `src`.

        Args:
            src_mask: (L, L) or (N * heads, L, L), True or -inf where not to attend.
            src_key_padding_mask: (N, L), True or -inf for padding.
            is_causal: says that `src_mask` is the causal mask.
        """
        x, rest = src, (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = x + self._attend(self.norm1(x), *rest)
            return x + self.dropout2(self._feed(self.norm2(x)))
        x = self.norm1(x + self._attend(x, *rest))
        return self.norm2(x + self.dropout2(self._feed(x)))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, and a feed-forward network.

    Arguments: see `TransformerEncoderLayer`.
    """

    norms = 3

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The new features, in the shape of `tgt`; `memory` is the encoder's output."""
        x, rest = tgt, (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        from_memory = (memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x = x + self._attend(self.norm1(x), *rest)
            x = x + self._attend_memory(self.norm2(x), *from_memory)
            return x + self.dropout3(self._feed(self.norm3(x)))
        x = self.norm1(x + self._attend(x, *rest))
        x = self.norm2(x + self._attend_memory(x, *from_memory))
        return self.norm3(x + self.dropout3(self._feed(x)))

    def _attend_memory(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        y = self.multihead_attn(
            x, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask,
            is_causal=is_causal,
        )[0]  # fmt: skip
        return self.dropout2(y)


class TransformerEncoder(Module):
    """A stack of encoder layers.

    Args:
        encoder_layer: copied for every layer.
        num_layers: layers.
        norm: applied to the result, or None.
        enable_nested_tensor, mask_check: accepted; padding is not cut out here.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers, self.num_layers = _copies(encoder_layer, num_layers), num_layers
        self.norm = norm
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """The features after the last layer.

        Args:
            is_causal: whether `mask` is the causal mask; None: find out.
        """
        causal = _is_causal(mask, is_causal, src.shape[-2 if _first(self.layers) else 0])
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=causal, src_key_padding_mask=src_key_padding_mask)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """A stack of decoder layers; arguments as of `TransformerEncoder`."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers, self.num_layers = _copies(decoder_layer, num_layers), num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The features after the last layer."""
        causal = _is_causal(tgt_mask, tgt_is_causal, tgt.shape[-2 if _first(self.layers) else 0])
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal, memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
        norm_first, bias: see `TransformerEncoderLayer`.
        num_encoder_layers, num_decoder_layers: layers of each.
        custom_encoder, custom_decoder: modules to use instead.

    Source: Vaswani et al. 2017, "Attention is all you need".
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        settings = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder
        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(*settings)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        self.decoder = custom_decoder
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*settings)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        self._place(device)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Features (T, N, E) for the target (T, N, E), given the source (S, N, E).

        Raises:
            RuntimeError: batch sizes or features do not fit.
        """
        batch = 0 if self.batch_first else 1
        shapes = f"src {tuple(src.shape)}, tgt {tuple(tgt.shape)}"
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise ShapeError(f"Transformer: batch sizes differ: {shapes}")
        if not src.shape[-1] == tgt.shape[-1] == self.d_model:
            raise ShapeError(f"Transformer: expected {self.d_model} features, came {shapes}")
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask,
            is_causal=src_is_causal,
        )  # fmt: skip
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal, memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """The causal mask (sz, sz): -inf above the diagonal, else 0.

        >>> Transformer.generate_square_subsequent_mask(2)
        tensor([[0., -inf],
                [0., 0.]])
        """
        mask = Tensor(np.triu(np.full((sz, sz), -np.inf, np.float32), 1))
        mask = mask if dtype is None else mask.to(dtype)
        return mask.to(devices.require(device))


def _copies(layer: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(count)])


def _first(layers: ModuleList) -> bool:
    """Whether the layers' inputs are (N, L, E)."""
    attention = getattr(layers[0], "self_attn", None) if len(layers) else None
    return bool(getattr(attention, "batch_first", False))


def _is_causal(mask: Tensor | None, given: bool | None, steps: int) -> bool:
    """Whether `mask` is the causal mask, as the caller says or as its values do.

    A mask on a GPU is not looked at, which would wait for the device: it serves as it is.
    """
    if given is not None or mask is None:
        return bool(given)
    values = mask._array
    if values.shape != (steps, steps) or values.dtype.kind == "b" or on_device(values):
        return False
    return bool((values == np.triu(np.full(values.shape, -np.inf), 1)).all())
