"""Packed sequences, what recurrent layers and attention refuse, masks, embeddings in place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
from allgrad import nn
from allgrad.nn import functional as F
from allgrad.nn.utils import rnn as packing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
theirs_packing = torch.nn.utils.rnn

LENGTHS = [3, 7, 1, 3]


def same(a, b, what=""):
    assert_close(a.detach().numpy(), b.detach().numpy(), GRADIENT, what)


def twins(make):
    """The layer in both libraries, with the same parameters."""
    ours, theirs = make(nn), make(torch.nn)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *itertools.product(
            ["RNN", "LSTM", "GRU"],
            [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False}],
        )
    ],
)
def test_packed_sequences(kind, options):
    ours, theirs = twins(lambda nn: getattr(nn, kind)(5, 6, **options))
    first = options.get("batch_first", False)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 7, 5) if first else (7, 4, 5)).astype(np.float32)
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = rng.standard_normal((layers, 4, 6)).astype(np.float32)
    results = []
    for layer, lib, pack in ((ours, ag, packing), (theirs, torch, theirs_packing)):
        t, s = lib.tensor(x, requires_grad=True), lib.tensor(h, requires_grad=True)
        packed = pack.pack_padded_sequence(t, LENGTHS, first, enforce_sorted=False)
        y, last = layer(packed, (s, s * 2) if kind == "LSTM" else s)
        y, lengths = pack.pad_packed_sequence(y, first, total_length=8)
        states = last if kind == "LSTM" else (last,)
        (sum((v * v).sum() for v in states) + (y * y).sum() + y.sum()).backward()
        grads = [t.grad, s.grad, *[p.grad for p in layer.parameters()]]
        results.append([y, *states, lengths, *grads])
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        same(a, b, f"result {i}")


def test_packing_and_padding():
    x = np.arange(24.0).reshape(4, 3, 2)
    for lengths, is_sorted in (([4, 3, 2], True), ([2, 4, 3], False)):
        a = packing.pack_padded_sequence(ag.tensor(x), lengths, enforce_sorted=is_sorted)
        b = theirs_packing.pack_padded_sequence(torch.tensor(x), lengths, enforce_sorted=is_sorted)
        for ours, theirs in zip(a, b, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                same(ours, theirs)
        for first in (False, True):
            got = packing.pad_packed_sequence(a, first, -1.0, 5)
            want = theirs_packing.pad_packed_sequence(b, first, -1.0, 5)
            same(got[0], want[0])
            same(got[1], want[1])
        for ours, theirs in zip(
            packing.unpack_sequence(a), theirs_packing.unpack_sequence(b), strict=True
        ):
            same(ours, theirs)
    parts = [np.arange(n, dtype=np.float32) for n in (3, 2, 1)]
    for first, side in itertools.product((False, True), ("left", "right")):
        got = packing.pad_sequence([ag.tensor(p) for p in parts], first, 9.0, side)
        want = theirs_packing.pad_sequence([torch.tensor(p) for p in parts], first, 9.0, side)
        same(got, want)
    a = packing.pack_sequence([ag.tensor(p) for p in parts])
    same(a.data, theirs_packing.pack_sequence([torch.tensor(p) for p in parts]).data)
    assert a.to(ag.float64).data.dtype == a.double().data.dtype == ag.float64
    assert a.to(ag.float32) is a


def zeros(lib, *shape):
    return lib.zeros(shape)


# what: call in either library, from the library, its nn, its packing
REFUSED = {
    "RNN, 4 dimensions": lambda lib, nn, p: nn.RNN(3, 4)(zeros(lib, 2, 2, 2, 3)),
    "LSTM, features": lambda lib, nn, p: nn.LSTM(3, 4)(zeros(lib, 5, 2, 7)),
    "GRU, state": lambda lib, nn, p: nn.GRU(3, 4)(zeros(lib, 5, 2, 3), zeros(lib, 1, 3, 4)),
    "GRU, state of one": lambda lib, nn, p: nn.GRU(3, 4)(zeros(lib, 5, 2, 3), zeros(lib, 1, 4)),
    "LSTM, cells": lambda lib, nn, p: nn.LSTM(3, 4)(
        zeros(lib, 5, 2, 3), (zeros(lib, 1, 2, 4), zeros(lib, 1, 2, 3))
    ),
    "RNN, dtype": lambda lib, nn, p: nn.RNN(3, 4)(zeros(lib, 5, 2, 3).double()),
    "LSTM, no steps": lambda lib, nn, p: nn.LSTM(3, 4)(zeros(lib, 0, 2, 3)),
    "LSTM, dropout": lambda lib, nn, p: nn.LSTM(3, 4, dropout=2),
    "LSTM, dropout True": lambda lib, nn, p: nn.LSTM(3, 4, dropout=True),
    "GRU, projection": lambda lib, nn, p: nn.GRU(3, 4, proj_size=2),
    "LSTM, large projection": lambda lib, nn, p: nn.LSTM(3, 4, proj_size=4),
    "LSTM, nothing hidden": lambda lib, nn, p: nn.LSTM(3, 0),
    "LSTM, size 4.0": lambda lib, nn, p: nn.LSTM(3, 4.0),
    "LSTM, no layers": lambda lib, nn, p: nn.LSTM(3, 4, num_layers=0),
    "RNN, nonlinearity": lambda lib, nn, p: nn.RNN(3, 4, nonlinearity="cube"),
    "RNNCell, nonlinearity": lambda lib, nn, p: nn.RNNCell(3, 4, nonlinearity="x")(
        zeros(lib, 1, 3)
    ),
    "GRUCell, 3 dimensions": lambda lib, nn, p: nn.GRUCell(3, 4)(zeros(lib, 2, 2, 3)),
    "GRUCell, features": lambda lib, nn, p: nn.GRUCell(3, 4)(zeros(lib, 2, 5)),
    "LSTMCell, state": lambda lib, nn, p: nn.LSTMCell(3, 4)(
        zeros(lib, 2, 3), (zeros(lib, 3, 4), zeros(lib, 3, 4))
    ),
    "pack, order": lambda lib, nn, p: p.pack_padded_sequence(zeros(lib, 4, 3, 2), [2, 4, 3]),
    "pack, empty": lambda lib, nn, p: p.pack_padded_sequence(zeros(lib, 4, 3, 2), [4, 0, 0]),
    "pack, count": lambda lib, nn, p: p.pack_padded_sequence(zeros(lib, 4, 3, 2), [4, 2]),
    "pack_sequence, order": lambda lib, nn, p: p.pack_sequence([zeros(lib, 1), zeros(lib, 3)]),
    "pad_sequence, none": lambda lib, nn, p: p.pad_sequence([]),
    "pad_sequence, side": lambda lib, nn, p: p.pad_sequence([zeros(lib, 3)], padding_side="up"),
    "pad_packed, short": lambda lib, nn, p: p.pad_packed_sequence(
        p.pack_sequence([zeros(lib, 3)]), total_length=2
    ),
    "attention, heads": lambda lib, nn, p: nn.MultiheadAttention(5, 2),
    "attention, features": lambda lib, nn, p: nn.MultiheadAttention(4, 2)(
        *[zeros(lib, 3, 2, 6)] * 3
    ),
    "attention, mask": lambda lib, nn, p: nn.MultiheadAttention(4, 2)(
        *[zeros(lib, 3, 2, 4)] * 3, attn_mask=zeros(lib, 2, 2)
    ),
    "attention, padding": lambda lib, nn, p: nn.MultiheadAttention(4, 2)(
        *[zeros(lib, 3, 2, 4)] * 3, key_padding_mask=zeros(lib, 3, 3)
    ),
    "attention, causal without mask": lambda lib, nn, p: nn.MultiheadAttention(4, 2)(
        *[zeros(lib, 3, 2, 4)] * 3, is_causal=True
    ),
    "attention, integers as mask": lambda lib, nn, p: nn.MultiheadAttention(4, 2)(
        *[zeros(lib, 3, 2, 4)] * 3, attn_mask=zeros(lib, 3, 3).long()
    ),
    "sdpa, features": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        zeros(lib, 2, 3, 4), zeros(lib, 2, 3, 2), zeros(lib, 2, 3, 4)
    ),
    "sdpa, vector": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        zeros(lib, 4), zeros(lib, 3, 4), zeros(lib, 3, 4)
    ),
    "sdpa, dtype": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        zeros(lib, 3, 4), zeros(lib, 3, 4).double(), zeros(lib, 3, 4)
    ),
    "sdpa, mask": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        *[zeros(lib, 3, 4)] * 3, attn_mask=zeros(lib, 3, 3).long()
    ),
    "sdpa, dropout": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        *[zeros(lib, 3, 4)] * 3, dropout_p=2.0
    ),
    "sdpa, groups": lambda lib, nn, p: nn.functional.scaled_dot_product_attention(
        zeros(lib, 1, 3, 3, 4), *[zeros(lib, 1, 2, 3, 4)] * 2, enable_gqa=True
    ),
    "transformer, batch": lambda lib, nn, p: nn.Transformer(4, 2, 1, 1, 8)(
        zeros(lib, 3, 2, 4), zeros(lib, 3, 1, 4)
    ),
    "transformer, features": lambda lib, nn, p: nn.Transformer(4, 2, 1, 1, 8)(
        zeros(lib, 3, 2, 3), zeros(lib, 3, 2, 4)
    ),
    "transformer, activation": lambda lib, nn, p: nn.TransformerEncoderLayer(4, 2, activation="x"),
    "embedding, index": lambda lib, nn, p: nn.Embedding(5, 3)(lib.tensor([5])),
    "embedding, floats": lambda lib, nn, p: nn.Embedding(5, 3)(zeros(lib, 2)),
    "embedding, padding": lambda lib, nn, p: nn.Embedding(5, 3, padding_idx=5),
    "embedding, table": lambda lib, nn, p: nn.Embedding.from_pretrained(zeros(lib, 3)),
    "bag, mode": lambda lib, nn, p: nn.EmbeddingBag(5, 3, mode="min")(lib.tensor([[1]])),
    "bag, no offsets": lambda lib, nn, p: nn.EmbeddingBag(5, 3)(lib.tensor([1])),
    "bag, two kinds": lambda lib, nn, p: nn.EmbeddingBag(5, 3)(lib.tensor([[1]]), lib.tensor([0])),
    "bag, first offset": lambda lib, nn, p: nn.EmbeddingBag(5, 3)(
        lib.tensor([1, 2]), lib.tensor([1])
    ),
    "bag, weights of a mean": lambda lib, nn, p: nn.EmbeddingBag(5, 3)(
        lib.tensor([[1]]), per_sample_weights=lib.ones(1, 1)
    ),
    "bag, weights": lambda lib, nn, p: nn.EmbeddingBag(5, 3, mode="sum")(
        lib.tensor([[1]]), per_sample_weights=lib.ones(2)
    ),
    "rms, shape": lambda lib, nn, p: nn.RMSNorm(4)(zeros(lib, 2, 3)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:.*dropout")
@pytest.mark.filterwarnings("ignore:.*nested")
def test_refused_as_in_pytorch(what):
    call = REFUSED[what]
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - whatever PyTorch raises
        call(torch, torch.nn, theirs_packing)
    with pytest.raises(type(theirs.value)):
        call(ag, nn, packing)


def test_dropout_of_one_layer_warns():
    with pytest.warns(UserWarning, match="num_layers is 1"):
        nn.LSTM(3, 4, dropout=0.5)


def test_sparse_gradients_are_refused():
    with pytest.raises(ValueError, match="sparse"):
        nn.Embedding(5, 3, sparse=True)(ag.tensor([1]))


def test_a_query_that_may_attend_to_nothing_gives_zeros():
    q = ag.randn(2, 3, 4, requires_grad=True)
    mask = ag.tensor([[True, True, True], [False, False, False], [True, False, True]])
    y = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    y.sum().backward()
    assert not y.detach().numpy()[:, 1].any()
    assert np.isfinite(q.grad.numpy()).all()


def test_attention_with_dropout():
    ag.manual_seed(0)
    v = ag.eye(200).unsqueeze(0).requires_grad_()
    q = ag.zeros(1, 200, 4)
    y = F.scaled_dot_product_attention(q, q, v, dropout_p=0.3)
    kept = y.detach().numpy() != 0
    assert 0.68 < kept.mean() < 0.72
    np.testing.assert_allclose(y.detach().numpy()[kept], 1 / 200 / 0.7, rtol=1e-5)
    y.sum().backward()
    np.testing.assert_allclose(v.grad.sum().item(), y.sum().item() * 200, rtol=1e-4)


@pytest.mark.parametrize("first", [False, True])
def test_attention_masks_of_layers(first):
    ours, theirs = twins(lambda nn: nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=first))
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    n, steps = (3, 5) if first else (5, 3)
    plane = np.triu(np.ones((steps, steps), bool), 1)
    padding = np.arange(steps) >= np.random.default_rng(1).integers(1, steps + 1, n)[:, None]
    for mask, ignored in itertools.product((None, plane), (None, padding)):
        results = []
        for layer, lib in ((ours, ag), (theirs, torch)):
            t = lib.tensor(x, requires_grad=True)
            masks = [None if m is None else lib.tensor(m) for m in (mask, ignored)]
            y = layer(t, *masks)
            (y * y * y).sum().backward()
            results.append((y, t.grad))
        for a, b in zip(*results, strict=True):
            same(a, b)


def test_pretrained_embeddings_share_memory_and_are_frozen():
    table = ag.randn(4, 2)
    layer = nn.Embedding.from_pretrained(table)
    assert not layer.weight.requires_grad
    assert layer.weight.data_ptr() == table.data_ptr()
    assert nn.EmbeddingBag.from_pretrained(table, freeze=False).weight.requires_grad


def test_hidden_state_handed_from_step_to_step_equals_one_run():
    layer = nn.GRU(3, 4)
    x = ag.randn(6, 2, 3)
    whole, last = layer(x)
    hidden, steps = None, []
    for value in x:
        y, hidden = layer(value.unsqueeze(0), hidden)
        steps.append(y)
    np.testing.assert_allclose(ag.cat(steps).detach().numpy(), whole.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(hidden.detach().numpy(), last.detach().numpy(), atol=1e-6)


def test_an_output_changed_in_place_is_noticed():
    y, _ = nn.LSTM(3, 4)(ag.randn(5, 2, 3))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="in-place"):
        y.sum().backward()
