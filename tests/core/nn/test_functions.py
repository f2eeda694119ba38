"""Every function of allgrad.nn.functional is met by a row of the op table or by a layer's row."""

from __future__ import annotations

import inspect

import numpy as np
from support.layers import all_layers
from support.op_table import all_rows

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn

# Functions that only other tests meet, with the test.
ELSEWHERE = {
    "upsample": "tests/core/nn/test_mistakes.py",
    "upsample_nearest": "tests/core/nn/test_mistakes.py",
    "upsample_bilinear": "tests/core/nn/test_mistakes.py",
    "native_channel_shuffle": "another name of channel_shuffle",
    "one_hot": "tests/core/tensors/test_indexing.py",
    "sigmoid": "layer Sigmoid",
    "tanh": "layer Tanh",
}
IN_PLACE = {"relu_", "elu_", "selu_", "celu_", "leaky_relu_", "hardtanh_", "rrelu_", "threshold_"}


class _Recorder:
    """allgrad.nn.functional, noting which of its names are asked for."""

    def __init__(self):
        self.seen = set()

    def __getattr__(self, name):
        self.seen.add(name)
        return getattr(F, name)


def test_every_function_has_a_row():
    recorder = _Recorder()
    rng = np.random.default_rng(0)
    for row in all_rows():
        tensors = [ag.tensor(spec.make(rng).astype(np.float32) if spec.make(rng).dtype.kind == "f"
                             else spec.make(rng)) for spec in row.inputs]  # fmt: skip
        row.function(ag, recorder, *tensors)
    layers = set()
    for make, *_ in all_layers().values():
        for module in make(nn).modules():
            for attribute in ("function", "_function"):
                layers.add(getattr(getattr(type(module), attribute, None), "__name__", ""))
            layers.add(type(module).__name__.lower())
    public = {n for n in F.__all__ if inspect.isfunction(getattr(F, n))}
    missing = public - recorder.seen - layers - set(ELSEWHERE) - IN_PLACE
    assert not missing, f"functions without a row in tests/support/rows_*.py: {sorted(missing)}"
