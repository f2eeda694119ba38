"""allgrad.save and allgrad.load: any nest comes back, other readers understand it, damage shows."""

import contextlib
import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allgrad as ag
from allgrad import dtypes
from allgrad.errors import CheckpointError, DeviceError, OptionError
from allgrad.serialization import dumps, loads

numbers = st.integers() | st.floats() | st.complex_numbers()
plain = st.none() | st.booleans() | numbers | st.text(max_size=6)
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
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return a == b or (a != a and b != b)


@settings(max_examples=200, deadline=None)
@given(nests)
def test_any_nest_of_plain_values_comes_back(nest):
    assert same(loads(dumps(nest)), nest)


@pytest.mark.parametrize("dtype", [d.name for d in dtypes.ALL])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    kind = dtypes.from_name(dtype).numpy
    array = (np.random.default_rng(0).standard_normal(shape) * 3).astype(kind)
    ag.save({"t": ag.from_numpy(np.asarray(array)), "a": np.asarray(array)}, tmp_path / "x")
    back = ag.load(tmp_path / "x")
    assert isinstance(back["t"], ag.Tensor)
    assert type(back["a"]) is np.ndarray
    for found in (back["t"].numpy(), back["a"]):
        assert found.dtype == kind
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


def test_what_a_training_script_saves(tmp_path):
    model = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.BatchNorm1d(4), ag.nn.Linear(4, 2))
    optimizer = ag.optim.Adam(model.parameters(), lr=0.1)
    model(ag.randn(5, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3, "best": None}
    ag.save(state, tmp_path / "checkpoint.pt")
    back = ag.load(tmp_path / "checkpoint.pt", map_location="cpu", weights_only=True)
    twin = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.BatchNorm1d(4), ag.nn.Linear(4, 2))
    twin.load_state_dict(back["model"])
    again = ag.optim.Adam(twin.parameters(), lr=0.5)
    again.load_state_dict(back["optim"])
    x = ag.randn(5, 3)
    for net, opt in ((model, optimizer), (twin, again)):
        opt.zero_grad()
        net(x).square().sum().backward()
        opt.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert (a == b).all()
    assert (back["epoch"], back["best"]) == (3, None)


def test_open_files():
    file = io.BytesIO()
    assert ag.save([ag.ones(2), (1 + 2j, "x")], file) is None
    file.seek(0)
    back = ag.load(file)
    assert back[0].tolist() == [1, 1]
    assert back[1] == (1 + 2j, "x")


def test_one_memory_under_two_names_is_one_memory_again():
    w = ag.ones(2, 3)
    state = {"encoder": w, "decoder": w, "view": w[0], "copy": w.clone(), "none": ag.zeros(0)}
    back = loads(dumps(state))
    back["encoder"].fill_(5)
    assert back["decoder"].tolist() == [[5] * 3] * 2
    assert back["view"].tolist() == back["copy"][0].tolist() == [1] * 3
    from safetensors.numpy import load

    assert set(load(dumps(state))) == set(state)  # others find all names


def test_files_of_torch_save_are_refused_with_advice(tmp_path):
    import pickle
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"w": 1}, protocol=2))
    for name in ("model.pt", "old.pt"):
        with pytest.raises(
            CheckpointError, match=rf"{name}: .*pickle.*safetensors.torch.save_file"
        ):
            ag.load(tmp_path / name)


def test_a_header_that_begins_like_a_pickle_is_read():
    name = "n" * 500
    for length in range(400):
        data = dumps({name[:length]: ag.ones(1)})
        if data[:2] == b"\x80\x02":
            assert list(loads(data)) == [name[:length]]
            return
    pytest.fail("no length gave such a header")


def test_map_location_and_other_arguments_of_torch_load():
    data = dumps({"w": ag.ones(2)})

    def load(**options):
        return ag.load(io.BytesIO(data), **options)["w"].tolist()

    for place in (None, "cpu", ag.device("cpu"), {"cuda:0": "cpu"}, {"cuda:0": "cuda:1"}):
        assert load(map_location=place, weights_only=False, mmap=False) == [1, 1]
    assert load(map_location=lambda storage, location: storage) == [1, 1]
    for place in ("cuda", {"cpu": "cuda:0"}):
        with pytest.raises(DeviceError, match="cuda"):
            load(map_location=place)
    with pytest.raises(OptionError, match="a tensor or None"):
        load(map_location=lambda storage, location: 3)
    with pytest.raises(OptionError, match="mmap"):
        load(mmap=True)


def test_a_module_is_refused_with_advice(tmp_path):
    with pytest.raises(CheckpointError, match=r"obj\['net'\].*came Linear. Save its state_dict"):
        ag.save({"net": ag.nn.Linear(2, 2)}, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int64", "bool"])
def test_pytorch_reads_and_writes_the_same_values(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    theirs = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    save_file({"t": theirs}, tmp_path / "t")
    ours = ag.load(tmp_path / "t")["t"]
    assert ours.dtype is dtypes.from_name(dtype)
    assert ours.tolist() == theirs.tolist()
    ag.save({"t": ours.T}, tmp_path / "o")
    assert torch.equal(load_file(tmp_path / "o")["t"], theirs.T)
