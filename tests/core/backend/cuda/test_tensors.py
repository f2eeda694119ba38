"""Tensors on a GPU: made there, moved there and back, asked where they are."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

MAKE = {
    "tensor": lambda d: ag.tensor([1.0, 2.0], device=d),
    "as_tensor": lambda d: ag.as_tensor(np.array([1.0, 2.0]), device=d),
    "zeros": lambda d: ag.zeros(2, 3, device=d),
    "ones": lambda d: ag.ones(2, device=d),
    "full": lambda d: ag.full((2,), 3, device=d),
    "arange": lambda d: ag.arange(1, 9, 2, device=d),
    "linspace": lambda d: ag.linspace(0, 1, 5, device=d),
    "logspace": lambda d: ag.logspace(0, 1, 5, device=d),
    "eye": lambda d: ag.eye(2, 3, device=d),
    "tril_indices": lambda d: ag.tril_indices(3, 3, device=d),
    "scalar_tensor": lambda d: ag.scalar_tensor(2.5, device=d),
    "zeros_like": lambda d: ag.zeros_like(ag.ones(2, device=d)),
    "full_like": lambda d: ag.full_like(ag.ones(2, device=d), 7),
    "new_tensor": lambda d: ag.ones(2, device=d).new_tensor([3, 4]),
    "new_zeros": lambda d: ag.ones(2, device=d).new_zeros(3),
    "new_full": lambda d: ag.ones(2, device=d).new_full((3,), 2),
    "empty_strided": lambda d: ag.empty_strided((2, 2), (1, 2), device=d).fill_(1),
}


@pytest.mark.parametrize("name", MAKE)
def test_made_there(name):
    there, here = MAKE[name]("cuda"), MAKE[name]("cpu")
    assert there.device == ag.device("cuda:0")
    assert there.is_cuda
    assert not there.is_cpu
    assert there.get_device() == 0
    assert (there.dtype, there.shape) == (here.dtype, here.shape)
    assert there.cpu().tolist() == there.tolist() == here.tolist()


def test_there_and_back():
    here = ag.randn(2, 3, 4)
    there = here.cuda()
    assert there.cuda() is there is there.to("cuda:0") is there.to(ag.device("cuda"))
    assert there.to("cpu", ag.float64).dtype is ag.float64
    assert there.to(here).is_cpu
    assert here.to(there).is_cuda
    np.testing.assert_array_equal(there.cpu().numpy(), here.numpy())
    np.testing.assert_array_equal(there.transpose(0, 2).cpu().numpy(), here.transpose(0, 2).numpy())
    with pytest.raises(TypeError, match=r"cuda:0.*cpu"):
        there.numpy()
    with pytest.raises(TypeError, match=r"cuda:0.*cpu"):
        np.asarray(there)
    np.testing.assert_array_equal(there.numpy(force=True), here.numpy())


def test_strides_survive():
    here = ag.nn.functional.max_pool2d(ag.randn(2, 3, 4, 4), 2)  # channels-last in memory
    there = here.cuda()
    assert there._array.strides == here._array.strides
    assert there.cpu()._array.strides == here._array.strides


def test_gradients_cross():
    here = ag.randn(3, requires_grad=True)
    (here.cuda() * 2).sum().backward()
    assert here.grad.is_cpu
    assert here.grad.tolist() == [2, 2, 2]
    there = ag.ones(3, device="cuda", requires_grad=True)
    (there.cpu() * 3).sum().backward()
    assert there.grad.is_cuda
    assert there.grad.tolist() == [3, 3, 3]


def test_copies():
    there = ag.arange(3, device="cuda")
    for same in (copy.deepcopy(there), pickle.loads(pickle.dumps(there)), there.clone()):
        assert same.is_cuda
        assert same.tolist() == [0, 1, 2]
    there.copy_(ag.tensor([5, 6, 7]))
    assert there.tolist() == [5, 6, 7]
    here = ag.zeros(3).copy_(there)
    assert here.tolist() == [5, 6, 7]
    assert here.is_cpu


def test_files():
    file = io.BytesIO()
    shared = ag.ones(2, device="cuda")
    ag.save({"a": shared, "b": shared}, file)
    for place, cuda in ((None, False), ("cuda", True), ({"cpu": "cuda:0"}, True)):
        file.seek(0)
        loaded = ag.load(file, map_location=place)
        assert loaded["a"].is_cuda is cuda
        loaded["a"] += 1
        assert loaded["b"].tolist() == [2, 2]  # one memory


def test_modules():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).cuda()
    assert {p.device.type for p in net.parameters()} == {"cuda"}
    assert {b.device.type for b in net.buffers()} == {"cuda"}
    assert net[1].num_batches_tracked.dtype is ag.int64
    before = net[0].weight
    net.load_state_dict({k: v.cpu() + 1 for k, v in net.state_dict().items()})
    assert net[0].weight is before
    assert {v.device.type for v in net.state_dict().values()} == {"cuda"}
    assert {p.device.type for p in net.cpu().parameters()} == {"cpu"}


def test_layers_start_alike_on_all_devices():
    ag.manual_seed(3)
    here = nn.Conv2d(3, 4, 3)
    ag.manual_seed(3)
    there = nn.Conv2d(3, 4, 3, device="cuda")
    assert there.weight.is_cuda
    assert there.weight.tolist() == here.weight.tolist()
    with ag.device("cuda"):
        assert nn.Linear(2, 2).weight.is_cuda
        assert ag.zeros(1).is_cuda
    assert ag.zeros(1).is_cpu
    lazy = nn.LazyLinear(3, device="cuda")
    assert lazy(ag.ones(2, 5, device="cuda")).is_cuda


def test_printing():
    assert repr(ag.tensor([1.5], device="cuda")) == "tensor([1.5000], device='cuda:0')"
    assert f"{ag.tensor(2.0, device='cuda'):.1f}" == "2.0"


def test_pinned_memory():
    pinned = ag.ones(5).pin_memory()
    assert pinned.is_pinned()
    assert not ag.ones(5).is_pinned()
    assert pinned.cuda(non_blocking=True).tolist() == [1.0] * 5
    with pytest.raises(RuntimeError, match="main memory"):
        pinned.cuda().pin_memory()


def test_no_such_gpu():
    with pytest.raises(RuntimeError, match=r"cuda:7.*below"):
        ag.zeros(2, device="cuda:7")


def test_questions():
    cuda = ag.cuda
    assert cuda.is_available()
    assert cuda.device_count() >= 1
    assert cuda.current_device() == 0
    ag.ones(1000, device="cuda")
    assert cuda.is_initialized()
    cuda.synchronize()
    assert cuda.get_device_capability() >= (8, 0)
    assert cuda.is_bf16_supported()
    kept = ag.ones(1 << 20, device="cuda")
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    assert before >= kept.nbytes
    more = ag.ones(1 << 20, device="cuda")
    del more
    assert cuda.max_memory_allocated() >= before + (4 << 20)
    assert cuda.memory_reserved() >= cuda.memory_allocated()


def test_events():
    start, end = ag.cuda.Event(enable_timing=True), ag.cuda.Event(enable_timing=True)
    start.record()
    ag.ones(3, device="cuda").sum()
    end.record()
    ag.cuda.synchronize()
    assert start.elapsed_time(end) >= 0
    assert end.query()


def test_side_streams_as_pytorchs_manual_uses_them():
    x = ag.randn(4, 3, 8, 8).cuda()
    conv = nn.Conv2d(3, 4, 3).cuda()
    aside = ag.cuda.Stream(priority=-1)
    aside.wait_stream(ag.cuda.current_stream())
    with ag.cuda.stream(aside):
        y = ag.relu(conv(x))
        done = aside.record_event()
    ag.cuda.current_stream().wait_stream(aside)
    done.synchronize()
    assert aside == ag.cuda.current_stream() == ag.cuda.default_stream()
    assert aside.query()
    want = ag.relu(conv.cpu()(x.cpu())).detach().numpy()
    np.testing.assert_allclose(y.detach().cpu().numpy(), want, rtol=1e-5, atol=1e-5)
