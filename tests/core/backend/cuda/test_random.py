"""Random numbers and dropout on a GPU: Philox's published numbers, states, captures, statistics."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest

import allgrad as ag
from allgrad.backend.cuda.kernels import launch
from allgrad.backend.cuda.kernels.twins import draws
from allgrad.nn import functional as F

# Random123's known answers for Philox4x32-10: counter, key, words.
KNOWN = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip


def _words(text):
    return np.array([int(w, 16) for w in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_published_numbers(gpu, counter, key, want):
    counters, (key0, key1), expected = _words(counter), _words(key), _words(want)
    assert draws.philox(counters[None], key0, key1)[0].tolist() == expected.tolist()
    out = gpu.empty(4, np.uint32)
    args = (out, np.int64(1), gpu.asarray(counters), np.uint32(key0), np.uint32(key1))
    launch("random_words", None, (1,), (32,), args)
    assert out.get().tolist() == expected.tolist()


TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["random_uniform", "random_normal"])
def test_floats_are_the_twins(gpu, kind, dtype):
    state = np.array([0x123456789ABCDEF0, 7], np.uint64)
    for n in (1, 6, 1025):
        out, want = gpu.empty(n, dtype), np.empty(n, dtype)
        args = (np.int64(n), gpu.asarray(state), np.uint32(5))
        launch(kind, np.dtype(dtype), (2,), (256,), (out, *args))
        getattr(draws, kind)(want, n, state, 5)
        got = out.get().astype(np.float32)
        np.testing.assert_allclose(got, want.astype(np.float32), rtol=1e-5, atol=2e-6)
        if kind == "random_uniform":
            assert 0 <= got.min() <= got.max() < 1


def test_integers_are_the_twins(gpu):
    state = np.array([11, 0], np.uint64)
    for n, low, span in ((9, -5, 12), (64, 0, 1 << 62)):
        out, want = gpu.empty(n, np.int64), np.empty(n, np.int64)
        args = (np.int64(n), np.int64(low), np.uint64(span), gpu.asarray(state), np.uint32(2))
        launch("random_integers", None, (1,), (256,), (out, *args))
        draws.random_integers(want, n, low, span, state, 2)
        assert out.get().tolist() == want.tolist()
        assert ((want >= low) & (want < low + span)).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 8, 40, 1003])
def test_dropout_is_the_twin(gpu, dtype, n):
    state = np.array([99, 3], np.uint64)
    x = np.random.default_rng(0).standard_normal(n).astype(dtype)
    for planes in ((0, 1, 1), (3, 4, 12), (3, 1, 12)):
        out, want = gpu.empty(n, dtype), np.empty(n, dtype)
        tail = (np.int64(n), np.uint32(20000), np.float32(1.44))
        key = (np.uint32(6), *map(np.int64, planes))
        args = (gpu.asarray(x), out, *tail, gpu.asarray(state), *key)
        launch("dropout", np.dtype(dtype), (3,), (256,), args)
        draws.dropout(x, want, *tail, state, 6, *planes)
        np.testing.assert_array_equal(out.get(), want)


def test_states_come_back(gpu):
    g = ag.Generator(device="cuda").manual_seed(5)
    assert g.device == ag.device("cuda:0")
    assert g.initial_seed() == 5
    first = g.uniform((7,)).get()
    state = g.get_state()
    second = g.uniform((7,)).get()
    assert (first != second).all()
    g.set_state(state)
    np.testing.assert_array_equal(g.uniform((7,)).get(), second)
    twin = copy.deepcopy(g)
    g.begin_step()
    third = g.normal((5,)).get()
    assert (twin.normal((5,)).get() != third).all()
    g.set_state(state)
    np.testing.assert_array_equal(g.uniform((7,)).get(), second)
    with pytest.raises(ag.errors.CheckpointError, match="24 bytes"):
        g.set_state(np.zeros(3, np.uint8))
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type"):
        ag.rand(3, generator=g)


def test_seeds_of_the_whole_program(gpu):
    drawn = []
    for seed in (3, 3, 4):
        ag.manual_seed(seed)
        drawn.append(F.dropout(ag.ones(64, device="cuda")).tolist())
        assert ag.cuda.initial_seed() == seed
    assert drawn[0] == drawn[1] != drawn[2]
    state = ag.cuda.get_rng_state()
    assert state.is_cpu
    again = F.dropout(ag.ones(64, device="cuda")).tolist()
    ag.cuda.set_rng_state(state)
    assert F.dropout(ag.ones(64, device="cuda")).tolist() == again
    ag.cuda.manual_seed(3)
    assert F.dropout(ag.ones(64, device="cuda")).tolist() == drawn[0]


def test_distributions(gpu):
    g = ag.Generator(1, device="cuda")
    n = 20000
    for dtype in (np.float32, np.float64):
        u, z = g.uniform((n,), dtype).get(), g.normal((n,), dtype).get()
        assert u.dtype == z.dtype == dtype
        assert abs(u.mean() - 0.5) < 0.01
        assert abs(u.std() - 12**-0.5) < 0.01
        assert abs(z.mean()) < 0.03
        assert abs(z.std() - 1) < 0.03
        assert abs((z**3).mean()) < 0.1
    assert set(g.integers(-2, 2, (200,)).get().tolist()) == {-2, -1, 0, 1}
    order = g.permutation(50).get()
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()


@pytest.mark.parametrize("dtype", [ag.float32, ag.float16, ag.bfloat16])
def test_dropout_and_its_gradient_agree(cuda, dtype):
    x = ag.randn(6, 40).to(dtype).cuda().requires_grad_()
    y = F.dropout(x, 0.25)
    y.backward(ag.ones_like(y))
    kept = y.detach().cpu().float().numpy() != 0
    assert 0.6 < kept.mean() < 0.9
    slope = float(ag.tensor(1 / 0.75).to(dtype).float())
    got = x.grad.cpu().float().numpy()
    np.testing.assert_array_equal(got, np.where(kept, np.float32(slope), 0))
    assert not F.dropout(x, 1.0).detach().cpu().float().numpy().any()


@pytest.mark.parametrize("last", [False, True])
def test_whole_channels(cuda, last):
    x = ag.ones(4, 24, 3, 5)
    if last:
        x = x.contiguous(memory_format=ag.channels_last)
    x = x.cuda().requires_grad_()
    y = F.dropout2d(x, 0.5)
    y.backward(ag.ones_like(y))
    planes = y.detach().cpu().numpy().reshape(96, 15)
    assert (planes == planes[:, :1]).all()
    assert 20 < (planes[:, 0] == 2).sum() < 76
    assert x.grad.cpu().tolist() == y.cpu().tolist()


def test_backward_after_another_step_still_has_its_numbers(gpu):
    from allgrad.backend.cuda import random

    x = ag.ones(100, device="cuda", requires_grad=True)
    y = F.dropout(x)
    random.begin_step()
    ag.manual_seed(12)
    y.backward(ag.ones_like(y))
    assert x.grad.tolist() == y.tolist()


def test_captured_steps_draw_what_eager_ones_draw(gpu):
    from allgrad.backend.cuda import device, random

    generator, outs = random.default_generator(), []
    x = gpu.ones(64, np.float32)

    def step():
        generator.begin_step()
        a = ag.backend.of(x).dropout_forward(x, 0.5, False, False)[0]
        return a, generator.uniform((8,))

    generator.manual_seed(8)
    eager = [[a.get().tolist() for a in step()] for _ in range(3)]
    generator.manual_seed(8)
    record = device.Capture()
    pool = gpu.cuda.MemoryPool()
    with gpu.cuda.using_allocator(pool.malloc):
        device.begin_capture(record)
        device.stream().begin_capture()
        results = step()
        graph = device.stream().end_capture()
        device.end_capture()
    for _ in range(3):
        for callback in record.callbacks:
            callback()
        graph.launch(device.stream())
        outs.append([a.get().tolist() for a in results])
    assert outs == eager
    assert generator.step == 3


def test_second_derivative_of_dropout(gpu):
    x = ag.randn(20, device="cuda", requires_grad=True)
    y = (F.dropout(x) ** 2).sum()
    (g,) = ag.autograd.grad(y, x, create_graph=True)
    (h,) = ag.autograd.grad(g.sum(), x)
    kept = g.detach().cpu().numpy() != 0
    np.testing.assert_allclose(h.cpu().numpy(), np.where(kept, 8.0, 0.0), rtol=1e-6)
