"""Optimizers, loss scaling and clipping on a GPU against the CPU, and their kernels' twins."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest

import allgrad as ag
from allgrad import amp, kernel_counts, nn, optim
from allgrad.backend.cuda.kernels import launch
from allgrad.backend.cuda.kernels.twins import TWINS

SHAPES = ((3, 4), (7,), (), (70, 100), (2, 0))
MAKE = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, maximize=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.01),
    "lars": lambda p: optim.LARS(p, lr=1.0, weight_decay=0.1, nesterov=True),
    "lamb": lambda p: optim.LAMB(p, lr=0.01, weight_decay=0.1, norm_bounds=(0.1, 5.0)),
}
REFERENCE = {
    "muon": lambda p: optim.Muon([q for q in p if q.ndim == 2 and q.numel()], lr=0.1),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.01),
    "asgd": lambda p: optim.ASGD(p, lr=0.1),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
    "adadelta": lambda p: optim.Adadelta(p, lr=0.1),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
}


def _without_kernel():
    return [k for k, why in kernel_counts.fallback_counts() if "no kernel" in why]


def synchronisations():
    try:
        from support.emulated_gpu import device
    except ImportError:
        return 0
    return device.counts["synchronisations"]


@pytest.fixture(autouse=True)
def _by_rule(gpu, monkeypatch):
    """Falling back is allowed and counted, whatever other tests made of this thread's backends."""
    monkeypatch.setattr(ag.backend.on_cuda(0), "strict", False)
    monkeypatch.setattr(ag.backend.get(), "strict", False)
    kernel_counts.reset()
    with np.errstate(all="ignore"):
        yield
    kernel_counts.reset()


