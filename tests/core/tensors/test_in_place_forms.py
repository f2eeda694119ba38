"""In-place forms outside the graph: same values as out of place, own memory, other views see it."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag

ROWS = ag.tensor([3, 0, 1])
PLACES = ag.tensor([[0, 1, 2, 3, 0]])
SRC = ag.arange(15.0).view(3, 5)

CHANGES = {
    "scatter": (1, ag.tensor([[0, 1]]), 5.0),
    "scatter_add": (0, PLACES, SRC),
    "scatter_reduce": (0, PLACES, SRC, "prod"),
    "index_add": (0, ROWS, SRC),
    "index_copy": (0, ROWS, SRC),
    "index_fill": (0, ROWS, 7.0),
    "index_reduce": (0, ROWS, SRC, "mean"),
    "index_put": ((ROWS,), SRC),
    "masked_fill": (ag.arange(20).view(4, 5) % 3 == 0, -1.0),
    "masked_scatter": (ag.arange(20).view(4, 5) % 3 == 0, SRC),
    "put": (ag.tensor([0, -1]), ag.tensor([8.0, 9.0])),
    "tril": (),
    "triu": (1,),
    "addr": (ag.arange(4.0), ag.arange(5.0)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("layout", ["plain", "view", "transposed"])
def test_in_place(name, layout):
    def fresh():
        whole = ag.arange(100.0).view(10, 10)
        if layout == "view":
            return whole, whole[2:6, 1::2]
        if layout == "transposed":
            return whole, whole[:5, :4].t()
        return whole, ag.arange(20.0).view(4, 5)

    whole, t = fresh()
    before = whole.clone()
    expected = getattr(t, name)(*CHANGES[name])
    assert whole.equal(before), "the form without underscore changed its input"
    watcher = t[0]
    changed = getattr(t, f"{name}_")(*CHANGES[name])
    assert changed is t
    np.testing.assert_array_equal(t.numpy(), expected.numpy())
    np.testing.assert_array_equal(watcher.numpy(), expected[0].numpy())
    if layout != "plain":
        assert not whole.equal(before), "the memory behind the view did not change"


@pytest.mark.parametrize("name", CHANGES)
def test_backward_notices(name):
    t = ag.arange(20.0).view(4, 5)
    w = ag.ones(4, 5, requires_grad=True)
    y = (t * w).sum()
    getattr(t, f"{name}_")(*CHANGES[name])
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()


@pytest.mark.parametrize("name", CHANGES)
def test_a_leaf_refuses(name):
    leaf = ag.ones(4, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"{name}_"):
        getattr(leaf, f"{name}_")(*CHANGES[name])
    with ag.no_grad():
        getattr(leaf, f"{name}_")(*CHANGES[name])


def test_source_in_the_same_memory():
    t = ag.arange(6.0).view(3, 2)
    t.index_copy_(0, ag.tensor([1, 2, 0]), t)
    assert t.tolist() == [[4, 5], [0, 1], [2, 3]]
    t.index_add_(0, ag.tensor([0, 1]), t[1:])
    assert t.tolist() == [[4, 6], [2, 4], [2, 3]]


def test_expanded_memory_is_refused():
    for change in (
        lambda t: t.index_fill_(0, ag.tensor([0]), 1.0),
        lambda t: t.index_add_(0, ag.tensor([0]), ag.ones(1, 3)),
    ):
        with pytest.raises(RuntimeError, match="expanded"):
            change(ag.ones(1, 3).expand(4, 3))


def test_shape_changed_in_place():
    t = ag.arange(6).view(2, 3)
    view = t[0]
    assert t.t_() is t
    assert (t.shape, t.stride(), t.is_contiguous()) == ((3, 2), (1, 3), False)
    t[0, 0] = 9
    assert view.tolist() == [9, 1, 2]
    assert t.unsqueeze_(0).squeeze_().transpose_(0, 1).tolist() == [[9, 1, 2], [3, 4, 5]]
    assert t.swapaxes_(0, 1).shape == (3, 2)
    assert ag.arange(4).as_strided_((2, 2), (1, 1)).tolist() == [[0, 1], [1, 2]]


def test_resize():
    t = ag.arange(6)
    assert t.resize_(2, 2).tolist() == [[0, 1], [2, 3]]
    assert t.resize_(5)[:4].tolist() == [0, 1, 2, 3]
    assert t.resize_as_(ag.ones(1, 2)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="0 or more"):
        t.resize_(-1)


def test_windows_are_views():
    x = ag.arange(6.0)
    windows = x.unfold(0, 3, 2)
    x[2] = 9
    assert windows.tolist() == [[0, 1, 9], [9, 3, 4]]
    part = x[1:].as_strided((2,), (2,))
    assert (part.tolist(), part.storage_offset()) == ([1, 3], 1)
    part.zero_()
    assert x.tolist() == [0, 0, 9, 0, 4, 5]


@pytest.mark.torch
def test_functions_of_python():
    torch = pytest.importorskip("torch")
    for lib in (ag, torch):
        t = lib.ones(2, 2)
        assert t.apply_(lambda v: v + 1) is t
        assert t.tolist() == [[2, 2], [2, 2]]
        assert t.map_(lib.arange(4.0).view(2, 2), lambda a, b: a * b) is t
        assert t.tolist() == [[0, 2], [4, 6]]
        assert 6.0 in t
        assert lib.tensor(3.0) not in t
        assert complex(lib.tensor(1 + 2j)) == 1 + 2j
        assert f"{lib.tensor(2.5):.2f} {lib.tensor(2.5)}" == "2.50 2.5"
        with pytest.raises(RuntimeError, match="grad"):
            lib.ones(2, requires_grad=True).apply_(lambda v: v)
