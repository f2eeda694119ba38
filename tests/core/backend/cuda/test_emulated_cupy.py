"""The stand-in for CuPy refuses what CuPy refuses, and gives results of its types."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest

if os.environ.get("ALLGRAD_TEST_GPU") == "1":
    pytest.skip("the stand-in itself is tested", allow_module_level=True)

from support.emulated_gpu import emulated_gpu
from support.emulated_gpu.state import thread

BF16 = ml_dtypes.bfloat16


@pytest.fixture
def cupy():
    before = thread.device, dict(thread.streams)
    with emulated_gpu() as module:
        thread.device, thread.streams = 0, {}
        yield module
        thread.device, thread.streams = before


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda x, i: x + np.ones(3, np.float32), "Unsupported type"),
        (lambda x, i: np.concatenate([x, np.ones(3)]), "Unsupported type|no implementation"),
        (lambda x, i: np.asarray(x), "Implicit conversion"),
        (lambda x, i: np.ascontiguousarray(x), "Implicit conversion"),
        (lambda x, i: np.lib.stride_tricks.as_strided(x, (2,), (4,)), "Implicit conversion"),
        (lambda x, i: x / [1, 2, 3], "unsupported operand"),
        (lambda x, i: np.sum(x, initial=1), "unexpected keyword argument 'initial'"),
        (lambda x, i: x.sum(where=True), "unexpected keyword argument 'where'"),
        (lambda x, i: np.add(x, 1, where=True), "Wrong arguments"),
        (lambda x, i: np.take(x, i, mode="clip"), "unexpected keyword argument 'mode'"),
        (lambda x, i: x.item(0), "item"),
        (lambda x, i: np.multiply.at(x, i, 2), "multiply.at. is not supported"),
        (lambda x, i: np.maximum.reduce(x), "maximum.reduce. is not supported"),
        (lambda x, i: np.maximum.accumulate(x), "maximum.accumulate. is not supported"),
        (lambda x, i: np.minimum.reduceat(x, i), "minimum.reduceat. is not supported"),
        (lambda x, i: np.add.at(x.astype(BF16), i, 1), "add.at only supports .*came bfloat16"),
        (lambda x, i: np.subtract.at(x, i, 1), "subtract.at only supports"),
        (lambda x, i: (x > 0) - (x > 1), "Wrong type"),
        (lambda x, i: -(x > 0), "Wrong type"),
        (lambda x, i: np.invert(x), "Wrong type"),
        (lambda x, i: x.itemset(1), "has no attribute 'itemset'"),
        (lambda x, i: x.__array_interface__, "has no attribute"),
        (lambda x, i: x.set([1, 2, 3]), "Only numpy.ndarray can be set"),
        (lambda x, i: x.set(np.ones(3)), "cannot be set to float32"),
        (lambda x, i: hash(x), "unhashable"),
    ],
)
def test_refused(cupy, work, said):
    x, i = cupy.ones(3, np.float32), cupy.arange(3)
    with pytest.raises((TypeError, ValueError, NotImplementedError, AttributeError), match=said):
        work(x, i)


@pytest.mark.parametrize(
    ("work", "dtype"),
    [
        (lambda a: a("f4") + 1, "float32"),
        (lambda a: a("f4") + 1.5, "float32"),
        (lambda a: a("f4") + np.float64(1), "float64"),
        (lambda a: a("f2") * a("i1"), "float16"),
        (lambda a: a("i4") / 2, "float64"),
        (lambda a: np.sqrt(a("i1")), "float16"),
        (lambda a: np.sqrt(a("i8")), "float64"),
        (lambda a: np.exp(a(BF16)), "bfloat16"),
        (lambda a: a(BF16) * a(BF16), "bfloat16"),
        (lambda a: a(BF16) + a("f2"), "float32"),
        (lambda a: np.isnan(a(BF16)), "bool"),
        (lambda a: a("u1") + 1, "uint8"),
        (lambda a: a("f4") * 1j, "complex64"),
        (lambda a: a("f4").sum(), "float32"),
        (lambda a: a("i4").sum(), "int64"),
    ],
)
def test_types(cupy, work, dtype):
    found = work(lambda t: cupy.asarray(np.ones(3, t)))
    assert type(found).__name__ == "ndarray"
    assert found.dtype.name == dtype


def test_selections_are_arrays_of_the_device(cupy):
    x = cupy.arange(6, dtype=np.float32).reshape(2, 3)
    one = x[1, 2]
    assert (one.shape, float(one)) == ((), 5.0)
    x[1, 2] = 9  # what was selected is a view
    assert float(one) == 9
    assert x.sum().shape == ()
    assert x[x > 2].tolist() == [3, 4, 9]
    assert x[:, cupy.asarray([0, 2])].tolist() == [[0, 2], [3, 9]]
    assert [float(v) for v in x[0]] == [0, 1, 2]
    assert x.T.flags.f_contiguous


def test_functions_of_the_module(cupy):
    x = cupy.ones((2, 3), np.float32)
    out = cupy.empty_like(x)
    assert cupy.add(x, x, out) is out
    assert cupy.get_array_module(x) is cupy
    assert cupy.get_array_module(np.ones(1)) is np
    assert cupy.asnumpy(cupy.concatenate([x, x], axis=1)).shape == (2, 6)
    cupy.add.at(out, 0, 1)
    assert out.tolist() == [[3] * 3, [2] * 3]
    with pytest.raises(TypeError, match="takes at most"):
        cupy.sum(x, 0, None, None, False, 1)
