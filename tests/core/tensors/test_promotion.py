"""Result dtypes of every pair of operands, compared with PyTorch."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

import allgrad as ag
from allgrad import dtypes

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

REAL = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
SCALARS = [True, 3, 2.5]
SHAPES = [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())]

BINARY = {
    "add": lambda lib, a, b: a + b,
    "sub": lambda lib, a, b: a - b,
    "mul": lambda lib, a, b: a * b,
    "div": lambda lib, a, b: a / b,
    "floor_divide": lambda lib, a, b: a // b,
    "remainder": lambda lib, a, b: a % b,
    "pow": lambda lib, a, b: a**b,
    "eq": lambda lib, a, b: a == b,
    "lt": lambda lib, a, b: a < b,
    "and": lambda lib, a, b: a & b,
    "xor": lambda lib, a, b: a ^ b,
    "logical_or": lambda lib, a, b: lib.logical_or(a, b),
    "maximum": lambda lib, a, b: lib.maximum(a, b),
    "fmod": lambda lib, a, b: lib.fmod(a, b),
    "where": lambda lib, a, b: lib.where(lib.tensor([True, False]), a, b),
    "div_trunc": lambda lib, a, b: lib.div(a, b, rounding_mode="trunc"),
    "div_floor": lambda lib, a, b: lib.div(a, b, rounding_mode="floor"),
}
TENSORS_ONLY = {"maximum", "logical_or", "where", "fmod", "div_trunc", "div_floor"}


def operand(lib, dtype, shape):
    values = np.array(3).astype(dtype) if shape == () else np.array([3, 2]).astype(dtype)
    return lib.tensor(values)


def outcome(function, *args):
    """(dtype name, values), or the kind of error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            y = function(*args)
        except (RuntimeError, TypeError, ZeroDivisionError, NotImplementedError) as err:
            return "error", "RuntimeError" if isinstance(err, RuntimeError) else "TypeError"
    return str(y.dtype).split(".")[-1], y.tolist()


def compare(name, *rows):
    wrong = []
    for label, ours, theirs in rows:
        same = ours[0] == theirs[0] == "error" or (
            ours[0] == theirs[0] and np.allclose(ours[1], theirs[1], 1e-3)
        )
        if not same:
            wrong.append(f"{label}: {ours}, PyTorch {theirs}")
    assert not wrong, f"{name}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", BINARY)
def test_tensor_with_tensor(name):
    function = BINARY[name]
    rows = []
    for a, b in itertools.product(REAL, REAL):
        for sa, sb in SHAPES:
            ours = outcome(function, ag, operand(ag, a, sa), operand(ag, b, sb))
            theirs = outcome(function, torch, operand(torch, a, sa), operand(torch, b, sb))
            rows.append((f"{a}{sa} with {b}{sb}", ours, theirs))
    compare(name, *rows)


@pytest.mark.parametrize("name", [n for n in BINARY if n not in TENSORS_ONLY])
def test_tensor_with_number(name):
    function = BINARY[name]
    rows = []
    for dtype, scalar, shape in itertools.product(REAL, SCALARS, ((2,), ())):
        if name == "pow" and dtype == "bool" and scalar is True:
            continue  # PyTorch takes one order of the two and refuses the other
        pairs = [(operand(lib, dtype, shape), lib) for lib in (ag, torch)]
        ours, theirs = (outcome(function, lib, t, scalar) for t, lib in pairs)
        rows.append((f"{dtype}{shape} with {scalar}", ours, theirs))
        ours, theirs = (outcome(function, lib, scalar, t) for t, lib in pairs)
        rows.append((f"{scalar} with {dtype}{shape}", ours, theirs))
    compare(name, *rows)


UNARY = ["exp", "sqrt", "log1p", "sin", "tanh", "sigmoid", "abs", "neg", "square", "sign", "floor",
         "round", "relu", "isnan", "reciprocal", "erf", "logical_not", "bitwise_not", "sum", "mean",
         "prod", "max", "argmax", "all", "any", "var"]  # fmt: skip


# Where PyTorch refuses bool, or gives uint8 for a truth value, we need not.
EXCEPTIONS = {
    **dict.fromkeys(["abs", "floor", "round", "relu", "argmax", "square"], ("bool",)),
    **dict.fromkeys(["all", "any"], ("uint8",)),
}


@pytest.mark.parametrize("name", UNARY)
def test_one_operand(name):
    compare(
        name,
        *(
            (
                d,
                outcome(lambda lib, d=d: getattr(operand(lib, d, (2,)), name)(), ag),
                outcome(lambda lib, d=d: getattr(operand(lib, d, (2,)), name)(), torch),
            )
            for d in REAL
            if d not in EXCEPTIONS.get(name, ())
        ),
    )


