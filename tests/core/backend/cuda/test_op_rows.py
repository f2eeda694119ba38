"""Every row of the op table on a GPU against the reference in main memory.

Results must be there, of the same dtype and shape, and nobody may wait for the device on the way:
rows that do are listed with the reason.
"""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest
from support.emulated_gpu.state import counts
from support.op_table import all_rows
from support.tolerances import FORWARD, GRADIENT, assert_close

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import backend

pytestmark = pytest.mark.usefixtures("gpu")

ROWS = {r.name: r for r in all_rows()}

EMULATED = os.environ.get("ALLGRAD_TEST_GPU") != "1"

# Beginnings of names of rows that read values on the host, and why.
WAITING = {
    "masked_select": "as many results as the mask holds",
    "uint8_mask": "as many results as the mask holds",
    "take_mask": "as many results as the mask holds",
    "assign_mask": "the gradient has as many elements as the mask holds",
    "repeat_interleave_counts": "as many results as the counts say",
    "cumprod": "zeros ask for another, longer way, as in PyTorch",
    "ctc_loss": "lengths and labels make the table of states; PyTorch copies the lengths, too",
    "embedding_bag_max": "CuPy has no maximum.reduceat",
    "scatter_reduce_multiply": "CuPy has no multiply.at",
    "scatter_reduce_prod": "CuPy has no multiply.at",
    "scatter_reduce_zeros": "CuPy has no multiply.at",
    "index_reduce_prod": "CuPy has no multiply.at",
    "polygamma_1": "its derivative, of order 2, sums as many terms as the values ask for",
    "polygamma_3": "as many terms as the values ask for",
    "lstsq": "residuals are there where the rank is full",
}

# Rows that draw random numbers, which are others on a GPU.
RANDOM = frozenset(
    (
        *("dropout", "dropout1d", "dropout2d", "dropout3d"),
        *("alpha_dropout", "feature_alpha_dropout", "rrelu_training", "gumbel_softmax"),
    )
)


def may_wait(name):
    return any(name.startswith(beginning) for beginning in WAITING)


def make_inputs(row, batch):
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    arrays = [np.asarray(spec.make(rng, batch)) for spec in row.inputs]
    return [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]


def run(row, arrays, device):
    """(outputs, gradients), for fixed random gradients of the outputs."""
    tensors = []
    for spec, array in zip(row.inputs, arrays, strict=True):
        t = ag.tensor(array, device=device)
        tensors.append(t.requires_grad_(array.dtype.kind == "f" and not spec.constant))
    before = counts["synchronisations"]
    with ag.device(device):
        result = row.function(ag, F, *tensors)
    outs = result if isinstance(result, tuple | list) else (result,)
    rng = np.random.default_rng(7)
    for t in outs:
        if t.requires_grad and t.dtype.is_floating_point:
            grad = rng.standard_normal(tuple(t.shape)).astype(t.dtype.name)
            t.backward(ag.tensor(grad, device=device), retain_graph=True)
    return list(outs), [t.grad for t in tensors], counts["synchronisations"] - before


def described(t, kind):
    assert t.device.type == kind
    return t.dtype, tuple(t.shape)


@pytest.mark.parametrize("name", ROWS)
def test_like_the_reference(name):
    row = ROWS[name]
    for batch in (None, *row.batches):
        arrays = make_inputs(row, batch)
        backend.use("reference")
        want = run(row, arrays, "cpu")
        got = run(row, arrays, "cuda")
        if not EMULATED:
            pass  # nobody counts there
        elif batch is None:
            assert bool(got[2]) == may_wait(name), f"waited {got[2]} times for the device"
        else:
            assert not got[2] or may_wait(name), f"batch {batch}: waited for the device"
        for kind, table in ((0, FORWARD), (1, GRADIENT)):
            for i, (a, b) in enumerate(zip(got[kind], want[kind], strict=True)):
                what = f"batch {batch}: {'gradient' if kind else 'output'} {i}"
                if a is None or b is None:
                    assert a is b, what
                    continue
                assert described(a, "cuda") == described(b, "cpu"), what
                if name in RANDOM:
                    continue
                assert_close(a.detach().cpu().numpy(), b.detach().numpy(), table, what)
