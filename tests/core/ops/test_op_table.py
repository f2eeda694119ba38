"""Every row of the op table against PyTorch, finite differences, and the reference backend."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from support.op_table import all_rows
from support.tolerances import FINITE_DIFFERENCE, GRADIENT, assert_close

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import backend, ops
from allgrad.ops.base import Op
from allgrad.tensors import Tensor, graph, inplace

ROWS = {r.name: r for r in all_rows()}
ABSTRACT = {"FromInput", "FromOutput", "PairLoss"}  # bases that only subclasses make complete
ELSEWHERE = {"Move"}  # needs two devices: tests/core/backend/cuda/test_tensors.py

each_row = pytest.mark.parametrize("name", ROWS)
each_differentiable = pytest.mark.parametrize(
    "name", [r.name for r in ROWS.values() if r.differentiable]
)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


def make_inputs(row, dtype, batch=None):
    rng = np.random.default_rng(abs(hash_of(row.name)))
    arrays = [spec.make(rng, batch) for spec in row.inputs]
    return [np.asarray(a, dtype) if a.dtype.kind == "f" else np.asarray(a) for a in arrays]


def hash_of(name):
    """A seed for each row (Python's own hash of strings changes from run to run)."""
    return int.from_bytes(name.encode(), "little") % 2**32


def as_tuple(result):
    return result if isinstance(result, tuple | list) else (result,)


def leaves(row, arrays, make):
    """Tensors of `arrays`, those with a gradient requiring it."""
    tensors = []
    for spec, array in zip(row.inputs, arrays, strict=True):
        t = make(array)
        if array.dtype.kind == "f" and not spec.constant:
            t.requires_grad_(True)
        tensors.append(t)
    return tensors


def own(array):
    return ag.tensor(array)


def run(row, tensors):
    """(outputs, gradients) as arrays, for fixed random gradients of the outputs."""
    outs = [t for t in as_tuple(row.function(ag, F, *tensors)) if t.dtype.is_floating_point]
    values = [t.detach().numpy() for t in outs]
    for t, g in zip(outs, cotangents(values), strict=True):
        if t.requires_grad:
            t.backward(Tensor(g), retain_graph=True)
    return values, [t.grad.numpy() if t.grad is not None else None for t in tensors]


def cotangents(values):
    rng = np.random.default_rng(7)
    return [np.asarray(rng.standard_normal(v.shape), v.dtype) for v in values]


def run_torch(row, arrays):
    torch = pytest.importorskip("torch")
    tensors = leaves(row, arrays, lambda a: torch.from_numpy(np.array(a)))
    result = as_tuple(row.function(torch, torch.nn.functional, *tensors))
    outs = [t for t in result if t.dtype.is_floating_point]
    values = [t.detach().numpy() for t in outs]
    for t, g in zip(outs, cotangents(values), strict=True):
        if t.requires_grad:
            t.backward(torch.from_numpy(g), retain_graph=True)
    return values, [t.grad.numpy() if t.grad is not None else None for t in tensors]


def compare(got, want, what, as_dtype=None):
    for i, (a, b) in enumerate(zip(got[0], want[0], strict=True)):
        assert_close(a, b, what=f"{what}: output {i}", as_dtype=as_dtype)
    for i, (a, b) in enumerate(zip(got[1], want[1], strict=True)):
        if b is None or a is None:
            assert a is None or not a.any(), f"{what}: gradient {i} where none was expected"
            assert b is None or not b.any(), f"{what}: no gradient {i}"
        else:
            assert_close(a, b, GRADIENT, f"{what}: gradient {i}", as_dtype)


@pytest.mark.torch
@each_dtype
@pytest.mark.parametrize("name", [r.name for r in ROWS.values() if r.torch])
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of empty inputs and of kl_div's mean
def test_like_torch(name, dtype):
    row = ROWS[name]
    for batch in (None, *row.batches):
        arrays = make_inputs(row, dtype, batch)
        want = run_torch(row, arrays)
        got = run(row, leaves(row, arrays, own))
        compare(got, want, f"batch {batch}", np.float32 if row.torch_rounds else None)


@each_differentiable
def test_finite_differences(name):
    row = ROWS[name]
    arrays = make_inputs(row, np.float64)
    _, grads = run(row, leaves(row, arrays, own))

    def loss(at):
        outs = as_tuple(row.function(ag, F, *[ag.tensor(a) for a in at]))
        values = [t.numpy() for t in outs if t.dtype.is_floating_point]
        return sum(float((v * g).sum()) for v, g in zip(values, cotangents(values), strict=True))

    def slope(directions):
        step = 1e-6
        moved = [
            [a if d is None else a + s * step * d for a, d in zip(arrays, directions, strict=True)]
            for s in (1, -1)
        ]
        return (loss(moved[0]) - loss(moved[1])) / (2 * step)

    def check(directions, what):
        expected = slope(directions)
        found = sum(
            float((g * d).sum()) for g, d in zip(grads, directions, strict=True)
            if g is not None and d is not None
        )  # fmt: skip
        assert abs(found - expected) <= FINITE_DIFFERENCE * max(1.0, abs(expected)), what

    rng = np.random.default_rng(1)
    wanted = [i for i, s in enumerate(row.inputs) if arrays[i].dtype.kind == "f" and not s.constant]
    for i in wanted:
        directions = [None] * len(arrays)
        direction = rng.standard_normal(arrays[i].shape)
        directions[i] = direction / max(np.linalg.norm(direction), 1)
        check(directions, f"input {i}, random direction")
        if arrays[i].size <= 30:
            for k in np.ndindex(arrays[i].shape):
                directions[i] = np.zeros(arrays[i].shape)
                directions[i][k] = 1
                check(directions, f"input {i}, element {k}")


@each_dtype
@each_row
def test_cpu_backend_like_reference(name, dtype):
    row = ROWS[name]
    for batch in (None, *row.batches):
        arrays = make_inputs(row, dtype, batch)
        backend.use("reference")
        want = run(row, leaves(row, arrays, own))
        backend.use("cpu")
        compare(run(row, leaves(row, arrays, own)), want, f"batch {batch}")


def reversed_axes(a):
    return np.array(a.T, order="C").T


def every_second(a):
    wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
    view = wide[(*[slice(None, None, 2)] * a.ndim, ...)]
    view[...] = a
    return view


def channels_last(a):
    return np.moveaxis(np.array(np.moveaxis(a, 1, -1), order="C"), -1, 1) if a.ndim > 2 else a


@pytest.mark.parametrize("layout", [reversed_axes, every_second, channels_last])
@each_row
def test_any_memory_layout(name, layout):
    """Memory of the user in any layout, and our own in channels-last."""
    row = ROWS[name]
    if name == "view":
        pytest.skip("view() refuses memory that a user laid out differently")
    arrays = make_inputs(row, np.float32)
    want = run(row, leaves(row, arrays, own))
    compare(run(row, leaves(row, arrays, lambda a: ag.from_numpy(layout(a)))), want, "shared")
    if layout is channels_last:
        compare(run(row, leaves(row, arrays, lambda a: Tensor(layout(a)))), want, "own")


def op_classes():
    modules = [importlib.import_module(f"{ops.__name__}.{m.name}")
               for m in pkgutil.iter_modules(ops.__path__)]  # fmt: skip
    found = {}
    for module in [*modules, graph, inplace]:
        found |= {
            value.__name__: value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Op) and value is not Op
        }
    return found


def test_every_op_has_a_row():
    named = {op for r in ROWS.values() for op in r.ops}
    missing = set(op_classes()) - named - ABSTRACT - ELSEWHERE
    assert not missing, f"ops without a row in tests/support/rows_*.py: {sorted(missing)}"
    unknown = named - set(op_classes())
    assert not unknown, f"rows name ops that do not exist: {sorted(unknown)}"


@each_row
def test_row_meets_the_ops_it_names(name):
    row = ROWS[name]
    outs = as_tuple(row.function(ag, F, *leaves(row, make_inputs(row, np.float32), own)))
    met, stack = set(), [t.grad_fn for t in outs if t.grad_fn is not None]
    seen = set()
    while stack:
        node = stack.pop()
        if node is None or node.is_leaf_node or id(node) in seen:
            continue
        seen.add(id(node))
        met.add(type(node).__name__)
        stack.extend(node.parents)
    assert set(row.ops) <= met
