"""Rows of attention, embeddings and root-mean-square norm."""

from __future__ import annotations

import itertools

import numpy as np
from support.inputs import Spec, booleans, integers, normal
from support.op_table import row


def weight(*shape, **options):
    return normal(*shape, batched=False, **options)


def _attention():
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 6)
    some = booleans(3, 5, batched=False)
    settings = {
        "plain": ((), {}),
        "causal": ((), {"is_causal": True}),
        "scaled": ((), {"scale": 0.3}),
        "bool_mask": ((some,), {}),
        "float_mask": ((weight(3, 5, constant=True),), {}),
        "learnt_mask": ((weight(2, 3, 5),), {}),
        "head_mask": ((weight(2, 1, 5, constant=True),), {}),
    }
    for name, (mask, options) in settings.items():
        yield row(
            f"attention_{name}", "Attention",
            lambda lib, F, q, k, v, *mask, o=options:
                F.scaled_dot_product_attention(q, k, v, *mask, **o),
            q, k, v, *mask,
        )  # fmt: skip
    yield row(
        "attention_3d",
        "Attention",
        lambda lib, F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        normal(2, 3, 4),
        normal(2, 3, 4),
        normal(2, 3, 4),
    )
    yield row(
        "attention_one_step",
        "Attention",
        lambda lib, F, q, k, v: F.scaled_dot_product_attention(q, k, v),
        normal(2, 1, 4),
        normal(2, 1, 4),
        normal(2, 1, 4),
    )
    yield row(
        "attention_shared_heads",
        "Attention",
        lambda lib, F, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        normal(2, 4, 3, 4),
        normal(2, 2, 3, 4),
        normal(2, 2, 3, 4),
    )
    yield row(
        "attention_broadcast",
        "Attention",
        lambda lib, F, q, k, v: F.scaled_dot_product_attention(q, k, v),
        normal(2, 3, 3, 4),
        weight(1, 1, 5, 4),
        weight(3, 5, 4),
    )


def _self_attention():
    def run(lib, F, x, w, b, o, c, mask=None, padding=None, **options):
        y, weights = F.multi_head_attention_forward(
            x, x, x, 4, 2, w, b, None, None, False, 0.0, o, c, attn_mask=mask,
            key_padding_mask=padding, **{"need_weights": False, **options},
        )  # fmt: skip
        return y if weights is None else (y, weights)

    parameters = weight(12, 4), weight(12), weight(4, 4), weight(4)
    x = weight(3, 2, 4)
    plane = Spec(lambda rng, s: np.triu(np.ones(s, bool), 1), (3, 3), False, True)
    padding = Spec(lambda rng, s: np.arange(s[1]) >= np.array([[3], [2]]), (2, 3), False, True)
    rows = {
        "plain": ((), {}),
        "causal": ((plane,), {"is_causal": True}),
        "mask": ((plane,), {}),
        "mask_per_head": ((weight(4, 3, 3, constant=True),), {}),
        "mask_and_padding": ((plane, padding), {}),
    }
    for name, (masks, options) in rows.items():
        yield row(
            f"self_attention_{name}",
            "HeadsAttention",
            lambda lib, F, *t, o=options: run(lib, F, *t, **o),
            x,
            *parameters,
            *masks,
            batches=(),
        )
        yield row(
            f"self_attention_{name}_weights",
            "Softmax",
            lambda lib, F, *t, o=options: run(lib, F, *t, need_weights=True, **o),
            x,
            *parameters,
            *masks,
            batches=(),
        )


def _embeddings():
    table = weight(6, 3)
    yield row(
        "embedding_by_frequency",
        "Embedding",
        lambda lib, F, i, w: F.embedding(i, w, scale_grad_by_freq=True),
        integers(6, 4, 2),
        table,
        differentiable=False,  # its gradient is not the derivative
    )
    starts = Spec(lambda rng, s: np.array([0, 2, 2, 5]), (4,), False, True)
    for mode, padding in itertools.product(("sum", "mean", "max"), (None, 1)):
        yield row(
            f"embedding_bag_{mode}_{padding}", "Embedding BagReduce",
            lambda lib, F, i, w, m=mode, p=padding: F.embedding_bag(i, w, mode=m, padding_idx=p),
            integers(6, 4, 3), table,
        )  # fmt: skip
        yield row(
            f"embedding_bag_{mode}_{padding}_offsets", "Embedding BagReduce",
            lambda lib, F, i, w, s, m=mode, p=padding:
                F.embedding_bag(i, w, s, mode=m, padding_idx=p),
            integers(6, 7, batched=False), table, starts, batches=(),
        )  # fmt: skip
    yield row(
        "embedding_bag_weights",
        "Embedding Mul BagReduce",
        lambda lib, F, i, w, s: F.embedding_bag(i, w, mode="sum", per_sample_weights=s),
        integers(6, 4, 3),
        table,
        normal(4, 3),
    )


def _norms():
    for name, shape, options in (
        ("last", (4,), {}),
        ("two", (3, 4), {"eps": 1e-3}),
    ):
        yield row(
            f"rms_norm_{name}",
            "RMSNorm",
            lambda lib, F, x, w, s=shape, o=options: F.rms_norm(x, s, w, **o),
            normal(2, 3, 4),
            weight(*shape),
        )
    yield row("rms_norm_plain", "RMSNorm", lambda lib, F, x: F.rms_norm(x, (4,)), normal(2, 3, 4))


ROWS = [*_attention(), *_self_attention(), *_embeddings(), *_norms()]
