"""Second derivatives: every row of the op table, against PyTorch and finite differences."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from support.op_table import all_rows
from support.tolerances import assert_close

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import ops
from allgrad.errors import GradientError
from allgrad.ops.base import Op
from allgrad.tensors import graph, inplace
from allgrad.tensors.double_backward import rules

# Ops whose gradient has no graph: `create_graph=True` is an error that names them. A new op gets
# a rule in `core/tensors/double_backward/`, or its place here.
WITHOUT_SECOND_DERIVATIVE: set[str] = {"CTC"}
TIES = {"scatter_reduce_amax_True", "scatter_reduce_amin_True"}
FAILING = {"scatter_reduce_zeros": "factor is zero"}  # rows at points without a rule
ABSTRACT = {"FromInput", "FromOutput", "PairLoss"}

ROWS = {r.name: r for r in all_rows() if r.differentiable}
each_row = pytest.mark.parametrize("name", ROWS)

# Two libraries, sums of products of many terms: slack as for gradients, once more.
SECOND = {np.dtype(np.float64): (1e-9, 1e-10), np.dtype(np.float32): (2e-4, 2e-5)}


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
    return {name: kind for name, kind in found.items() if name not in ABSTRACT}


def test_every_op_has_a_rule_or_is_listed():
    missing = {name for name, kind in op_classes().items() if kind not in rules()}
    assert missing == WITHOUT_SECOND_DERIVATIVE


def as_tuple(result):
    return tuple(result) if isinstance(result, tuple | list) else (result,)


class Problem:
    """A row in one library: first and second derivatives along fixed random directions."""

    def __init__(self, row, lib, functional, make):
        self.row, self.lib, self.functional, self.make = row, lib, functional, make

    def build(self, arrays, cotangents=None):
        """(inputs, wanted inputs, outputs with a gradient, cotangent leaves)."""
        inputs = []
        for spec, array in zip(self.row.inputs, arrays, strict=True):
            t = self.make(np.array(array))
            if array.dtype.kind in "fc" and not spec.constant:
                t.requires_grad_(True)
            inputs.append(t)
        wanted = [t for t in inputs if t.requires_grad]
        outs = as_tuple(self.row.function(self.lib, self.functional, *inputs))
        outs = [t for t in outs if t.requires_grad]
        if cotangents is None:
            rng = np.random.default_rng(5)
            cotangents = [drawn(rng, numpy_of(t)) for t in outs]
        vs = [self.make(np.array(v)).requires_grad_(True) for v in cotangents]
        return wanted, outs, vs

    def first(self, arrays, cotangents=None, create_graph=False):
        wanted, outs, vs = self.build(arrays, cotangents)
        grads = self.lib.autograd.grad(
            outs, wanted, vs, create_graph=create_graph, allow_unused=True
        )
        return wanted, vs, grads

    def second(self, arrays):
        """(first gradients, derivatives of <first gradients, u> for the inputs and for v)."""
        wanted, vs, grads = self.first(arrays, create_graph=True)
        total = None
        for i, g in enumerate(grads):
            if g is not None:
                u = self.make(drawn(np.random.default_rng(i), numpy_of(g)))
                part = (g * u.conj() if numpy_of(g).dtype.kind == "c" else g * u).sum()
                part = part.real if numpy_of(g).dtype.kind == "c" else part
                total = part if total is None else total + part
        leaves = [*wanted, *vs]
        if total is None or not total.requires_grad:
            return grads, [None] * len(leaves), leaves
        return grads, self.lib.autograd.grad(total, leaves, allow_unused=True), leaves

    def total(self, arrays, cotangents):
        """<first gradients, u>, from gradients without a graph."""
        _, _, grads = self.first(arrays, cotangents)
        values = [(i, numpy_of(g)) for i, g in enumerate(grads) if g is not None]
        us = [drawn(np.random.default_rng(i), v) for i, v in values]
        return sum(float((v * u.conj()).sum().real) for (_, v), u in zip(values, us, strict=True))


def numpy_of(t):
    return t.detach().numpy(force=True)  # PyTorch has zeros without memory


def drawn(rng, like):
    value = rng.standard_normal(like.shape)
    if like.dtype.kind == "c":
        value = value + 1j * rng.standard_normal(like.shape)
    return np.asarray(value, like.dtype)


def arrays_of(row, dtype=np.float64):
    rng = np.random.default_rng(int.from_bytes(row.name.encode(), "little") % 2**32)
    arrays = [spec.make(rng) for spec in row.inputs]
    return [np.asarray(a, dtype) if a.dtype.kind == "f" else np.asarray(a) for a in arrays]


def ops_without_rule(row):
    """Names of the ops in the row's graph that have no rule."""
    _, outs, _ = Problem(row, ag, F, ag.tensor).build(arrays_of(row))
    found, stack, seen = set(), [t.grad_fn for t in outs], set()
    while stack:
        node = stack.pop()
        if node is None or node.is_leaf_node or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ in WITHOUT_SECOND_DERIVATIVE:
            found.add(type(node).__name__)
        stack.extend(node.parents)
    return found


def agree(got, want, what):
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a is None or b is None:
            other = a if b is None else b
            size = 0 if other is None else np.abs(numpy_of(other)).max(initial=0)
            assert size < 1e-12, f"{what} {i}: {a} and {b}"
        else:
            assert_close(numpy_of(a), numpy_of(b), SECOND, f"{what} {i}")


@each_row
def test_finite_differences(name):
    if name in TIES:
        pytest.skip("elements are equal on purpose: one step from a kink")
    row = ROWS[name]
    ours, arrays = Problem(row, ag, F, ag.tensor), arrays_of(row)
    missing = ops_without_rule(row)
    if missing or name in FAILING:
        with pytest.raises(GradientError, match=FAILING.get(name, "|".join(missing))):
            ours.second(arrays)
        return
    _, _, plain = ours.first(arrays)
    grads, seconds, leaves = ours.second(arrays)
    agree(grads, plain, "first gradient")
    rng = np.random.default_rng(8)
    directions = [drawn(rng, numpy_of(t)) for t in leaves]
    scale = max(1.0, float(np.sqrt(sum((np.abs(d) ** 2).sum() for d in directions))))
    directions = [d / scale for d in directions]
    found = sum(
        float((numpy_of(s) * d.conj()).sum().real)
        for s, d in zip(seconds, directions, strict=True) if s is not None
    )  # fmt: skip

    def at(step):
        moved = iter([numpy_of(t) + step * d for t, d in zip(leaves, directions, strict=True)])
        inputs = [
            next(moved) if a.dtype.kind in "fc" and not s.constant else a
            for a, s in zip(arrays, row.inputs, strict=True)
        ]
        return ours.total(inputs, list(moved))

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    assert abs(found - expected) <= 2e-6 * max(1.0, abs(expected))


@pytest.mark.torch
@pytest.mark.parametrize("name", [r.name for r in ROWS.values() if r.torch])
@pytest.mark.filterwarnings("ignore")
def test_like_torch(name):
    torch = pytest.importorskip("torch")
    row = ROWS[name]
    if ops_without_rule(row) or name in FAILING:
        pytest.skip("without a second derivative")
    arrays = arrays_of(row)
    theirs = Problem(row, torch, torch.nn.functional, torch.from_numpy)
    try:
        want = theirs.second(arrays)
    except RuntimeError as err:
        if "not implemented" not in str(err):
            raise
        pytest.skip(f"PyTorch: {err}")
    got = Problem(row, ag, F, ag.tensor).second(arrays)
    agree(got[0], want[0], "first gradient")
    agree(got[1], want[1], "second derivative")
