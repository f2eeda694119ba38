"""Memory that is shared with NumPy and PyTorch by DLPack, both ways."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import allgrad as ag
from allgrad import dtypes
from allgrad.errors import DeviceError, DtypeError
from allgrad.utils import dlpack

NAMES = [d.name for d in dtypes.ALL]


def filled(name, shape=(2, 3)):
    return ag.arange(6).reshape(shape).to(dtypes.from_name(name))


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["new", "old"])
def test_pytorch_sees_and_changes_our_memory(name, way):
    torch = pytest.importorskip("torch")
    ours = filled(name)
    theirs = torch.from_dlpack(ours if way == "new" else dlpack.to_dlpack(ours))
    assert theirs.dtype is getattr(torch, name)
    assert theirs.tolist() == ours.tolist()
    assert theirs.data_ptr() == ours.data_ptr()
    theirs[1, 2] = 0
    ours[0, 1] = 0
    assert theirs.tolist() == ours.tolist()
    assert ours[1, 2].item() == 0
    del ours
    gc.collect()
    assert theirs[0, 1].item() == 0  # the memory lives as long as they hold it


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["new", "old"])
def test_we_see_and_change_pytorchs_memory(name, way):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    ours = ag.from_dlpack(theirs if way == "new" else torch.utils.dlpack.to_dlpack(theirs))
    assert ours.dtype is dtypes.from_name(name)
    assert ours.data_ptr() == theirs.data_ptr()
    ours[1, 2] = 0
    theirs[0, 1] = 0
    assert theirs.tolist() == ours.tolist()
    assert theirs[1, 2].item() == 0
    del theirs
    gc.collect()
    assert ours[1, 0].item() in (3, True)


@pytest.mark.torch
def test_views_keep_their_strides():
    torch = pytest.importorskip("torch")
    ours = filled("float32")
    theirs = torch.from_dlpack(ours.T[1:])
    assert theirs.stride() == (1, 3)
    theirs.zero_()
    assert ours.tolist() == [[0, 0, 0], [3, 0, 0]]
    back = ag.from_dlpack(torch.arange(6.0).reshape(2, 3).T[1:])
    assert back.stride() == (1, 3)
    assert back.tolist() == [[1, 4], [2, 5]]
    assert tuple(torch.from_dlpack(ag.zeros(0, 3)).shape) == (0, 3)
    assert tuple(ag.from_dlpack(torch.zeros(2, 0)).shape) == (2, 0)
    assert ag.from_dlpack(torch.tensor(3.0)).item() == 3


@pytest.mark.torch
def test_both_refuse_what_requires_grad():
    torch = pytest.importorskip("torch")
    with pytest.raises(BufferError, match="detach"):
        torch.from_dlpack(ag.ones(2, requires_grad=True))
    with pytest.raises(BufferError, match="require gradient"):
        ag.from_dlpack(torch.ones(2, requires_grad=True))


def test_a_view_whose_root_came_to_require_grad_is_refused():
    root = ag.zeros(2, 3)
    part = root[0]
    root.mul_(ag.ones(3, requires_grad=True))
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(part)


def test_numpy_sees_and_changes_our_memory():
    t = filled("float32")
    array = np.from_dlpack(t)
    assert array.ctypes.data == t.data_ptr()
    array[0, 0] = 9
    assert t[0, 0].item() == 9
    own = np.from_dlpack(t, copy=True)
    own[...] = 0
    assert t[0, 0].item() == 9


def test_a_pending_output_is_computed_and_later_changes_are_seen():
    """Memory that others see is never waited for: Note [Pending outputs]."""
    layer = ag.nn.Linear(3, 2).requires_grad_(False)
    x = ag.ones(1, 3)
    array = np.from_dlpack(x)
    y = layer(x)  # would be pending if nobody else saw x
    array[...] = 0
    assert y.tolist() != layer(x).tolist()
    z = layer(ag.ones(1, 3))
    assert np.from_dlpack(z).tolist() == z.tolist()


def test_our_own_tensors_and_numpys_arrays():
    t = ag.zeros(3)
    other = ag.from_dlpack(t)
    other += 1
    assert t.tolist() == [1, 1, 1]
    array = np.zeros(2, np.int64)
    ag.from_dlpack(array).fill_(4)
    assert array.tolist() == [4, 4]
    copied = ag.from_dlpack(array, copy=True)
    copied.fill_(0)
    assert array.tolist() == [4, 4]


def test_a_channels_last_activation_is_handed_out_row_major():
    y = ag.nn.Conv2d(3, 4, 1).requires_grad_(False)(ag.randn(2, 3, 5, 5))
    assert np.from_dlpack(y).flags.c_contiguous
    assert y.stride() == (100, 25, 5, 1)


class Elsewhere:
    def __dlpack_device__(self):
        return (2, 1)

    def __dlpack__(self, **options):
        raise AssertionError


class Old:
    """A library of before DLPack 1.0."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, stream=None):
        return self.tensor.__dlpack__()


def test_an_older_library_is_asked_in_its_way():
    t = ag.zeros(2)
    ag.from_dlpack(Old(t)).fill_(2)
    assert t.tolist() == [2, 2]


def test_wrong_arguments():
    locked = np.ones(2)
    locked.flags.writeable = False
    used = dlpack.to_dlpack(ag.ones(2))
    dlpack.from_dlpack(used)
    backwards = ag.from_numpy(np.ones(3)[::-1])
    for call, error, message in [
        (lambda: ag.from_dlpack(Elsewhere()), DeviceError, r"device \(2, 1\).*\.cpu\(\)"),
        (lambda: ag.from_dlpack(3), RuntimeError, "came int"),
        (lambda: ag.from_dlpack(used), RuntimeError, "not used before, came PyCapsule"),
        (lambda: ag.from_dlpack(locked), BufferError, "read-only.*copy=True"),
        (lambda: ag.from_dlpack(np.ones(2, np.uint16)), DtypeError, "no allgrad dtype"),
        (lambda: ag.from_dlpack(np.ones(2), device="cuda"), DeviceError, "cuda"),
        (lambda: np.from_dlpack(backwards), BufferError, "negative"),
        (lambda: ag.ones(2).__dlpack__(stream=3), AssertionError, "came 3"),
        (lambda: ag.ones(2).__dlpack__(dl_device=(2, 0)), BufferError, r"not \(2, 0\)"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert ag.from_dlpack(locked, copy=True).tolist() == [1, 1]


@pytest.mark.torch
def test_dtypes_that_we_lack():
    torch = pytest.importorskip("torch")
    with pytest.raises(DtypeError, match="no allgrad dtype"):
        ag.from_dlpack(torch.zeros(2, dtype=torch.float8_e4m3fn))