class Pair:
    """The same parameters and gradients in main memory and on a GPU."""

    def __init__(self, make, dtype=ag.float32):
        self.rng = np.random.default_rng(0)
        self.dtype = dtype
        self.here = [ag.tensor(self.draw(s)).to(dtype).requires_grad_() for s in SHAPES]
        self.there = [p.detach().cuda().requires_grad_() for p in self.here]
        self.optimizers = make(self.here), make(self.there)

    def draw(self, shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def gradients(self, factor=1.0, bad=False):
        for p, q in zip(self.here, self.there, strict=True):
            g = ag.tensor(self.draw(tuple(p.shape)) * np.float32(factor))
            if bad and p.ndim == 1:
                g[3] = float("inf")
            p.grad = g.to(self.dtype)
            q.grad = p.grad.cuda()

    def step(self, **kwargs):
        self.gradients(**kwargs)
        for optimizer in self.optimizers:
            optimizer.step()

    def compare(self, rtol=1e-5, atol=1e-6):
        for p, q in zip(self.here, self.there, strict=True):
            want, got = (t.detach().cpu().float().numpy() for t in (p, q))
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MAKE)
def test_twenty_steps_as_on_the_cpu(gpu, name):
    pair = Pair(MAKE[name])
    pair.step()
    before = synchronisations()
    for i in range(19):
        for optimizer in pair.optimizers:
            optimizer.param_groups[0]["lr"] *= 0.9 if i == 9 else 1
        pair.step()
    assert synchronisations() == before
    pair.compare()
    kernel = pair.optimizers[1]._recipe(pair.optimizers[1].param_groups[0]).kernel
    assert kernel_counts.fast_counts()[f"{kernel}_step"] >= 20
    assert not _without_kernel()
    for p, q in zip(pair.here, pair.there, strict=True):
        mine, theirs = (o.state.get(t, {}) for o, t in zip(pair.optimizers, (p, q), strict=True))
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert theirs[key].is_cuda
            got = theirs[key].cpu().numpy()
            np.testing.assert_allclose(got, value.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_others_by_the_reference(gpu, name):
    pair = Pair(REFERENCE[name])
    for _ in range(3):
        pair.step()
    pair.compare(rtol=1e-4, atol=1e-5)
    assert _without_kernel()


@pytest.mark.parametrize("dtype", [ag.float16, ag.bfloat16])
@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_half_parameters(gpu, name, dtype):
    pair = Pair(MAKE[name], dtype)
    for _ in range(4):
        pair.step()
    tolerance = 2e-3 if dtype is ag.float16 else 2e-2
    pair.compare(rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [ag.float16, ag.bfloat16])
def test_half_copies_are_written_by_the_step(gpu, dtype):
    pair = Pair(MAKE["adamw"])
    copies = pair.optimizers[1].write_copies(dtype)
    assert len(copies) == len(SHAPES)
    for _ in range(2):
        pair.step()
    for p, copy in copies.items():
        assert copy.is_cuda
        want = p.detach().cpu().to(dtype).float().numpy()
        np.testing.assert_array_equal(copy.cpu().float().numpy(), want)
    with pytest.raises(RuntimeError, match="write_copies"):
        pair.optimizers[0].write_copies(dtype)


@pytest.mark.parametrize("decay", [None, 0.75])
def test_averages_of_models(gpu, decay):
    from allgrad.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    function = None if decay is None else get_ema_multi_avg_fn(decay)
    here = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    there = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).cuda()
    there.load_state_dict(here.state_dict())
    averages = [AveragedModel(m, multi_avg_fn=function) for m in (here, there)]
    for _ in range(3):
        with ag.no_grad():
            for p, q in zip(here.parameters(), there.parameters(), strict=True):
                p.copy_(ag.randn(*p.shape))
                q.copy_(p)
        before = synchronisations()
        for average, model in zip(averages, (here, there), strict=True):
            average.update_parameters(model)
        assert synchronisations() == before
    for p, q in zip(*(a.parameters() for a in averages), strict=True):
        assert q.is_cuda
        got, want = q.detach().cpu().numpy(), p.detach().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_layouts_and_float64(gpu):
    x = ag.randn(4, 3, 5, 5)
    p = x.contiguous(memory_format=ag.channels_last).cuda().requires_grad_()
    q = x.double().cuda().requires_grad_()
    optimizer = optim.SGD([p, q], lr=0.5, momentum=0.9)
    p.grad, q.grad = ag.ones(4, 3, 5, 5, device="cuda"), ag.ones(4, 3, 5, 5).double().cuda()
    optimizer.step()
    optimizer.step()
    for t in (p, q):
        got = t.detach().cpu().numpy()
        np.testing.assert_allclose(got, x.numpy() - 1.45, rtol=1e-5, atol=1e-5)


def test_checkpoints_cross_devices(gpu):
    pair = Pair(MAKE["adam"])
    for _ in range(3):
        pair.step()
    file = io.BytesIO()
    ag.save(pair.optimizers[1].state_dict(), file)
    file.seek(0)
    pair.optimizers[0].load_state_dict(ag.load(file))
    file = io.BytesIO()
    ag.save(pair.optimizers[0].state_dict(), file)
    file.seek(0)
    pair.optimizers[1].load_state_dict(ag.load(file))
    assert pair.optimizers[0].state[pair.here[0]]["exp_avg"].is_cpu
    assert pair.optimizers[1].state[pair.there[0]]["exp_avg"].is_cuda
    pair.step()
    pair.compare()


@pytest.mark.parametrize("name", ["sgd", "dampened", "adam", "lamb"])
@pytest.mark.parametrize("unscale", [False, True])
def test_loss_scaling_as_on_the_cpu(gpu, name, unscale):
    pair = Pair(MAKE[name])
    settings = {"init_scale": 1024.0, "growth_interval": 2}
    scalers = amp.GradScaler("cpu", **settings), amp.GradScaler("cuda", **settings)
    sync = 0
    for i in range(6):
        scale = scalers[0].get_scale()
        pair.gradients(scale, bad=i in (0, 3))
        before = synchronisations()
        for scaler, optimizer in zip(scalers, pair.optimizers, strict=True):
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        sync += synchronisations() - before
        assert scalers[1].get_scale() == scalers[0].get_scale()
    assert sync == 0
    assert scalers[1].get_scale() == 1024.0
    assert scalers[1].state_dict() == scalers[0].state_dict()
    pair.compare()
    again = amp.GradScaler("cuda")
    again.load_state_dict(scalers[1].state_dict())
    assert again.get_scale() == 1024.0


