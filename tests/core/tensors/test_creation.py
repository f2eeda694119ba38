"""Functions that make tensors: values, dtypes and mistakes as in PyTorch, by one table."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag

A = np.array([[1.5, 2.5]])
# Written once for both libraries; they must agree in shape, dtype and values, or in the mistake.
MAKE = [
    lambda lib: lib.tensor([lib.tensor(1.0), 2]),
    lambda lib: lib.tensor([[lib.tensor(1), 2], [3, 4]]),
    lambda lib: lib.tensor([np.float64(1)]),
    lambda lib: lib.tensor(range(3)),
    lambda lib: lib.tensor([True, 2]),
    lambda lib: lib.tensor(1 + 2j),
    lambda lib: lib.tensor([]),
    lambda lib: lib.tensor([[], []]),
    lambda lib: lib.tensor(3.7, dtype=lib.int64),
    lambda lib: lib.tensor([1, 0], dtype=lib.bool),
    lambda lib: lib.tensor("a"),
    lambda lib: lib.tensor([[1], [1, 2]]),
    lambda lib: lib.tensor([1], requires_grad=True),
    lambda lib: lib.as_tensor([1, 2], dtype=lib.float32),
    lambda lib: lib.as_tensor(A),
    lambda lib: lib.asarray([1, 2]),
    lambda lib: lib.asarray(A, copy=True),
    lambda lib: lib.asarray([1.5], copy=False),
    lambda lib: lib.from_numpy(A),
    lambda lib: lib.frombuffer(bytearray(b"\x01\x02\x03\x04"), dtype=lib.uint8, count=2, offset=1),
    lambda lib: lib.frombuffer(bytearray(3), dtype=lib.int32),
    lambda lib: lib.scalar_tensor(3),
    lambda lib: lib.zeros(2, 3),
    lambda lib: lib.zeros((2, 3), dtype=lib.int16),
    lambda lib: lib.zeros(size=(2,)),
    lambda lib: lib.zeros([lib.tensor(2), np.int64(3)]),
    lambda lib: lib.zeros(-1),
    lambda lib: lib.zeros(2, 3.5),
    lambda lib: lib.zeros("a"),
    lambda lib: lib.zeros(()),
    lambda lib: lib.zeros(2, dtype=float),
    lambda lib: lib.zeros(2, dtype=int).to(complex),
    lambda lib: lib.ones(2).to(bool),
    lambda lib: lib.ones(2, dtype=lib.complex64, device="cpu"),
    lambda lib: lib.ones(2, dtype=lib.int64, requires_grad=True),
    lambda lib: lib.full((2,), True),
    lambda lib: lib.full([2, 1], 3),
    lambda lib: lib.full((2,), 1 + 1j),
    lambda lib: lib.full((2,), 3, dtype=lib.float64),
    lambda lib: lib.full((), lib.tensor(2.5)),
    lambda lib: lib.full_like(lib.ones(2, dtype=lib.int64), 3.5),
    lambda lib: lib.zeros_like(lib.ones(2, 2), dtype=lib.int8, device="cpu"),
    lambda lib: lib.ones_like(lib.zeros(0, 2)),
    lambda lib: lib.empty_like(lib.ones(2)).zero_(),
    lambda lib: lib.empty(2, 0),
    lambda lib: lib.empty_strided((2, 3), (1, 2)).fill_(1),
    lambda lib: lib.empty_strided((2, 3), (1,)),
    lambda lib: lib.arange(5),
    lambda lib: lib.arange(0.5, 3),
    lambda lib: lib.arange(3, 0, -1),
    lambda lib: lib.arange(3, 0),
    lambda lib: lib.arange(0, 1, 0.1),
    lambda lib: lib.arange(5, dtype=lib.float16, device="cpu"),
    lambda lib: lib.arange(lib.tensor(3)),
    lambda lib: lib.arange(1, 2, 0),
    lambda lib: lib.arange(-2, 7, 3),
    lambda lib: lib.linspace(0, 1, 0),
    lambda lib: lib.linspace(-1, 1, 7),
    lambda lib: lib.linspace(0, 10, 5, dtype=lib.int64),
    lambda lib: lib.linspace(0, 1, 1),
    lambda lib: lib.linspace(0, 1, -1),
    lambda lib: lib.logspace(0, 2, 3),
    lambda lib: lib.logspace(-1, 2, 4, base=2, dtype=lib.float64),
    lambda lib: lib.eye(3),
    lambda lib: lib.eye(2, 3, dtype=lib.int64),
    lambda lib: lib.eye(-1),
    lambda lib: lib.tril_indices(3, 4, 1),
    lambda lib: lib.triu_indices(3, 2, offset=-1),
    lambda lib: lib.tril_indices(0, 2, dtype=lib.int32),
    lambda lib: lib.triu_indices(-1, 2),
    lambda lib: lib.rand(2, dtype=lib.int64),
    lambda lib: lib.randn(2, dtype=lib.bool),
    lambda lib: lib.randint(5, 3, (2,)),
    lambda lib: lib.randperm(-1),
    lambda lib: lib.randint(1, (2,), dtype=lib.float32),
    lambda lib: lib.randint(low=3, high=4, size=(2,)),
    lambda lib: lib.randint(1, size=(2,)),
    lambda lib: lib.randint_like(lib.ones(2), 1),
    lambda lib: lib.randint_like(lib.ones(2, dtype=lib.int32), 4, 5),
    lambda lib: lib.rand(0, 2),
    lambda lib: lib.randperm(1),
    lambda lib: lib.ones(2, dtype=lib.float64).new_tensor([[1, 2]]),
    lambda lib: lib.ones(2).new_zeros(2, 3),
    lambda lib: lib.ones(2).new_zeros((2,), dtype=lib.int64),
    lambda lib: lib.ones(2, dtype=lib.int64).new_ones(size=(2,)),
    lambda lib: lib.ones(2, dtype=lib.int64).new_full((2,), 3.5),
    lambda lib: lib.ones(2).new_empty(0),
    lambda lib: lib.ones(2).new([1, 2]),
    lambda lib: lib.ones(2).new_zeros(-1),
    lambda lib: lib.FloatTensor([1, 2]),
    lambda lib: lib.FloatTensor(A),
    lambda lib: lib.FloatTensor(),
    lambda lib: lib.FloatTensor(2, 3).zero_(),
    lambda lib: lib.FloatTensor(3.5),
    lambda lib: lib.LongTensor([1]),
    lambda lib: lib.LongTensor([[1, 2]]),
    lambda lib: lib.IntTensor(2).zero_(),
    lambda lib: lib.DoubleTensor((2, 3)),
    lambda lib: lib.BoolTensor([1, 0]),
    lambda lib: lib.ByteTensor([1, 0]),
    lambda lib: lib.HalfTensor([1, 0]),
    lambda lib: lib.Tensor([1, 2]),
    lambda lib: lib.Tensor(2, 3).zero_(),
    lambda lib: lib.Tensor(lib.Size([2, 3])).zero_(),
    lambda lib: lib.Tensor(),
    lambda lib: lib.Tensor(3.5),
]
KINDS = (IndexError, TypeError, ValueError, NotImplementedError, RuntimeError)


@pytest.mark.torch
@pytest.mark.parametrize("number", range(len(MAKE)))
def test_like_torch(number):
    torch = pytest.importorskip("torch")
    make = MAKE[number]
    try:
        theirs = make(torch)
    except KINDS as err:
        kind = next(k for k in KINDS if isinstance(err, k))
        with pytest.raises(kind):
            make(ag)
        return
    ours = make(ag)
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.dtype.name == str(theirs.dtype)[6:]
    assert ours.requires_grad == theirs.requires_grad
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6, atol=1e-7)


MAKERS = {
    "zeros": lambda **o: ag.zeros(2, **o), "ones": lambda **o: ag.ones(2, **o),
    "empty": lambda **o: ag.empty(2, **o), "full": lambda **o: ag.full((2,), 1.0, **o),
    "arange": lambda **o: ag.arange(3.0, **o), "linspace": lambda **o: ag.linspace(0, 1, 3, **o),
    "logspace": lambda **o: ag.logspace(0, 1, 3, **o), "eye": lambda **o: ag.eye(2, **o),
    "rand": lambda **o: ag.rand(2, **o), "randn": lambda **o: ag.randn(2, **o),
    "zeros_like": lambda **o: ag.zeros_like(ag.ones(2), **o),
    "ones_like": lambda **o: ag.ones_like(ag.ones(2), **o),
    "empty_like": lambda **o: ag.empty_like(ag.ones(2), **o),
    "full_like": lambda **o: ag.full_like(ag.ones(2), 1.0, **o),
    "rand_like": lambda **o: ag.rand_like(ag.ones(2), **o),
    "randn_like": lambda **o: ag.randn_like(ag.ones(2), **o),
    "tensor": lambda **o: ag.tensor([1.0], **o),
    "scalar_tensor": lambda **o: ag.scalar_tensor(1.0, **o),
    "empty_strided": lambda **o: ag.empty_strided((2,), (1,), **o),
    "new_zeros": lambda **o: ag.ones(2).new_zeros(2, **o),
    "new_ones": lambda **o: ag.ones(2).new_ones(2, **o),
    "new_full": lambda **o: ag.ones(2).new_full((2,), 3, **o),
    "new_tensor": lambda **o: ag.ones(2).new_tensor([1], **o),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_options(name):
    make = MAKERS[name]
    assert make(device="cpu").dtype == ag.float32
    out = make(dtype=ag.float64, requires_grad=True)
    assert out.dtype == ag.float64
    assert out.requires_grad
    assert out.is_leaf
    with pytest.raises(RuntimeError, match="no GPU is here"):
        make(device="cuda")
    with pytest.raises(TypeError, match="layout"):
        make(layout="sparse")


def test_memory_is_shared_where_promised():
    array = np.ones(3, np.float32)
    for shared in (ag.from_numpy(array), ag.as_tensor(array), ag.asarray(array, copy=False),
                   ag.frombuffer(array, dtype=ag.float32)):  # fmt: skip
        shared.add_(1)
    assert array.tolist() == [5, 5, 5]
    for own in (ag.tensor(array), ag.asarray(array, copy=True), ag.FloatTensor(array)):
        own.zero_()
    assert array.tolist() == [5, 5, 5]
    t = ag.ones(2)
    assert ag.as_tensor(t) is t


def test_legacy_types_know_their_tensors():
    assert isinstance(ag.ones(2), ag.FloatTensor)
    assert not isinstance(ag.ones(2), ag.LongTensor)
    assert not isinstance(np.ones(2, np.float32), ag.FloatTensor)
    assert ag.LongTensor.dtype == ag.int64
    assert repr(ag.LongTensor) == "<class 'allgrad.LongTensor'>"
    assert ag.ones(2).type(ag.LongTensor).dtype == ag.int64
    assert ag.BFloat16Tensor([1]).dtype == ag.bfloat16


def test_size_is_a_tuple_with_numel():
    size = ag.ones(2, 3, 4).shape
    assert isinstance(size[1:], ag.Size)
    assert size[1:].numel() == 12
    assert isinstance(size + (5,), ag.Size)  # noqa: RUF005 - the sum is what is tested
    assert size * 2 == (2, 3, 4, 2, 3, 4)
    assert repr(size) == "allgrad.Size([2, 3, 4])"
    assert size[-1] == 4
