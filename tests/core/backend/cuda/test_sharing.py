"""Memory of a GPU shared with other libraries, and pinned batches of data loaders."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import allgrad as ag
from allgrad.utils.data import DataLoader, Dataset, TensorDataset, default_collate

pytestmark = pytest.mark.usefixtures("gpu")

Pair = collections.namedtuple("Pair", ("x", "y"))


class Foreign:
    """An array of another library, which knows CUDA's interface alone."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__


def test_arrays_of_cupy(gpu):
    array = gpu.arange(6, dtype=np.float32).reshape(2, 3)
    for shared in (ag.as_tensor(array), ag.asarray(array, copy=False), ag.from_dlpack(array)):
        assert shared.is_cuda
        shared += 1
    assert array.tolist() == [[3, 4, 5], [6, 7, 8]]
    copied = ag.tensor(array)
    copied += 1
    assert array.tolist()[0][0] == 3
    assert ag.as_tensor(array, device="cpu").is_cpu
    assert ag.as_tensor(array, dtype=ag.float64).dtype is ag.float64
    assert ag.from_dlpack(array, copy=True)._array is not array
    with pytest.raises(ValueError, match="copy=False"):
        ag.asarray(array, dtype=ag.float64, copy=False)


def test_tensors_as_others_see_them(gpu):
    t = ag.arange(6, dtype=ag.float32, device="cuda").view(2, 3).T
    about = t.__cuda_array_interface__
    assert (about["shape"], about["strides"], about["typestr"]) == ((3, 2), (4, 12), "<f4")
    assert about["data"][0] == t.data_ptr()
    assert t.__dlpack_device__() == (2, 0)
    assert ag.ones(1).__dlpack_device__() == (1, 0)
    other = gpu.from_dlpack(t)
    other += 1
    assert t.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert not hasattr(ag.ones(2), "__cuda_array_interface__")
    with pytest.raises(RuntimeError, match="requires grad"):
        _ = t.clone().requires_grad_().__cuda_array_interface__
    with pytest.raises(BufferError, match="requires grad"):
        t.clone().requires_grad_().__dlpack__()


class Samples(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return {"image": ag.full((3,), float(i)), "name": str(i), "pair": Pair(i, (i, float(i)))}


@pytest.mark.parametrize("options", [{}, {"prefetch_factor": 2}])
def test_pinned_batches(options):
    loader = DataLoader(Samples(), 3, pin_memory=True, **options)
    for batch in loader:
        found = (batch["image"], batch["pair"].x, batch["pair"].y[0], batch["pair"].y[1])
        assert all(t.is_pinned() for t in found)
        assert batch["name"][0] in "03"
        there = batch["image"].to("cuda", non_blocking=True)
        assert there.cpu().tolist() == batch["image"].tolist()
    assert not next(iter(DataLoader(Samples(), 3)))["image"].is_pinned()


def test_pinned_batches_of_workers():
    data = TensorDataset(ag.arange(8.0), ag.arange(8))
    for x, y in DataLoader(data, 4, num_workers=1, pin_memory=True):
        assert x.is_pinned()
        assert y.is_pinned()
        assert x.tolist() == y.tolist()


def test_batches_of_things_with_their_own_way():
    class Own:
        def pin_memory(self):
            return "pinned"

    assert next(iter(DataLoader([1, 2], 2, collate_fn=lambda _: Own(), pin_memory=True))) == (
        "pinned"
    )


def test_collating_on_a_gpu():
    x = ag.arange(6.0, device="cuda").view(3, 2)
    batch = default_collate([(x[i], x[i, 0], i) for i in range(3)])
    assert [t.device.type for t in batch] == ["cuda", "cuda", "cpu"]
    assert batch[0].tolist() == x.tolist()
    assert batch[1].tolist() == [0, 2, 4]
    loader = DataLoader(TensorDataset(x, x), 2)
    assert all(a.is_cuda for a, _ in loader)
