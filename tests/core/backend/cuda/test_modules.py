"""Modules on a GPU: moving, hooks, norms of weights, pruning, averages, packed sequences."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.nn.utils import parametrizations, prune, rnn

pytestmark = pytest.mark.usefixtures("gpu")


def perceptron():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def devices(net):
    return {t.device.type for t in (*net.parameters(), *net.buffers())}


def test_moving():
    net = perceptron()
    for moved in (
        net.to("cuda"), net.to(ag.device("cuda", 0)), net.to(ag.zeros(1, device="cuda")),
        net.to("cuda", ag.float64), net.to(dtype=ag.float32), net.cuda(0),
        net.to(device="cuda", non_blocking=True),
    ):  # fmt: skip
        assert moved is net
        assert devices(net) == {"cuda"}
    assert net[0].weight.dtype is ag.float32
    assert net.half()[0].weight.is_cuda
    assert net.float().cpu()[0].weight.is_cpu
    empty = perceptron().to_empty(device="cuda")
    assert devices(empty) == {"cuda"}
    twin = copy.deepcopy(net.cuda())
    assert devices(twin) == {"cuda"}
    net(ag.randn(5, 3, device="cuda")).sum().backward()
    net.cpu()
    assert net[0].weight.grad.is_cpu


def test_hooks():
    net = nn.Linear(3, 2).cuda()
    seen = []
    net.register_forward_pre_hook(lambda m, args: seen.append(args[0].device.type))
    net.register_forward_hook(lambda m, args, out: out * 2)
    net.register_full_backward_hook(lambda m, into, out: seen.append(into[0].device.type))
    net.register_full_backward_pre_hook(lambda m, out: (out[0] * 0,))
    x = ag.ones(4, 3, device="cuda", requires_grad=True)
    net(x).sum().backward()
    assert seen == ["cuda", "cuda"]
    assert x.grad.abs().max().item() == 0


def test_norms_of_weights():
    here = ag.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    there = copy.deepcopy(here).cuda()
    x = ag.randn(5, 3)
    np.testing.assert_allclose(there(x.cuda()).tolist(), here(x).tolist(), rtol=1e-5, atol=1e-6)
    for wrap in (
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ):
        layer = wrap(nn.Linear(4, 4).cuda())
        y = layer(ag.randn(2, 4, device="cuda"))
        y.sum().backward()
        assert y.is_cuda
        assert {p.grad.device.type for p in layer.parameters() if p.grad is not None} == {"cuda"}


def test_pruning():
    layer = nn.Linear(6, 4).cuda()
    for how, options in (
        (prune.l1_unstructured, {"amount": 0.25}),
        (prune.random_unstructured, {"amount": 2}),
        (prune.ln_structured, {"amount": 1, "n": 2, "dim": 0}),
        (prune.random_structured, {"amount": 1, "dim": 1}),
    ):
        how(layer, "weight", **options)
        assert layer.weight.is_cuda
        assert layer.weight_mask.is_cuda
    layer(ag.randn(2, 6, device="cuda")).sum().backward()
    prune.remove(layer, "weight")
    assert (layer.weight == 0).sum().item() >= 10
    layers = [nn.Linear(3, 3).cuda(), nn.Linear(3, 3).cuda()]
    prune.global_unstructured([(m, "weight") for m in layers], prune.L1Unstructured, amount=9)
    assert sum((m.weight == 0).sum().item() for m in layers) == 9


def test_vectors_and_clipping():
    net = perceptron().cuda()
    vector = nn.utils.parameters_to_vector(net.parameters())
    assert vector.is_cuda
    nn.utils.vector_to_parameters(vector * 2, net.parameters())
    assert ag.equal(nn.utils.parameters_to_vector(net.parameters()), vector * 2)
    net(ag.randn(5, 3, device="cuda")).sum().backward()
    norm = nn.utils.get_total_norm([p.grad for p in net.parameters()])
    assert norm.is_cuda
    assert nn.utils.clip_grad_norm_(net.parameters(), norm.item() / 2).is_cuda
    after = nn.utils.get_total_norm([p.grad for p in net.parameters()])
    assert after.item() == pytest.approx(norm.item() / 2, rel=1e-4)
    nn.utils.clip_grad_value_(net.parameters(), 1e-3)
    assert max(p.grad.abs().max().item() for p in net.parameters()) <= 1.0001e-3


def test_averages():
    net = perceptron().cuda()
    average = optim.swa_utils.AveragedModel(net)
    ema = optim.swa_utils.AveragedModel(net, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.5))
    before = net[0].weight.detach().clone()
    for model in (average, ema):
        model.update_parameters(net)
    with ag.no_grad():
        net[0].weight += 1
    for model in (average, ema):
        model.update_parameters(net)
        assert model.module[0].weight.is_cuda
        found = (model.module[0].weight.detach() - before).cpu().numpy()
        np.testing.assert_allclose(found, 0.5, rtol=1e-5)
    batches = [ag.randn(6, 3, device="cuda") for _ in range(2)]
    optim.swa_utils.update_bn(batches, average)
    assert average.module[1].running_mean.is_cuda


def test_packed_sequences():
    here = nn.LSTM(3, 4, batch_first=True)
    there = copy.deepcopy(here).cuda()
    x, lengths = ag.randn(3, 5, 3), ag.tensor([5, 2, 3])

    def run(net, x):
        packed = rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        y, (h, c) = net(packed)
        padded, counts = rnn.pad_packed_sequence(y, batch_first=True)
        (padded.sum() + h.sum() + c.sum()).backward()
        return padded, h, counts, net.weight_hh_l0.grad

    want, got = run(here, x), run(there, x.cuda())
    assert [t.device.type for t in got] == ["cuda", "cuda", "cpu", "cuda"]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=1e-4, atol=1e-5)
    packed = rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
    assert packed.cuda().is_cuda
    assert packed.to("cuda").data.is_cuda
    padded = rnn.pad_sequence([ag.ones(2, device="cuda"), ag.ones(3, device="cuda")])
    assert (padded.is_cuda, padded.shape) == (True, (3, 2))


def test_fusion_and_states():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).cuda().eval()
    fused = nn.utils.fuse_conv_bn_eval(net[0], net[1])
    x = ag.randn(1, 3, 5, 5, device="cuda")
    np.testing.assert_allclose(fused(x).tolist(), net(x).tolist(), rtol=1e-4, atol=1e-5)
    state = net.state_dict()
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    fresh.load_state_dict(state)
    assert devices(fresh) == {"cpu"}
    fresh.load_state_dict(state, assign=True)
    assert devices(fresh) == {"cuda"}
