"""Reading and writing by index, with keys of every kind, compared with PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allgrad as ag

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SHAPE = (3, 4, 2, 5)
quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def slices(n):
    ends = st.none() | st.integers(-n - 1, n + 1)
    return st.builds(slice, ends, ends, st.none() | st.integers(1, 3))


def integer_arrays(n):
    shapes = st.sampled_from([(1,), (3,), (2, 3), (2, 1)])
    return shapes.flatmap(
        lambda s: st.lists(
            st.integers(-n, n - 1), min_size=int(np.prod(s)), max_size=int(np.prod(s))
        ).map(lambda v: np.array(v).reshape(s))
    )


@st.composite
def keys(draw, advanced=True):
    """A key for SHAPE; arrays in it are NumPy arrays, to be wrapped for each library."""
    parts, axis = [], 0
    masked = False
    while axis < len(SHAPE) and draw(st.integers(0, 9)) < 8:
        n = SHAPE[axis]
        kinds = ["int", "slice", "none", "full"]
        if advanced:
            kinds += ["array", "array"] + ([] if masked else ["mask"])
        kind = draw(st.sampled_from(kinds))
        if kind == "none":
            parts.append(None)
            if len(parts) > 6:
                break
            continue
        if kind == "int":
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "array":
            parts.append(draw(integer_arrays(n)))
        elif kind == "mask":
            dims = draw(st.integers(1, min(2, len(SHAPE) - axis)))
            size = SHAPE[axis : axis + dims]
            count = int(np.prod(size))
            bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
            parts.append(np.array(bits).reshape(size))
            masked = True
            axis += dims - 1
        else:
            parts.append(slice(None) if kind == "full" else draw(slices(n)))
        axis += 1
    if draw(st.booleans()) and axis <= len(SHAPE):
        # Only None may follow: what follows "..." counts from the end, where sizes are others.
        last = max((i for i, p in enumerate(parts) if p is not None), default=-1)
        parts.insert(draw(st.integers(last + 1, len(parts))), Ellipsis)
    return tuple(parts)


def wrapped(key, lib):
    return tuple(lib.tensor(p) if isinstance(p, np.ndarray) else p for p in key)


def values():
    return np.arange(np.prod(SHAPE), dtype=np.float64).reshape(SHAPE)


def attempt(function):
    try:
        return function(), None
    except (IndexError, RuntimeError) as err:
        return None, IndexError if type(err) is IndexError else RuntimeError


@quick
@given(keys())
def test_get(key):
    ours, theirs = (lib.tensor(values(), requires_grad=True) for lib in (ag, torch))
    a, error = attempt(lambda: ours[wrapped(key, ag)])
    b, expected = attempt(lambda: theirs[wrapped(key, torch)])
    assert (error is None) == (expected is None), (error, expected)
    if error is not None:
        return
    assert tuple(a.shape) == tuple(b.shape)
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    (a * a).sum().backward()
    (b * b).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy())


@quick
@given(keys(advanced=False))
def test_basic_keys_give_views(key):
    x = ag.tensor(values())
    part = x[key]
    assert part._base is x
    part.fill_(-1)
    y = values()
    y[key] = -1
    np.testing.assert_array_equal(x.numpy(), y)


@quick
@given(keys(), st.booleans(), st.integers(0, 3))
def test_set(key, recorded, drop):
    expected = torch.tensor(values())
    shape, error = attempt(lambda: expected[wrapped(key, torch)].shape)
    if error is not None:
        return
    if any(isinstance(p, np.ndarray) and p.dtype != bool and p.size > 1 for p in key):
        return  # perhaps one place twice: which value stays is not defined
    value = np.random.default_rng(0).standard_normal(tuple(shape)[drop:])
    leaves = []
    for lib in (ag, torch):
        x = lib.tensor(values(), requires_grad=recorded)
        v = lib.tensor(value, requires_grad=recorded)
        y = x * 1
        y[wrapped(key, lib)] = v
        if recorded:
            (y * y).sum().backward()
        leaves.append((y.detach(), x.grad, v.grad))
    for a, b in zip(*leaves, strict=True):
        if recorded or a is not None:
            np.testing.assert_allclose(a.numpy(), b.numpy())


@pytest.mark.parametrize("key", [
    0, -1, (0, 1), slice(1, None), (slice(None), 2), None, Ellipsis, (..., 1), (0, ..., 1), [0, 2],
    [True, False, True], (slice(None), [1, 1]), True, False, (None, 0, None),
    (0, slice(None), [1, 0]), (slice(None), 1, [0, 1], None), (), np.int64(1), np.array([0, 1]),
    (slice(None), slice(None), [0], [1, 2, 3]), ([0, 1], None, [1, 2]),
    ([0, 1], slice(None), 0, [1, 2]), (slice(0, 99), slice(-99, 2), slice(2, 1)),
])  # fmt: skip
def test_kinds_of_keys(key):
    ours, theirs = ag.tensor(values())[key], torch.tensor(values())[key]
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("make", [
    lambda lib: lib.tensor(1), lambda lib: lib.tensor([0, 2]), lambda lib: lib.tensor(True),
    lambda lib: lib.tensor([True, False, True]), lambda lib: (slice(None), lib.tensor(2)),
    lambda lib: lib.tensor([], dtype=lib.int64), lambda lib: (lib.tensor(0), ..., lib.tensor([1])),
    lambda lib: lib.zeros(3, 4, dtype=lib.bool),
])  # fmt: skip
def test_tensors_as_keys(make):
    ours, theirs = ag.tensor(values())[make(ag)], torch.tensor(values())[make(torch)]
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(("key", "error"), [
    (3, IndexError), (-4, IndexError), ((0, 4), IndexError), ((0,) * 5, IndexError),
    (slice(None, None, -1), ValueError), ("a", TypeError), (1.5, IndexError), ([0, 9], IndexError),
    ([True, False], IndexError), (([0, 1], [0, 1, 2]), IndexError),
])  # fmt: skip
@pytest.mark.parametrize("write", [False, True])
def test_bad_keys(key, error, write):
    for lib in (ag, torch):
        t = lib.tensor(values())
        with pytest.raises((error, TypeError) if lib is torch else error):
            t.__setitem__(key, 0.0) if write else t[key]


def test_nested_lists_are_one_index():
    """PyTorch still reads them as a tuple and warns that it will read them like this."""
    t = ag.tensor(values())
    assert t[[[0, 1], [2, 0]]].shape == (2, 2, 4, 2, 5)
    assert t[[ag.tensor(0), ag.tensor(1)]].shape == (2, 4, 2, 5)


def test_one_ellipsis_only():
    with pytest.raises(IndexError, match=r"one '\.\.\.'"):
        ag.zeros(2, 2)[..., ...]


@pytest.mark.parametrize(("value", "error"), [
    (ag.zeros(7), RuntimeError), ("x", TypeError), (None, TypeError), ([1, 2], TypeError),
])  # fmt: skip
def test_bad_values(value, error):
    with pytest.raises(error, match="setitem"):
        ag.zeros(3, 4)[0] = value


def test_value_that_does_not_fit_the_dtype():
    t = ag.zeros(2, dtype=ag.uint8)
    with pytest.raises(RuntimeError, match="uint8"):
        t[0] = 300


def test_set_casts_to_the_dtype_of_the_tensor():
    t = ag.zeros(3, dtype=ag.int64)
    t[0] = 2.7
    t[1:] = ag.tensor([1.9, -1.9])
    assert t.tolist() == [2, 1, -1]


@pytest.mark.parametrize("number", range(12))
def test_functions_with_indices(number):
    def call(lib):
        x = lib.tensor(values()[0, 0])
        i = lib.tensor([[0, 1, 1], [1, 0, 0]])
        m = x > 4
        functions = [
            lambda: x.gather(1, lib.tensor([[4, 0], [1, 1]])),
            lambda: x.index_select(1, lib.tensor([4, 4, 0])),
            lambda: x.scatter(0, i, 1.5),
            lambda: x.scatter(1, i, lib.ones(2, 3, dtype=lib.float64)),
            lambda: x.scatter_add(0, i, lib.ones(2, 3, dtype=lib.float64)),
            lambda: x.masked_fill(m, -1.0),
            lambda: x.masked_select(m),
            lambda: m.nonzero(),
            lambda: lib.where(m)[1],
            lambda: x.masked_fill(lib.tensor([True, False, False, True, True]), lib.tensor(3.0)),
            lambda: lib.nn.functional.one_hot(i, 4),
            lambda: x.select(1, 2),
        ]
        return functions[number]()

    ours, theirs = call(ag), call(torch)
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
