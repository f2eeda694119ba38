"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from ...tensors import Parameter, Tensor
from .. import init
from ..functional.attention import (
    AttentionError,
    multi_head_attention_forward,
    self_attention,
)
from .linear import Linear, new_parameter
from .module import Module


class NonDynamicallyQuantizableLinear(Linear):
    """A linear layer under the name that PyTorch prints for this one."""


class MultiheadAttention(Module):
    """Attention of several heads, each on its own projection of the features.

    Args:
        embed_dim: features of query and output.
        num_heads: heads; each has embed_dim / num_heads features.
        dropout: probability of dropping an attention weight, in training.
        bias: whether the projections have biases.
        add_bias_kv: add a learnt key and value that every query may attend to.
        add_zero_attn: add a key and value of zeros.
        kdim, vdim: features of keys and values; embed_dim if not given.
        batch_first: inputs and outputs are (N, L, E) instead of (L, N, E).

    Raises:
        ValueError: embed_dim or num_heads is not positive.
        AssertionError: embed_dim does not divide into the heads.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3.2.2.

    >>> import allgrad as ag
    >>> x = ag.ones(2, 5, 8)
    >>> y, weights = MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> tuple(y.shape), tuple(weights.shape)
    ((2, 5, 8), (2, 5, 5))
    """

    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"MultiheadAttention: expected embed_dim and num_heads above 0, came {embed_dim} "
                f"and {num_heads}"
            )
        if embed_dim % num_heads:
            raise AttentionError(
                f"MultiheadAttention: {embed_dim} features do not divide into {num_heads} heads"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.head_dim, self.batch_first = embed_dim // num_heads, batch_first
        self.add_zero_attn = add_zero_attn
        self._qkv_same_embed_dim = self.kdim == embed_dim == self.vdim

        def new(wanted: bool, *shape: int) -> Parameter | None:
            return new_parameter(*shape, dtype=dtype) if wanted else None

        same = self._qkv_same_embed_dim
        self.register_parameter("q_proj_weight", new(not same, embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", new(not same, embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", new(not same, embed_dim, self.vdim))
        self.register_parameter("in_proj_weight", new(same, 3 * embed_dim, embed_dim))
        self.register_parameter("in_proj_bias", new(bias, 3 * embed_dim))
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, dtype=dtype)
        self.register_parameter("bias_k", new(add_bias_kv, 1, 1, embed_dim))
        self.register_parameter("bias_v", new(add_bias_kv, 1, 1, embed_dim))
        self._reset_parameters()
        self._place(device)

    def _reset_parameters(self) -> None:
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_weight"):
            weight = self._parameters[name]
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see `functional.multi_head_attention_forward` for masks and results.

        Leave the weights out (`need_weights=False`) where you can: it is faster.
        """
        same, swapped = query is key is value, self.batch_first and query.ndim == 3
        if same and swapped and not need_weights and self._plain():
            dropped = self.dropout if self.training else 0.0
            y = self_attention(
                query, self.num_heads, (self.in_proj_weight, self.in_proj_bias),
                (self.out_proj.weight, self.out_proj.bias), dropped,
                (key_padding_mask, attn_mask), is_causal,
            )  # fmt: skip
            return y, None
        if swapped and same:
            query = key = value = query.transpose(0, 1)
        elif swapped:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        y, weights = multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight,
            self.in_proj_bias, self.bias_k, self.bias_v, self.add_zero_attn, self.dropout,
            self.out_proj.weight, self.out_proj.bias, self.training, key_padding_mask,
            need_weights, attn_mask, not self._qkv_same_embed_dim, self.q_proj_weight,
            self.k_proj_weight, self.v_proj_weight, None, None, average_attn_weights, is_causal,
        )  # fmt: skip
        return (y.transpose(0, 1) if swapped else y), weights

    def _plain(self) -> bool:
        """Whether the projections are one product and no keys are added."""
        return self._qkv_same_embed_dim and self.bias_k is None and not self.add_zero_attn
