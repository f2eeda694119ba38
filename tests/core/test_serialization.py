"""allgrad.save and allgrad.load: any nest comes back, other readers understand it, damage shows."""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allgrad as ag
from allgrad import dtypes
from allgrad.errors import CheckpointError
from allgrad.serialization import dumps, loads

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
keys = st.text(max_size=4) | st.integers() | st.booleans()
nests = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


@settings(max_examples=200, deadline=None)
@given(nests)
def test_any_nest_of_plain_values_comes_back(nest):
    assert same(loads(dumps(nest)), nest)


@pytest.mark.parametrize("dtype", [d.name for d in dtypes.ALL])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    array = (np.random.default_rng(0).standard_normal(shape) * 3).astype(dtype)
    ag.save({"t": ag.from_numpy(np.asarray(array)), "a": np.asarray(array)}, tmp_path / "x")
    back = ag.load(tmp_path / "x")
    assert isinstance(back["t"], ag.Tensor)
    assert type(back["a"]) is np.ndarray
    for found in (back["t"].numpy(), back["a"]):
        assert found.dtype == dtype
        assert found.shape == shape
        np.testing.assert_array_equal(found, array)
        found[...] = 0  # writable


def test_a_flat_dict_of_tensors_is_plain_safetensors_in_its_order(tmp_path):
    from safetensors.numpy import load_file

    state = {"z.weight": ag.arange(6).reshape(2, 3), "a.bias": ag.ones(2)}
    path = ag.save(state, tmp_path / "model.safetensors")
    others = load_file(path)
    assert set(others) == {"z.weight", "a.bias"}
    np.testing.assert_array_equal(others["z.weight"], np.arange(6).reshape(2, 3))
    assert list(ag.load(path)) == ["z.weight", "a.bias"]


def test_a_file_of_another_writer(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "w.safetensors")
    back = ag.load(tmp_path / "w.safetensors")
    assert back["w"].tolist() == [[1, 1], [1, 1]]


def test_one_path_spelled_twice_and_memory_that_is_not_contiguous():
    nest = {"a.b": ag.ones(2), "a": {"b": ag.zeros(3)}, "t": ag.arange(6).reshape(2, 3).T}
    back = loads(dumps(nest))
    assert back["a.b"].tolist() == [1, 1]
    assert back["a"]["b"].tolist() == [0, 0, 0]
    assert back["t"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_tensor_alone_a_leaf_and_numpy_scalars():
    w = ag.ones(2, requires_grad=True)
    assert loads(dumps(w)).tolist() == [1, 1]
    assert not loads(dumps(w)).requires_grad
    assert loads(dumps({"n": np.float32(0.5), "i": np.int64(3), "b": np.True_})) == {
        "n": 0.5,
        "i": 3,
        "b": True,
    }


def test_what_cannot_be_saved_is_named_with_its_place():
    with pytest.raises(CheckpointError, match=r"obj\['a'\]\['1'\]: expected .* came set"):
        dumps({"a": [1, {2}]})
    with pytest.raises(CheckpointError, match="keys of type str"):
        dumps({"a": {None: 1, frozenset(): 2}})
    with pytest.raises(CheckpointError, match="came an array of dtype datetime64"):
        dumps(np.array(["2026-01-01"], dtype="datetime64[D]"))


def test_nothing_is_executed_and_nothing_else_is_read(tmp_path):
    import pickle

    (tmp_path / "x").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        ag.load(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"cannot read .*absent"):
        ag.load(tmp_path / "absent")


def test_truncation_anywhere_is_refused():
    data = dumps({"w": ag.arange(100), "n": {"deep": [1, 2.5, "three"]}})
    rng = np.random.default_rng(0)
    for stop in {0, 1, 7, 8, 9, len(data) - 1, *map(int, rng.integers(0, len(data), 100))}:
        with pytest.raises(CheckpointError):
            loads(data[:stop])


def test_flipped_bytes_never_raise_anything_else():
    data = dumps({"w": ag.arange(4), "n": {"deep": [1, 2.5, (True, None)], 3: float("inf")}})
    rng = np.random.default_rng(0)
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with contextlib.suppress(CheckpointError):
            loads(bytes(damaged))  # refused, or harmless; checkpoints add a checksum


def test_the_file_there_before_stays_when_writing_fails(tmp_path, monkeypatch):
    path = ag.save({"v": 1}, tmp_path / "x")

    def full(descriptor, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CheckpointError, match=r"no space to write .*x: \d+ bytes are needed"):
        ag.save({"v": 2}, path)
    monkeypatch.undo()
    assert ag.load(path) == {"v": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["x"]