def test_loss_scaling_of_an_optimizer_without_kernel(gpu):
    p = ag.ones(3, device="cuda", requires_grad=True)
    optimizer = optim.NAdam([p], lr=0.1)
    scaler = amp.GradScaler("cuda", init_scale=8.0)
    assert amp.GradScaler().scale(ag.ones(1, device="cuda")).item() == 65536
    for bad, scale in ((True, 4.0), (False, 4.0)):
        loss = scaler.scale(ag.tensor(1.0, device="cuda"))
        assert loss.item() == (8.0 if bad else 4.0)
        p.grad = ag.full((3,), float("nan") if bad else 4.0, device="cuda")
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        assert (p.tolist() == [1.0] * 3) is bad
    scaler.update(32.0)
    assert scaler.scale(ag.tensor(1.0, device="cuda")).item() == 32.0


@pytest.mark.parametrize("most", [0.5, 1e9, float("nan")])
def test_clipping_as_on_the_cpu(gpu, most):
    pair = Pair(MAKE["sgd"])
    pair.gradients()
    if most != most:
        pair.here[1].grad[2] = pair.there[1].grad[2] = most
        most = 1.0
    want = nn.utils.clip_grad_norm_(pair.here, most)
    before = synchronisations()
    got = nn.utils.clip_grad_norm_(pair.there, most)
    assert synchronisations() == before
    np.testing.assert_allclose(got.item(), want.item(), rtol=1e-6)
    for p, q in zip(pair.here, pair.there, strict=True):
        np.testing.assert_allclose(q.grad.cpu().numpy(), p.grad.numpy(), rtol=1e-5)
    other = nn.utils.get_total_norm([q.grad for q in pair.there], float("inf"))
    np.testing.assert_allclose(
        other.item(), nn.utils.get_total_norm([p.grad for p in pair.here], float("inf")).item()
    )


def test_clipping_can_refuse(gpu):
    p = ag.ones(3, device="cuda", requires_grad=True)
    p.grad = ag.full((3,), float("inf"), device="cuda")
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)


def test_a_captured_step_follows_rate_count_and_loss_scale(gpu):
    from allgrad.backend.cuda import device

    pair = Pair(MAKE["adamw"])
    pair.step()
    p, q = pair.here[3], pair.there[3]
    for t in (*pair.here, *pair.there):
        t.grad = None
    p.grad = ag.ones(70, 100)
    q.grad = p.grad.cuda()
    optimizer, record = pair.optimizers[1], device.Capture()
    pool = gpu.cuda.MemoryPool()
    with gpu.cuda.using_allocator(pool.malloc):
        device.begin_capture(record)
        device.stream().begin_capture()
        optimizer.step()
        graph = device.stream().end_capture()
        device.end_capture()
    for rate in (0.01, 0.5, 0.02):
        for o in pair.optimizers:
            o.param_groups[0]["lr"] = rate
        pair.optimizers[0].step()
        for callback in record.callbacks:
            callback()
        graph.launch(device.stream())
    assert optimizer.state[q]["step"].item() == 4
    pair.compare()
    fresh = optim.Adam([ag.ones(2, device="cuda", requires_grad=True)])
    fresh.param_groups[0]["params"][0].grad = ag.ones(2, device="cuda")
    device.begin_capture(device.Capture())
    try:
        with pytest.raises(RuntimeError, match="Make one step before"):
            fresh.step()
    finally:
        device.end_capture()


# -- twins -----------------------------------------------------------------------------------------
SIZES = (5, 8192 + 40, 64)


