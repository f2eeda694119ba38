"""Attention: the scaled dot product of given queries, keys, values, and with projections."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...backend.arrays import constant
from ...errors import DtypeError, OptionError, ShapeError
from ...ops.attention import Attention, HeadsAttention, causal_bias
from ...tensors import Tensor
from ...tensors.autocasting import lowers
from ...tensors.creation import zeros
from ...tensors.graph import apply
from ...tensors.joining import cat
from ...tensors.reductions import softmax
from .dropout import dropout
from .linear import linear


class AttentionError(ShapeError, AssertionError):
    """Arguments of multi-head attention that do not fit; PyTorch asserts these."""


@lowers
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale * query @ key.T + mask) @ value.

    Args:
        query, key, value: (..., L, E), (..., S, E), (..., S, V); leading sizes broadcast.
        attn_mask: broadcasts to (..., L, S); boolean (True: may attend) or floating (added). A
            query that may attend to nothing gives zeros.
        dropout_p: probability of dropping a weight, whatever the mode.
        is_causal: a query attends to no later key; combined with `attn_mask` if both are given.
        scale: by default 1 / sqrt(E).
        enable_gqa: the heads of key and value, axis -3, are shared by groups of query heads.

    Returns:
        (..., L, V).

    Raises:
        RuntimeError: shapes or dtypes that do not fit, a probability outside 0..1.

    Source: Vaswani et al. 2017, "Attention is all you need", equation 1.

    >>> import allgrad as ag
    >>> q = k = v = ag.ones(2, 3, 4)
    >>> scaled_dot_product_attention(q, k, v, is_causal=True).shape
    allgrad.Size([2, 3, 4])
    """
    name = "scaled_dot_product_attention"
    if not 0 <= dropout_p <= 1:
        raise ShapeError(f"{name}: expected dropout_p within 0..1, came {dropout_p}")
    if enable_gqa:
        key, value = _shared_heads(query, key), _shared_heads(query, value)
    _check_attention(name, query._array, key._array, value._array)
    if attn_mask is not None:
        attn_mask = _checked_mask(name, attn_mask, query)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    return apply(Attention(factor, is_causal, dropout_p), query, key, value, attn_mask)


