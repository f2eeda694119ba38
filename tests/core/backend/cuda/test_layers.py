"""Every layer and every loss on a GPU against the CPU: outputs, gradients, buffers, no waiting."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
from support.emulated_gpu.state import counts
from support.layers import all_layers
from support.lazy_layers import LAYERS as LAZY_LAYERS
from support.losses import LOSSES
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
from allgrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

LAYERS = all_layers()
CASES = [(name, i) for name, (_, options) in LOSSES.items() for i in range(len(options))]
EMULATED = os.environ.get("ALLGRAD_TEST_GPU") != "1"

# Layers that read values on the host, and why.
WAITING = {
    "EmbeddingBag_max": "CuPy has no maximum.reduceat",
    "Embedding_norm": "which rows are too long decides what is written",
    "BatchNorm2d_average": "the share of a batch is computed on the host, as in PyTorch",
    "CTCLoss": "lengths and labels make the table of states",
}


def tensors_of(output):
    """The tensors in an output, however nested."""
    if isinstance(output, tuple | list):
        return [t for part in output for t in tensors_of(part)]
    return [output]


def run(module, tensors):
    """(outputs, gradients of inputs, gradients of parameters, buffers, waits for the device)."""
    tensors = [t.requires_grad_(t.is_floating_point()) for t in tensors]
    before = counts["synchronisations"]
    for _ in range(2):  # the second batch meets moved statistics and accumulated gradients
        outs = tensors_of(module(*tensors))
        rng = np.random.default_rng(2)
        for y in outs:
            if y.requires_grad:
                factors = rng.standard_normal(tuple(y.shape)).astype(y.dtype.name)
                y.backward(ag.tensor(factors, device=y.device), retain_graph=True)
    waits = counts["synchronisations"] - before
    grads = [t.grad for t in tensors]
    return outs, grads, [p.grad for p in module.parameters()], list(module.buffers()), waits


def compare(name, here, there, given, double=False):
    """The same module on both devices."""
    arrays = [a if a.dtype.kind in "ib" or double else a.astype(np.float32) for a in given]
    want = run(here, [ag.tensor(a) for a in arrays])
    got = run(there, [ag.tensor(a, device="cuda") for a in arrays])
    for what, a, b in zip(("output", "gradient", "parameter", "buffer"), got, want, strict=False):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x is None or y is None:
                assert x is y, f"{what} {i}"
                continue
            assert x.is_cuda, f"{what} {i}"
            assert (x.dtype, x.shape) == (y.dtype, y.shape), f"{what} {i}"
            assert_close(x.detach().cpu().numpy(), y.detach().numpy(), GRADIENT, f"{what} {i}")
    if EMULATED:
        assert bool(got[4]) == (name in WAITING), f"waited {got[4]} times for the device"


def inputs(shapes):
    rng = np.random.default_rng(1)
    return [a if isinstance(a, np.ndarray) else rng.standard_normal(a) for a in shapes]


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    make, *shapes = LAYERS[name]
    ag.manual_seed(1)
    here = make(nn)
    compare(name, here, copy.deepcopy(here).to("cuda"), inputs(shapes))


@pytest.mark.parametrize(("name", "number"), CASES)
def test_loss(name, number):
    arrays, options = LOSSES[name]
    make = getattr(nn, name)
    layer = make(**options[number])
    given = [arrays[k] for k in "xyzw" if k in arrays]
    if name in ("PoissonNLLLoss", "SoftMarginLoss"):
        given[1] = given[1].astype(np.int64)
    if name == "CTCLoss":
        given = [given[0], *(a.astype(np.int64) for a in given[1:])]
    compare(name, layer, copy.deepcopy(layer).cuda(), given)


@pytest.mark.parametrize("name", LAZY_LAYERS)
def test_lazy_layer(name):
    make, shape = LAZY_LAYERS[name][:2]
    x = ag.randn(*shape) if isinstance(shape, tuple) else ag.tensor(shape)
    layer = make(nn).cuda()
    y = layer(x.cuda())
    assert tensors_of(y)[0].is_cuda
    assert all(p.is_cuda for p in layer.parameters())