class Table:
    """Tensors on the host and on the device, and a table of each."""

    def __init__(self, gpu, dtype, states, copy=None, counts=None, adapts=False):
        rng = np.random.default_rng(1)
        self.rows, self.device = [], []
        for n in SIZES:
            row = [rng.standard_normal(n).astype(dtype) for _ in range(2)]
            row += [np.abs(rng.standard_normal(n)).astype(dtype) for _ in range(states)]
            if copy is not None:
                row.append(np.zeros(n, copy))
            self.rows.append(row)
            self.device.append([gpu.asarray(a) for a in row])
        self.count = [np.full(1, 2, np.float32) for _ in SIZES] if counts else None
        self.there_count = [gpu.asarray(c) for c in self.count] if counts else None
        kind = {"float32": 4, "float16": 2, "bfloat16": 3}
        self.kind = kind[np.dtype(dtype).name] + (256 if adapts else 0)
        self.kind += 0 if copy is None else 16 * kind[np.dtype(copy).name]
        self.states, self.copied = states, copy is not None
        self.host = self._table(self.rows, self.count, lambda a: a.ctypes.data)
        self.there = gpu.asarray(self._table(self.device, self.there_count, lambda a: a.data.ptr))

    def _table(self, rows, counts, address):
        words, chunks = [], []
        for i, row in enumerate(rows):
            words += [address(a) for a in row[: 2 + self.states]] + [0] * (3 - self.states)
            words.append(address(row[-1]) if self.copied else 0)
            words += [address(counts[i]) if counts else 0, SIZES[i], len(chunks), self.kind]
            chunks += [i << 32 | c for c in range(-(-SIZES[i] // 8192))]
        return np.array(words + chunks, np.uint64)

    def compare(self, rtol):
        counts = zip(self.there_count or [], self.count or [], strict=True)
        pairs = [p for d, h in zip(self.device, self.rows, strict=True) for p in zip(d, h)]  # noqa: B905
        for got, want in [*pairs, *counts]:
            np.testing.assert_allclose(
                got.get().astype(np.float32), want.astype(np.float32), rtol=rtol, atol=rtol
            )


STEPS = {
    # name: (kind, states, settings)
    "sgd": (0, 1, (0.1, 0.9, 0.5, 0.01)),
    "adam": (1, 3, (0.1, 0.9, 0.99, 1e-8, 0.1, 1.0)),
    "rmsprop": (2, 3, (0.1, 0.9, 1e-3, 0.1, 0.5)),
    "adagrad": (3, 1, (0.1, 0.2, 1e-8, 0.1)),
    "lars": (4, 1, (0.1, 0.9, 0.1, 0.01, 1e-8)),
    "lamb": (5, 2, (0.1, 0.9, 0.99, 1e-6, 0.1, 0.0, 0.0, 0.5, 2.0)),
    "average": (6, 0, (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0)),
}


def both(gpu, name, dtype, grid, block, table, *args):
    """Run a kernel and its twin; arrays among `args` are (device, host)."""
    there = [a[0] if isinstance(a, tuple) else a for a in args]
    here = [a[1] if isinstance(a, tuple) else a for a in args]
    launch(name, dtype, grid, block, (table.there, np.int32(len(SIZES)), *there))
    TWINS[name](table.host, len(SIZES), *here)


def pair_of(gpu, array):
    return gpu.asarray(array), array


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_steps_are_the_twins(gpu, name, dtype):
    kind, states, settings = STEPS[name]
    dtype = np.dtype(dtype)
    copy = np.float16 if name == "adam" and dtype == np.float32 else None
    table = Table(gpu, dtype, states, copy, counts=name != "average", adapts=True)
    hyper = pair_of(gpu, np.zeros(10))
    padded = [np.float64(v) for v in (*settings, *(0.0,) * (10 - len(settings)))]
    launch("optim_hyper", None, (1,), (32,), (hyper[0], *padded))
    TWINS["optim_hyper"](hyper[1], *padded)
    found = pair_of(gpu, np.zeros(1, np.float32))
    scale = pair_of(gpu, np.array([4, 0.25], np.float32))
    numbers = pair_of(gpu, np.zeros(16 * len(SIZES), np.float32))
    head = (np.int32(kind), hyper, np.float32(-1), found, scale, numbers)
    both(gpu, "optim_prepare", None, (1,), (128,), table, *head)
    chunks, flags = (4,), (np.int32(1),) if name in ("sgd", "lars") else ()
    if name in ("lars", "lamb"):
        partial = pair_of(gpu, np.zeros(8))
        both(gpu, f"{name}_norms", dtype, chunks, (256,), table, numbers, partial)
        np.testing.assert_allclose(partial[0].get(), partial[1], rtol=1e-2)
        args = (np.int32(kind), partial, numbers)
        both(gpu, "optim_ratio", None, (len(SIZES),), (128,), table, *args)
    both(gpu, f"{name}_step", dtype, chunks, (256,), table, numbers, *flags)
    np.testing.assert_allclose(numbers[0].get(), numbers[1], rtol=2e-3)
    table.compare({"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype.name])
    if name == "adam":  # a skipped step
        before = [a.get() for row in table.device for a in row]
        found[0].fill(1)
        args = (table.there, np.int32(len(SIZES)), head[0], hyper[0], head[2])
        launch("optim_prepare", None, (1,), (128,), (*args, found[0], scale[0], numbers[0]))
        launch("adam_step", dtype, chunks, (256,), (*args[:2], numbers[0]))
        after = [a.get() for row in table.device for a in row]
        assert all((x == y).all() for x, y in zip(after, before, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_gradient_kernels_are_the_twins(gpu, dtype):
    table = Table(gpu, dtype, 0)
    dtype = np.dtype(dtype)
    scale = pair_of(gpu, np.array([4, 0.25], np.float32))
    found = pair_of(gpu, np.zeros(1, np.float32))
    for writes in (0, 1):
        args = (scale, found, np.int32(writes))
        both(gpu, "grads_unscale", dtype, (4,), (256,), table, *args)
        assert found[0].get()[0] == found[1][0] == 0
    partial, out = pair_of(gpu, np.zeros(4)), pair_of(gpu, np.zeros(2, np.float32))
    both(gpu, "grads_squares", dtype, (4,), (256,), table, partial)
    np.testing.assert_allclose(partial[0].get(), partial[1], rtol=1e-12)
    for most in (1.0, 1e9):
        args = (np.int64(4), np.float32(most))
        launch("grads_norm", None, (1,), (256,), (partial[0], *args, out[0]))
        TWINS["grads_norm"](partial[1], *args, out[1])
        np.testing.assert_allclose(out[0].get(), out[1], rtol=1e-6)
    for coefficient in (0.3, 1.0):
        c = pair_of(gpu, np.array([coefficient], np.float32))
        both(gpu, "grads_clip", dtype, (4,), (256,), table, c)
    table.compare(1e-6)
    table.rows[1][1][8000] = np.inf
    table.device[1][1][8000] = np.inf
    both(gpu, "grads_unscale", dtype, (4,), (256,), table, scale, found, np.int32(0))
    assert found[0].get()[0] == found[1][0] == 1


def test_scales_are_the_twins(gpu):
    scale = pair_of(gpu, np.array([1e38, 1e-38], np.float32))
    tracker, found = pair_of(gpu, np.zeros(1, np.int32)), pair_of(gpu, np.zeros(3, np.float32))
    for bad in (False, False, True, False, False, False):
        if bad:
            found[0][1] = found[1][1] = 1
        args = (np.int32(3), np.float32(8), np.float32(0.5), np.int32(2))
        launch("scale_update", None, (1,), (32,), (scale[0], tracker[0], found[0], *args))
        TWINS["scale_update"](scale[1], tracker[1], found[1], *args)
        for got, want in (scale, tracker, found):
            np.testing.assert_allclose(got.get(), want, rtol=1e-6)