def test_numpy_scalars_count_as_numbers():
    t = ag.ones(2, dtype=ag.float32)
    for scalar in (np.float64(2.5), np.float32(2.5), np.int64(2), np.bool_(True)):
        assert (t * scalar).dtype is ag.float32
        assert (scalar * t).dtype is ag.float32
        assert isinstance(scalar * t, ag.Tensor)


def test_promote_types():
    names = [*REAL, "complex64", "complex128"]
    for a, b in itertools.product(names, names):
        ours = ag.promote_types(getattr(ag, a), getattr(ag, b))
        assert ours.name == str(torch.promote_types(getattr(torch, a), getattr(torch, b)))[6:]


def test_complex():
    a = ag.tensor([1 + 2j, 3.0])
    assert a.dtype is ag.complex64
    assert (a * 2.5).dtype is ag.complex64
    assert (ag.ones(2, dtype=ag.float64) * a).dtype is ag.complex128
    assert (ag.ones(2) * 1j).dtype is ag.complex64


def test_default_dtype_rules_python_floats():
    ag.set_default_dtype(ag.float64)
    assert ag.tensor([1.5]).dtype is ag.float64
    assert (ag.tensor([1]) * 1.5).dtype is ag.float64
    assert ag.zeros(2).dtype is ag.float64
    assert ag.nn.Linear(2, 2).weight.dtype is ag.float64
    assert (ag.ones(2, dtype=ag.float32) * 1.5).dtype is ag.float32
    with pytest.raises(RuntimeError, match="floating"):
        ag.set_default_dtype(ag.int64)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.name)
def test_casts(dtype):
    x = ag.tensor([0.0, 1.0, 2.9])
    y = x.to(dtype)
    assert y.dtype is dtype
    expected = torch.tensor([0.0, 1.0, 2.9]).to(getattr(torch, dtype.name))
    assert y.tolist() == expected.tolist()
    assert y.to(dtype) is y
    assert y.to(dtype, copy=True) is not y


@pytest.mark.parametrize(("data", "name"), [
    ([1, 2], "int64"), ([1.0, 2], "float32"), ([True], "bool"), ([1 + 1j], "complex64"),
    ([], "float32"),
    (3, "int64"), (2.5, "float32"), (True, "bool"), (np.float64(2), "float64"),
    (np.ones(2, np.float16), "float16"), (np.ones(2), "float64"), ([np.float64(1)], "float64"),
    ([[1], [2.5]], "float32"), (((1, 2), (3, 4)), "int64"), ([[]], "float32"),
])  # fmt: skip
def test_dtype_of_new_tensors(data, name):
    assert ag.tensor(data).dtype.name == name == str(torch.tensor(data).dtype)[6:]
    assert tuple(ag.tensor(data).shape) == tuple(torch.tensor(data).shape)


def test_python_numbers_are_rounded_once():
    """To the dtype asked for, not to the default one before."""
    assert ag.tensor([0.1], dtype=ag.float64).item() == 0.1
    assert ag.tensor(0.1, dtype=ag.float64).item() == 0.1
    assert ag.tensor([0.1 + 0.2j], dtype=ag.complex128).item() == 0.1 + 0.2j
    assert ag.tensor([16777217.0], dtype=ag.int64).item() == 16777217
    assert ag.tensor([[0.1], [1]], dtype=ag.float64)[0].item() == 0.1
    assert ag.as_tensor([0.1], dtype=ag.float64).item() == 0.1


CREATION = [
    lambda lib: lib.arange(5), lambda lib: lib.arange(1, 2, 0.3), lambda lib: lib.arange(5, 1, -2),
    lambda lib: lib.arange(1.0), lambda lib: lib.linspace(0, 1, 5),
    lambda lib: lib.linspace(2, 3, 1),
    lambda lib: lib.full((2, 1), 3), lambda lib: lib.full((2,), 2.5),
    lambda lib: lib.full((), True),
    lambda lib: lib.zeros(2, 0), lambda lib: lib.ones((2, 3)), lambda lib: lib.eye(3),
    lambda lib: lib.eye(2, 3), lambda lib: lib.zeros_like(lib.arange(3)),
    lambda lib: lib.ones_like(lib.arange(3), dtype=lib.float32),
    lambda lib: lib.full_like(lib.ones(2), 3),
    lambda lib: lib.zeros(3, dtype=lib.int16), lambda lib: lib.as_tensor([1.5]),
    lambda lib: lib.from_numpy(np.arange(3, dtype=np.int8)),
    lambda lib: lib.arange(3, dtype=lib.float64),
    lambda lib: lib.tensor([lib.tensor(1), lib.tensor(2)]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CREATION)))
def test_creation(number):
    ours, theirs = CREATION[number](ag), CREATION[number](torch)
    assert ours.dtype.name == str(theirs.dtype)[6:]
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
