"""The table of loss layers: name -> (inputs, options to be tried)."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 5))
IMAGE = RNG.standard_normal((2, 5, 3, 3))
SHARES = RNG.dirichlet(np.ones(5), 4)
WEIGHT = RNG.uniform(0.5, 2, 5)
CLASSES = np.array([1, 0, 4, 4])
PLANE = RNG.integers(0, 5, (2, 3, 3))
UNIT = RNG.uniform(0.05, 0.95, (4, 5))
COUNTS = RNG.integers(0, 5, (4, 5)).astype(float)
SIGNS = np.where(RNG.random((4, 5)) < 0.5, -1.0, 1.0)
LABELS = np.array([[3, 0, -1, 1, 1], [-1, 0, 0, 0, 0], [4, 3, 2, 1, 0], [2, -1, -1, -1, -1]])
STEPS = np.log(RNG.dirichlet(np.ones(6), (6, 4)))

LOSSES = {
    "MSELoss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "sum"}, {"reduction": "none"}]),
    "L1Loss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "sum"}]),
    "SmoothL1Loss": ({"x": LOGITS, "y": SHARES}, [{}, {"beta": 0.3}]),
    "HuberLoss": ({"x": LOGITS, "y": SHARES}, [{}, {"delta": 0.3}]),
    "BCELoss": ({"x": UNIT, "y": SHARES}, [{}, {"reduction": "sum"}]),
    "BCEWithLogitsLoss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "none"}]),
    "KLDivLoss": ({"x": LOGITS, "y": SHARES}, [{"reduction": "batchmean"}, {"reduction": "sum"},
                  {"reduction": "sum", "log_target": True}]),
    "NLLLoss": ({"x": LOGITS, "y": CLASSES}, [{}, {"ignore_index": 4}]),
    "CrossEntropyLoss": ({"x": LOGITS, "y": CLASSES}, [{}, {"ignore_index": 4},
                         {"label_smoothing": 0.1}]),
    "PoissonNLLLoss": ({"x": LOGITS, "y": COUNTS}, [{}, {"full": True, "reduction": "sum"},
                       {"log_input": False, "reduction": "none"}]),
    "GaussianNLLLoss": ({"x": LOGITS, "y": SHARES, "z": UNIT}, [{}, {"full": True, "eps": 0.3},
                        {"reduction": "none"}]),
    "HingeEmbeddingLoss": ({"x": LOGITS, "y": SIGNS}, [{}, {"margin": 0.3, "reduction": "none"}]),
    "CosineEmbeddingLoss": ({"x": LOGITS, "y": SHARES, "z": SIGNS[:, 0]},
                            [{}, {"margin": -0.5, "reduction": "sum"}]),
    "MarginRankingLoss": ({"x": LOGITS, "y": SHARES, "z": SIGNS},
                          [{}, {"margin": 0.5, "reduction": "none"}]),
    "MultiMarginLoss": ({"x": LOGITS, "y": CLASSES}, [{}, {"p": 2, "margin": 0.4}]),
    "MultiLabelMarginLoss": ({"x": LOGITS, "y": LABELS}, [{}, {"reduction": "none"}]),
    "MultiLabelSoftMarginLoss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "none"}]),
    "SoftMarginLoss": ({"x": LOGITS, "y": SIGNS}, [{}, {"reduction": "sum"}]),
    "TripletMarginLoss": ({"x": LOGITS, "y": SHARES, "z": UNIT}, [{}, {"p": 3.0, "swap": True}]),
    "TripletMarginWithDistanceLoss": ({"x": LOGITS, "y": SHARES, "z": UNIT},
                                      [{}, {"swap": True, "margin": 2.0}]),
    "CTCLoss": ({"x": STEPS, "y": LABELS[:, :2] % 4 + 1, "z": np.array([6, 5, 6, 4]),
                 "w": np.array([2, 1, 0, 2])},
                [{}, {"reduction": "none", "zero_infinity": True}, {"blank": 5}]),
}  # fmt: skip
