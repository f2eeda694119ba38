"""Every row of the op table on a GPU against the reference in main memory.

Results must be there, of the same dtype and shape, and nothing may be copied to the host on the
way: rows whose results depend on data by nature are listed with the reason.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from support.op_table import all_rows
from support.tolerances import FORWARD, GRADIENT, assert_close

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import backend

pytestmark = pytest.mark.usefixtures("gpu")

ROWS = {r.name: r for r in all_rows()}


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
    with ag.device(device):
        result = row.function(ag, F, *tensors)
    outs = result if isinstance(result, tuple | list) else (result,)
    rng = np.random.default_rng(7)
    for t in outs:
        if t.requires_grad and t.dtype.is_floating_point:
            grad = rng.standard_normal(tuple(t.shape)).astype(t.dtype.name)
            t.backward(ag.tensor(grad, device=device), retain_graph=True)
    return list(outs), [t.grad for t in tensors]


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
        for kind, table in ((0, FORWARD), (1, GRADIENT)):
            for i, (a, b) in enumerate(zip(got[kind], want[kind], strict=True)):
                what = f"batch {batch}: {'gradient' if kind else 'output'} {i}"
                if a is None or b is None:
                    assert a is b, what
                    continue
                assert described(a, "cuda") == described(b, "cpu"), what
                assert_close(a.detach().cpu().numpy(), b.detach().numpy(), table, what)
