"""The networks of sequences among the workloads: a language model, a classifier, a transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WORDS, WORD_STEPS, WORD_BATCH, WORD_FEATURES = 5000, 35, 20, 256
GRU_BATCH, GRU_STEPS, GRU_INPUTS, GRU_HIDDEN, GRU_CLASSES = 32, 50, 16, 128, 10
CHARACTERS, CONTEXT, TEXTS, FEATURES, HEADS, LAYERS = 96, 64, 16, 192, 4, 4


class Workload(NamedTuple):
    """One network of sequences.

    Attributes:
        title: for the table.
        shape: of one batch.
        optimizer: class and settings.
        build: the network, from the modules in `nn`; its output is (rows, classes).
        batch: random inputs and targets.
    """

    title: str
    shape: tuple[int, ...]
    optimizer: tuple[str, dict[str, float]]
    build: Callable[[Any], Any]
    batch: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def language_model(nn: Any) -> Any:
    """Words to words: embedding, two layers of LSTM, scores over the vocabulary."""

    class LanguageModel(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(WORDS, WORD_FEATURES)
            self.drop = nn.Dropout(0.2)
            self.lstm = nn.LSTM(WORD_FEATURES, WORD_FEATURES, 2, dropout=0.2)
            self.decoder = nn.Linear(WORD_FEATURES, WORDS)

        def forward(self, x: Any) -> Any:
            y, _ = self.lstm(self.drop(self.embedding(x)))
            return self.decoder(self.drop(y)).flatten(0, 1)

    return LanguageModel()


def classifier(nn: Any) -> Any:
    """Series to classes: a GRU, and a linear layer on its last output."""

    class Classifier(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(GRU_INPUTS, GRU_HIDDEN, batch_first=True)
            self.head = nn.Linear(GRU_HIDDEN, GRU_CLASSES)

        def forward(self, x: Any) -> Any:
            y, _ = self.gru(x)
            return self.head(y[:, -1])

    return Classifier()


def transformer(nn: Any) -> Any:
    """Characters to characters: a small causal transformer."""

    class CharacterTransformer(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(CHARACTERS, FEATURES)
            self.position = nn.Parameter(nn.Embedding(CONTEXT, FEATURES).weight.detach())
            layer = nn.TransformerEncoderLayer(
                FEATURES, HEADS, 4 * FEATURES, 0.1, "gelu", batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(
                layer, LAYERS, nn.LayerNorm(FEATURES), enable_nested_tensor=False
            )
            self.head = nn.Linear(FEATURES, CHARACTERS)
            causal = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
            self.register_buffer("causal", causal)

        def forward(self, x: Any) -> Any:
            y = self.layers(self.embedding(x) + self.position, self.causal, is_causal=True)
            return self.head(y).flatten(0, 1)

    return CharacterTransformer()


def words(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices (steps, batch), and the next ones in a row."""
    text = rng.integers(0, WORDS, (WORD_STEPS + 1, WORD_BATCH))
    return text[:-1], text[1:].ravel()


def series(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (batch, steps, inputs) and classes."""
    x = rng.standard_normal((GRU_BATCH, GRU_STEPS, GRU_INPUTS), np.float32)
    return x, rng.integers(0, GRU_CLASSES, GRU_BATCH)


def characters(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices (texts, context), and the next ones in a row."""
    text = rng.integers(0, CHARACTERS, (TEXTS, CONTEXT + 1))
    return text[:, :-1], text[:, 1:].ravel()


WORKLOADS = {
    "lstm": Workload(
        "LSTM language model (2 x 256, 5,000 words), 35 steps, batch 20",
        (WORD_STEPS, WORD_BATCH),
        ("Adam", {"lr": 1e-3}),
        language_model,
        words,
    ),
    "gru": Workload(
        "GRU (128), 50 steps, batch 32",
        (GRU_BATCH, GRU_STEPS, GRU_INPUTS),
        ("Adam", {"lr": 1e-3}),
        classifier,
        series,
    ),
    "transformer": Workload(
        "Transformer (4 layers, 192 features, 64 characters), batch 16",
        (TEXTS, CONTEXT),
        ("AdamW", {"lr": 1e-3}),
        transformer,
        characters,
    ),
}
