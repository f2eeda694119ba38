"""Recurrent layers through cuDNN give what the reference gives, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.protocol_recurrent import RecurrentWeights
from allgrad.backend.reference import ReferenceBackend
from allgrad.backend.reference.rnn import GATES
from allgrad.errors import Unsupported

from .test_conv import TYPES, close, numbers
from .test_conv import _no_disk as _no_disk

REFERENCE = ReferenceBackend()
INPUTS, HIDDEN = 5, 6
LENGTHS = {"equal": (3, 3, 3, 3), "falling": (4, 3, 3, 1, 1), "one step": (2,)}


@pytest.fixture
def cuda(cuda):
    """The backend; nothing may be served in float32 or by the reference in its place."""
    yield cuda
    assert kernel_counts.fallback_counts() == {}


def problem(cell, batch_sizes, kind, bias=True):
    """(x, h0, c0, weights, gradients of y, last h and last c)."""
    wide, n, rows = GATES[cell] * HIDDEN, batch_sizes[0], sum(batch_sizes)
    shapes = ((wide, INPUTS), (wide, HIDDEN), (wide,), (wide,))
    weights = [(numbers(s, i) / 2).astype(TYPES[kind]) for i, s in enumerate(shapes)]
    if not bias:
        weights[2:] = [None, None]
    x, h0, c0 = (
        numbers(s, i, kind) for i, s in enumerate(((rows, INPUTS), (n, HIDDEN), (n, HIDDEN)), 7)
    )
    grads = [numbers(s, i, kind) for i, s in enumerate(((rows, HIDDEN), *[(n, HIDDEN)] * 2), 20)]
    if cell != "lstm":
        c0 = grads[2] = None
    return x, h0, c0, RecurrentWeights(*weights), grads


def moved(cupy, values):
    return [None if v is None else cupy.asarray(v) for v in values]


def wide(values):
    return [None if v is None else np.asarray(v, np.float32) for v in values]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("cell", GATES)
def test_forward_and_gradients(cuda, gpu, cell, lengths, kind):
    sizes = LENGTHS[lengths]
    x, h0, c0, weights, grads = problem(cell, sizes, kind, bias=lengths != "one step")
    own = RecurrentWeights(*wide(weights))
    y, h, c, saved = REFERENCE.recurrent_forward(cell, *wide([x, h0, c0]), own, sizes)
    theirs = RecurrentWeights(*moved(gpu, weights))
    found = cuda.recurrent_forward(cell, *moved(gpu, [x, h0, c0]), theirs, sizes)
    for got, expected in zip(found[:3], (y, h, c), strict=True):
        assert (got is None) == (expected is None)
        if expected is not None:
            close(got, expected, kind, 1)
            assert got.dtype == TYPES[kind]
    expected = REFERENCE.recurrent_backward(cell, *wide(grads), own, sizes, saved)
    for _ in range(2):  # the graph may be walked again
        got = cuda.recurrent_backward(cell, *moved(gpu, grads), theirs, sizes, found[3])
        for name, one, two in zip(expected._fields, got, expected, strict=True):
            assert (one is None) == (two is None), name
            if two is not None:
                close(one, two, kind)


def test_gradients_of_last_states_may_be_missing(cuda, gpu):
    x, h0, c0, weights, grads = problem("lstm", (2, 2, 1, 1), "f4")
    own = RecurrentWeights(*weights)
    saved = REFERENCE.recurrent_forward("lstm", x, h0, c0, own, (2, 2, 1, 1))[3]
    expected = REFERENCE.recurrent_backward(
        "lstm", grads[0], None, None, own, (2, 2, 1, 1), saved, with_x=False
    )
    theirs = RecurrentWeights(*moved(gpu, weights))
    saved = cuda.recurrent_forward("lstm", *moved(gpu, [x, h0, c0]), theirs, (2, 2, 1, 1))[3]
    got = cuda.recurrent_backward(
        "lstm", gpu.asarray(grads[0]), None, None, theirs, (2, 2, 1, 1), saved, with_x=False
    )
    assert got.x is None
    close(got.ih, expected.ih, "f4")
    close(got.c0, expected.c0, "f4")


def test_a_projection_is_refused(cuda, gpu):
    x, h0, c0, weights, _ = problem("lstm", (2, 2), "f4")
    theirs = RecurrentWeights(*moved(gpu, weights))._replace(hr=gpu.zeros((2, HIDDEN), np.float32))
    with pytest.raises(Unsupported, match="projection"):
        cuda.recurrent_forward("lstm", *moved(gpu, [x, h0, c0]), theirs, (2, 2))
