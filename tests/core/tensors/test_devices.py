"""Devices: their names, what can be made where, and what `allgrad.cuda` answers without a GPU."""

from __future__ import annotations

import copy
import pickle

import pytest

import allgrad as ag

NAMES = ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:3", "mps", "meta", "xpu:1"]


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_device_like_torch(name):
    torch = pytest.importorskip("torch")
    ours, theirs = ag.device(name), torch.device(name)
    assert (ours.type, ours.index) == (theirs.type, theirs.index)
    assert (str(ours), repr(ours)) == (str(theirs), repr(theirs))
    assert (ours == name) == (theirs == name)
    for same in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ag.device(ours)):
        assert same == ours
        assert hash(same) == hash(ours)


def test_device_from_parts():
    assert ag.device("cuda", 2) == ag.device(2) == ag.device(type="cuda", index=2)
    assert ag.device("cuda") != ag.device("cuda:0")
    assert len({ag.device("cuda:0"), ag.device("cuda", 0), ag.device("cpu")}) == 2
    with pytest.raises(AttributeError, match="type"):
        ag.device("cpu").type = "cuda"


@pytest.mark.parametrize(("arguments", "kind", "message"), [
    (("tpu",), RuntimeError, "'tpu'.*known: cpu, cuda"),
    (("",), RuntimeError, "known"),
    (("cuda:x",), RuntimeError, "number"),
    (("cuda:",), RuntimeError, "number"),
    (("cuda:-1",), RuntimeError, "number"),
    (("cuda", -1), RuntimeError, "0 or more"),
    (("cuda:0", 1), RuntimeError, "index"),
    (("cuda", 1.0), TypeError, "integer"),
    ((1.5,), TypeError, "float"),
    ((None,), TypeError, "NoneType"),
])  # fmt: skip
def test_no_such_device(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ag.device(*arguments)


MAKE = {
    "tensor": lambda d: ag.tensor([1.0], device=d),
    "as_tensor": lambda d: ag.as_tensor([1.0], device=d),
    "zeros": lambda d: ag.zeros(2, device=d),
    "to": lambda d: ag.ones(2).to(d),
    "to keyword": lambda d: ag.ones(2).to(device=d, dtype=ag.float64),
    "to both": lambda d: ag.ones(2).to(d, ag.float64, True),
    "module": lambda d: ag.nn.Linear(2, 2).to(d).weight,
}


@pytest.mark.parametrize("name", MAKE)
def test_made_on_a_device(name):
    for device in ("cpu", ag.device("cpu"), "cpu:0"):
        assert MAKE[name](device).device == ag.device("cpu")
    with pytest.raises(RuntimeError, match=r"cuda.*no GPU is here.*is_available"):
        MAKE[name]("cuda")
    with pytest.raises(RuntimeError, match=r"'mps'.*'cpu'"):
        MAKE[name](ag.device("mps"))
    with pytest.raises(RuntimeError, match="known"):
        MAKE[name]("tpu")


def test_flags_of_a_tensor():
    t = ag.ones(2)
    assert (t.is_cpu, t.is_cuda, t.is_mps, t.is_meta, t.is_sparse) == (True, *[False] * 4)
    assert t.get_device() == -1
    assert t.cpu() is t is t.pin_memory() is t.to("cpu", non_blocking=True)
    assert not t.is_pinned()
    with pytest.raises(RuntimeError, match="no GPU is here"):
        t.cuda()


def test_default_device():
    assert ag.get_default_device() == ag.device("cpu")
    with ag.device("cpu"):
        assert ag.zeros(1).device.type == "cpu"
    with pytest.raises(RuntimeError, match="no GPU is here"), ag.device("cuda"):
        pass
    with pytest.raises(RuntimeError, match="no GPU is here"):
        ag.set_default_device("cuda")
    ag.set_default_device(None)


def test_cuda_without_a_gpu():
    cuda = ag.cuda
    assert not cuda.is_available()
    assert cuda.device_count() == 0
    assert not cuda.is_bf16_supported()
    assert not cuda.is_initialized()
    for name in ("empty_cache", "ipc_collect", "seed", "seed_all", "reset_peak_memory_stats"):
        assert getattr(cuda, name)() is None
    cuda.manual_seed(1)
    cuda.manual_seed_all(1)
    assert cuda.memory_allocated() == cuda.max_memory_allocated() == cuda.memory_reserved() == 0
    assert cuda.max_memory_reserved() == 0
    assert cuda.get_rng_state_all() == []
    cuda.set_rng_state_all([])
    with cuda.device(None), cuda.device(-1):
        pass


@pytest.mark.parametrize("call", [
    lambda c: c.synchronize(), lambda c: c.current_device(), lambda c: c.init(),
    lambda c: c.set_device(0), lambda c: c.get_device_name(), lambda c: c.get_device_properties(0),
    lambda c: c.get_device_capability(), lambda c: c.mem_get_info(), lambda c: c.get_rng_state(),
    lambda c: c.set_rng_state_all([1]), lambda c: c.device(0).__enter__(),
])  # fmt: skip
def test_cuda_refuses_what_needs_a_gpu(call):
    with pytest.raises(RuntimeError, match="no GPU is here"):
        call(ag.cuda)


CASTS = {
    "bool": "bool", "byte": "uint8", "char": "int8", "short": "int16", "int": "int32",
    "long": "int64", "half": "float16", "float": "float32", "double": "float64",
    "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", CASTS)
def test_cast_methods(name):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(ag.tensor([0.0, 1.5]), name)(), getattr(torch.tensor([0.0, 1.5]), name)()
    assert ours.dtype.name == CASTS[name] == str(theirs.dtype)[6:]
    assert ours.tolist() == theirs.tolist()
    assert ours.type() == theirs.type().replace("torch", "allgrad")
    flags = ("is_floating_point", "is_complex", "is_signed")
    assert [getattr(ours, f)() for f in flags] == [getattr(theirs, f)() for f in flags]
    back = ag.tensor([1.0]).type(ours.type())
    assert back.dtype == ours.dtype
    assert ag.tensor([1.0]).type_as(ours).dtype == ours.dtype


def test_to_copies_only_if_asked():
    t = ag.ones(2, requires_grad=True)
    assert t.to(ag.float32) is t is t.to(t) is t.to("cpu") is t.to(ag.float32, False, False)
    for copy_of in (t.to(ag.float32, copy=True), t.to("cpu", ag.float32, False, True)):
        assert copy_of is not t
        copy_of.sum().backward()
    assert t.grad.tolist() == [2, 2]
    assert t.to(ag.ones(1, dtype=ag.int32)).dtype == ag.int32


@pytest.mark.parametrize("call", [
    lambda t: t.to(ag.float32, 3), lambda t: t.to(sparse=True),
    lambda t: t.to(ag.float32, True, False, True), lambda t: t.to([1]),
])  # fmt: skip
def test_to_refuses_what_it_does_not_know(call):
    with pytest.raises(TypeError):
        call(ag.ones(2))
