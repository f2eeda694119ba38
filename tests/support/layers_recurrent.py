"""Recurrent layers, attention, transformers and embeddings, for the tests of layers."""

from __future__ import annotations

import numpy as np

STEPS, BATCH, ONE = (5, 3, 4), (3, 5, 4), (5, 4)
INDICES = np.array([[0, 4, 2], [2, 2, 1]])


def encoder_layer(nn, **options):
    settings = {"dim_feedforward": 6, "dropout": 0.0, **options}
    return nn.TransformerEncoderLayer(4, 2, **settings)


def decoder_layer(nn, **options):
    settings = {"dim_feedforward": 6, "dropout": 0.0, **options}
    return nn.TransformerDecoderLayer(4, 2, **settings)


# label -> (constructor for both libraries, input shapes or arrays)
LAYERS = {
    "RNN": (lambda nn: nn.RNN(4, 3), STEPS),
    "RNN_relu": (lambda nn: nn.RNN(4, 3, 2, "relu", bidirectional=True), STEPS, (4, 3, 3)),
    "RNN_one": (lambda nn: nn.RNN(4, 3, bias=False), ONE, (1, 3)),
    "LSTM": (lambda nn: nn.LSTM(4, 3), STEPS),
    "LSTM_deep": (lambda nn: nn.LSTM(4, 3, 3, batch_first=True, bidirectional=True), BATCH),
    "LSTM_one": (lambda nn: nn.LSTM(4, 3), ONE),
    "LSTM_short": (lambda nn: nn.LSTM(4, 3, bias=False), (1, 3, 4)),
    "LSTM_projected": (lambda nn: nn.LSTM(4, 5, 2, bidirectional=True, proj_size=3), STEPS),
    "LSTM_dropout": (lambda nn: nn.LSTM(4, 3, 2, dropout=1.0), STEPS),
    "GRU": (lambda nn: nn.GRU(4, 3), STEPS, (1, 3, 3)),
    "GRU_deep": (lambda nn: nn.GRU(4, 3, 2, batch_first=True, bidirectional=True), BATCH),
    "GRU_one": (lambda nn: nn.GRU(4, 3, bias=False), ONE),
    "RNNCell": (lambda nn: nn.RNNCell(4, 3), (2, 4), (2, 3)),
    "RNNCell_relu": (lambda nn: nn.RNNCell(4, 3, nonlinearity="relu"), (4,), (3,)),
    "LSTMCell": (lambda nn: nn.LSTMCell(4, 3), (2, 4)),
    "LSTMCell_plain": (lambda nn: nn.LSTMCell(4, 3, bias=False), (4,)),
    "GRUCell": (lambda nn: nn.GRUCell(4, 3), (2, 4), (2, 3)),
    "MultiheadAttention": (lambda nn: nn.MultiheadAttention(4, 2), STEPS, (2, 3, 4), (2, 3, 4)),
    "MultiheadAttention_first": (
        lambda nn: nn.MultiheadAttention(4, 2, bias=False, batch_first=True), BATCH, BATCH, BATCH,
    ),
    "MultiheadAttention_sizes": (
        lambda nn: nn.MultiheadAttention(4, 2, kdim=3, vdim=5), STEPS, (2, 3, 3), (2, 3, 5),
    ),
    "MultiheadAttention_extra": (
        lambda nn: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True),
        STEPS, STEPS, STEPS,
    ),
    "MultiheadAttention_one": (lambda nn: nn.MultiheadAttention(4, 2), ONE, ONE, ONE),
    "TransformerEncoderLayer": (lambda nn: encoder_layer(nn), STEPS),
    "TransformerEncoderLayer_first": (
        lambda nn: encoder_layer(nn, batch_first=True, norm_first=True, activation="gelu"), BATCH,
    ),
    "TransformerEncoderLayer_plain": (lambda nn: encoder_layer(nn, bias=False), STEPS),
    "TransformerDecoderLayer": (lambda nn: decoder_layer(nn), STEPS, (2, 3, 4)),
    "TransformerDecoderLayer_first": (
        lambda nn: decoder_layer(nn, batch_first=True, norm_first=True), BATCH, (3, 2, 4),
    ),
    "TransformerEncoder": (
        lambda nn: nn.TransformerEncoder(
            encoder_layer(nn, batch_first=True), 2, nn.LayerNorm(4), enable_nested_tensor=False
        ),
        BATCH,
    ),
    "TransformerDecoder": (lambda nn: nn.TransformerDecoder(decoder_layer(nn), 2), STEPS, STEPS),
    "Transformer": (
        lambda nn: nn.Transformer(4, 2, 1, 1, 6, 0.0, batch_first=True), BATCH, (3, 2, 4),
    ),
    "RMSNorm": (lambda nn: nn.RMSNorm(4), STEPS),
    "RMSNorm_two": (lambda nn: nn.RMSNorm((3, 4), eps=1e-2), STEPS),
    "RMSNorm_plain": (lambda nn: nn.RMSNorm(4, elementwise_affine=False), STEPS),
    "Embedding_frequency": (lambda nn: nn.Embedding(5, 3, 1, scale_grad_by_freq=True), INDICES),
    "Embedding_norm": (lambda nn: nn.Embedding(5, 3, max_norm=0.5, norm_type=1.0), INDICES),
    "EmbeddingBag": (lambda nn: nn.EmbeddingBag(5, 3), INDICES),
    "EmbeddingBag_sum": (
        lambda nn: nn.EmbeddingBag(5, 3, mode="sum", padding_idx=2), INDICES.ravel(),
        np.array([0, 2, 2]),
    ),
    "EmbeddingBag_max": (
        lambda nn: nn.EmbeddingBag(5, 3, mode="max", include_last_offset=True), INDICES.ravel(),
        np.array([0, 4, 6]),
    ),
}  # fmt: skip