def _shared_heads(query: Tensor, shared: Tensor) -> Tensor:
    heads, groups = query.shape[-3], shared.shape[-3]
    if groups == 0 or heads % groups:
        raise ShapeError(
            f"scaled_dot_product_attention: {groups} heads of key and value do not divide the "
            f"{heads} heads of the query"
        )
    return shared if heads == groups else shared.repeat_interleave(heads // groups, dim=-3)


def _check_attention(name: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    shapes = f"query {q.shape}, key {k.shape}, value {v.shape}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ShapeError(f"{name}: expected at least 2 dimensions each, came {shapes}")
    if not q.dtype == k.dtype == v.dtype:
        raise DtypeError(f"{name}: expected one dtype, came {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            f"{name}: expected (..., L, E), (..., S, E) and (..., S, V), came {shapes}"
        )
    try:
        np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except ValueError:
        raise ShapeError(f"{name}: leading sizes do not broadcast: {shapes}") from None


def _checked_mask(name: str, mask: Tensor, query: Tensor) -> Tensor:
    if mask._array.dtype not in (np.dtype(bool), query._array.dtype):
        raise DtypeError(
            f"{name}: expected attn_mask of type bool or {query.dtype}, as the query, came "
            f"{mask.dtype}"
        )
    return mask


@lowers
def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of several heads between projections; see `nn.MultiheadAttention`.

    Args:
        query, key, value: (L, N, E), (S, N, K), (S, N, V), or without N.
        in_proj_weight: (3 * E, E), or, with `use_separate_proj_weight`, the three weights.
        bias_k, bias_v: (1, 1, E), a key and value that every query may attend to.
        add_zero_attn: add a key and value of zeros.
        key_padding_mask: (N, S), True (or what is added) for keys to ignore.
        attn_mask: (L, S) or (N * heads, L, S), True (or what is added) where not to attend.
        static_k, static_v: (N * heads, S, E / heads), used instead of the projections.
        is_causal: says that `attn_mask` is the causal mask.

    Returns:
        The output (L, N, E), and the weights (N, L, S), averaged over heads, or
        (N, heads, L, S), or None.

    Raises:
        AssertionError, RuntimeError: arguments that do not fit.
    """
    single = query.ndim == 2
    shapes = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    masks = key_padding_mask, attn_mask
    check_heads(shapes, masks, is_causal, embed_dim_to_check, num_heads)
    dropped = dropout_p if training else 0.0
    same = query is key and key is value
    if single:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    steps, n, features = query.shape
    hint = is_causal and key_padding_mask is None and not need_weights
    sizes = (n, num_heads, steps, key.shape[0])
    mask = None if hint else _joint_mask(attn_mask, key_padding_mask, sizes, query)
    scale = 1 / math.sqrt(features // num_heads)
    plain = bias_k is bias_v is static_k is static_v is None and not add_zero_attn
    if same and plain and not need_weights and not use_separate_proj_weight:
        qkv = linear(query, _present(in_proj_weight), in_proj_bias)
        y = apply(HeadsAttention(num_heads, scale, hint, dropped, True), qkv, mask)
        weights = None
    else:
        separate = (q_proj_weight, k_proj_weight, v_proj_weight)
        projected = _projections(
            (query, key, value), separate if use_separate_proj_weight else None,
            in_proj_weight, in_proj_bias,
        )  # fmt: skip
        heads = _heads(projected, num_heads, (bias_k, bias_v), (static_k, static_v), add_zero_attn)
        mask = _with_extra_keys(mask, heads[1].shape[2] - sizes[3])
        causal = hint and heads[1].shape[2] == sizes[3]
        if hint and not causal:  # keys were added, which all may attend to
            later = Tensor(
                constant(causal_bias(steps, sizes[3], query._array.dtype.str), query._array)
            )
            mask = _with_extra_keys(later, heads[1].shape[2] - sizes[3])
        y, weights = _attend(heads, mask, causal, scale, dropped, need_weights)
        y = y.permute(2, 0, 1, 3).reshape(steps, n, features)
    y = linear(y, out_proj_weight, out_proj_bias)
    if weights is not None and average_attn_weights:
        weights = weights.mean(dim=1)
    if single:
        return y.squeeze(1), None if weights is None else weights.squeeze(0)
    return y, weights


@lowers
def self_attention(
    x: Tensor,
    heads: int,
    in_proj: tuple[Tensor, Tensor | None],
    out_proj: tuple[Tensor, Tensor | None],
    dropout_p: float,
    masks: tuple[Tensor | None, Tensor | None],
    is_causal: bool,
) -> Tensor:
    """`multi_head_attention_forward` of x (N, L, E) with itself, without its weights.

    Args:
        masks: key_padding_mask and attn_mask.
    """
    n, steps, features = x.shape
    check_heads(((steps, n, features),) * 3, masks, is_causal, in_proj[0].shape[1], heads)
    hint = is_causal and masks[0] is None
    mask = None if hint else _joint_mask(masks[1], masks[0], (n, heads, steps, steps), x)
    op = HeadsAttention(heads, 1 / math.sqrt(features // heads), hint, dropout_p, False)
    return linear(apply(op, linear(x, *in_proj), mask), *out_proj)


def check_heads(
    shapes: tuple[tuple[int, ...], ...],
    masks: tuple[Tensor | None, Tensor | None],
    is_causal: bool,
    features: int,
    heads: int,
) -> None:
    """Raise unless query, key, value (L, N, E) and the masks fit.

    Raises:
        AssertionError, RuntimeError: they do not; both shapes are named.
    """
    name = "multi_head_attention_forward"
    query, key, value = shapes
    (padding, mask), text = masks, f"query {query}, key {key}, value {value}"
    if len(query) not in (2, 3) or not len(query) == len(key) == len(value):
        raise AttentionError(f"{name}: expected 3 dimensions each, or 2 for one, came {text}")
    if key[:-1] != value[:-1] or query[1:-1] != key[1:-1]:
        raise AttentionError(f"{name}: lengths or batch sizes differ: {text}")
    if query[-1] != features:
        raise AttentionError(f"{name}: expected {features} features, came {text}")
    if features % heads:
        raise AttentionError(f"{name}: {features} features do not divide into {heads} heads")
    if is_causal and mask is None:
        raise ShapeError(
            f"{name}: is_causal says that attn_mask is causal, but there is none; "
            "nn.Transformer.generate_square_subsequent_mask makes it"
        )
    wanted = (*key[1:-1], key[0])
    if padding is not None and tuple(padding.shape) != wanted:
        raise AttentionError(
            f"{name}: expected key_padding_mask of shape {wanted}, came {tuple(padding.shape)}"
        )
    for what, given in (("key_padding_mask", padding), ("attn_mask", mask)):
        if given is not None and given._array.dtype.kind != "b" and not given.is_floating_point():
            raise AttentionError(
                f"{name}: expected a boolean or floating {what}, came {given.dtype}"
            )
    plane, count = (query[0], key[0]), heads * (query[1] if len(query) == 3 else 1)
    if mask is not None and tuple(mask.shape) not in (plane, (count, *plane)):
        raise ShapeError(
            f"{name}: expected attn_mask of shape {plane} or {(count, *plane)}, came "
            f"{tuple(mask.shape)}"
        )


def _present(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise OptionError("multi_head_attention_forward: a projection weight is missing")
    return weight


def _joint_mask(
    mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int, int], query: Tensor
) -> Tensor | None:
    """Both masks as one that is added to the scores (N, heads, L, S)."""
    n, heads, steps, keys = sizes
    total = None
    if mask is not None:
        total = _added(mask, query)
        if mask.ndim == 3:
            total = total.reshape(n, heads, steps, keys)
    if padding is not None:
        rows = _added(padding, query).reshape(n, 1, 1, keys)
        total = rows if total is None else total + rows
    return total


def _added(mask: Tensor, query: Tensor) -> Tensor:
    """A mask as what is added: -inf where a boolean one is True."""
    if mask._array.dtype.kind != "b":
        return mask.to(query.dtype)
    kind = query._array.dtype.type
    return Tensor(np.where(mask._array, kind(-np.inf), kind(0)))


def _projections(
    inputs: tuple[Tensor, Tensor, Tensor], separate: Any, weight: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Queries, keys and values (L or S, N, E)."""
    features = inputs[0].shape[-1]
    biases = [None] * 3 if bias is None else bias.chunk(3)
    if separate is None:
        if inputs[0] is inputs[1] is inputs[2]:
            return list(linear(inputs[0], _present(weight), bias).chunk(3, -1))
        separate = _present(weight).split(features)
    return [linear(x, _present(w), b) for x, w, b in zip(inputs, separate, biases, strict=True)]


def _heads(
    projected: list[Tensor], heads: int, biases: Any, static: Any, zero: bool
) -> tuple[Tensor, ...]:
    """Queries, keys and values (N, heads, L or S, E / heads), with the keys that are added."""
    n, found = projected[0].shape[1], []
    for i, x in enumerate(projected):
        if i and biases[i - 1] is not None:
            x = cat([x, biases[i - 1].expand(1, n, -1)])
        given = static[i - 1] if i else None
        if given is None:
            part = x.reshape(x.shape[0], n, heads, -1).permute(1, 2, 0, 3)
        else:
            part = given.reshape(n, heads, *given.shape[1:])
        if i and zero:
            none = zeros(n, heads, 1, part.shape[3], dtype=part.dtype, device=part.device)
            part = cat([part, none], 2)
        found.append(part)
    return tuple(found)


def _with_extra_keys(mask: Tensor | None, count: int) -> Tensor | None:
    """The mask with `count` keys more, which everyone may attend to."""
    if mask is None or not count:
        return mask
    free = zeros(*mask.shape[:-1], count, dtype=mask.dtype, device=mask.device)
    return cat([mask, free], -1)


def _attend(
    heads: tuple[Tensor, ...],
    mask: Tensor | None,
    causal: bool,
    scale: float,
    dropped: float,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    q, k, v = heads
    if not need_weights:
        return apply(Attention(scale, causal, dropped), q, k, v, mask), None
    scores = (q * scale) @ k.transpose(-2, -1)
    weights = softmax(scores if mask is None else scores + mask, -1)
    if dropped:
        weights = dropout(weights, dropped)
    return weights @ v, weights
