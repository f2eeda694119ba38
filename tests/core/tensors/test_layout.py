"""Note [Layout]: channels-last memory is ours, and nobody may notice it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn
from allgrad.backend.layout import is_channels_last
from allgrad.tensors import Tensor

SHAPE = (2, 3, 4, 5)


def numbers():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) / 10


def hidden():
    """A tensor in channels-last memory, as a convolution gives it."""
    t = Tensor(np.moveaxis(np.array(np.moveaxis(numbers(), 1, -1), order="C"), -1, 1))
    assert not t._array.flags.c_contiguous
    assert is_channels_last(t._array)
    return t


def plain():
    return ag.tensor(numbers())


LOOKS = {
    "stride": lambda t: t.stride(),
    "stride_dim": lambda t: t.stride(1),
    "is_contiguous": lambda t: t.is_contiguous(),
    "numpy": lambda t: (t.numpy().strides, t.numpy().tolist()),
    "array": lambda t: np.asarray(t).strides,
    "repr": repr,
    "str": lambda t: f"{t}",
    "tolist": lambda t: t.tolist(),
    "view": lambda t: (t.view(2, -1).tolist(), t.view(2, -1).stride()),
    "view_merge": lambda t: t.view(6, 20).tolist(),
    "reshape": lambda t: (t.reshape(-1).tolist(), t.reshape(-1)._base is t),
    "flatten": lambda t: (t.flatten(1).tolist(), t.flatten(1)._base is t),
    "index": lambda t: (t[0, 1].tolist(), t[0, 1].stride(), t[:, 1:].stride()),
    "take": lambda t: t[:, [2, 0]].tolist(),
    "mask": lambda t: t[t > 3].tolist(),
    "transpose": lambda t: (t.transpose(1, 3).stride(), t.transpose(1, 3).tolist()),
    "permute": lambda t: t.permute(0, 2, 3, 1).is_contiguous(),
    "contiguous": lambda t: t.contiguous() is t,
    "detach": lambda t: t.detach().stride(),
    "data": lambda t: t.data.stride(),
    "clone": lambda t: t.clone().stride(),
    "argmax": lambda t: t.sin().argmax().item(),
    "nonzero": lambda t: (t > 5).nonzero().tolist(),
    "sort": lambda t: t.sin().sort(1)[1].tolist(),
    "cumsum": lambda t: t.cumsum(2).tolist(),
    "unbind": lambda t: [v.tolist() for v in t.unbind(1)],
    "iterate": lambda t: [v.sum().item() for v in t],
    "pickle": lambda t: pickle.loads(pickle.dumps(t)).numpy().strides,
    "deepcopy": lambda t: copy.deepcopy(t).stride(),
    "sum_of_results": lambda t: (t * 2 + t.relu()).view(-1).tolist(),
    "ravel_order": lambda t: (t + 1).numpy().ravel().tolist(),
    "split": lambda t: [v.stride() for v in t.split(2, 1)],
    "expand": lambda t: t[:, :1].expand(2, 3, 4, 5).tolist(),
    "parameter": lambda t: nn.Parameter(t).stride(),
    "dtype_view": lambda t: t.view(ag.int32).tolist() if hasattr(ag, "int32") else None,
    "hash_of_bytes": lambda t: t.numpy().tobytes(),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looks_contiguous(name):
    assert LOOKS[name](hidden()) == LOOKS[name](plain())


CHANGES = {
    "add_": lambda t: t.add_(1),
    "setitem": lambda t: t.__setitem__((0, slice(None), 1), 7.0),
    "view_fill": lambda t: t.view(-1)[3:9].fill_(5),
    "numpy_alias": lambda t: t.numpy().__setitem__((0, 0), 4),
    "data_alias": lambda t: t.data.zero_(),
    "detach_alias": lambda t: t.detach().view(-1)[::2].mul_(3),
    "masked_fill_": lambda t: t.masked_fill_(t > 2, 0.0),
    "copy_": lambda t: t.copy_(hidden() * 3),
    "copy_plain": lambda t: t.copy_(plain() * 3),
    "relu_": lambda t: t.sub_(3).relu_(),
    "transposed": lambda t: t.transpose(0, 3).mul_(2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_reach_the_tensor(name):
    a, b = hidden(), plain()
    view = a[0]  # a view made before sees the change as well
    CHANGES[name](a)
    CHANGES[name](b)
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_array_equal(view.numpy(), b.numpy()[0])


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(3, 2, 2), nn.BatchNorm2d(3), nn.MaxPool2d(2),
    nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.GroupNorm(3, 3), nn.Upsample(2) if
    hasattr(nn, "Upsample") else nn.ReLU(), nn.Dropout2d(0.5), nn.PReLU(3),
], ids=lambda m: type(m).__name__)  # fmt: skip
def test_outputs_of_layers_look_contiguous(layer):
    for x in (plain(), hidden()):
        y = layer(x)
        shape = tuple(y.shape)
        assert y.is_contiguous()
        assert y.view(-1, shape[-1]).shape == (y.numel() // shape[-1], shape[-1])
        assert y.stride() == ag.zeros(*shape).stride()
        assert y.detach().numpy().flags.c_contiguous


def test_gradients_look_contiguous():
    x = plain().requires_grad_()
    conv = nn.Conv2d(3, 4, 3)
    conv(x).square().sum().backward()
    for t in (x, *conv.parameters()):
        assert t.grad._array.flags.c_contiguous
        assert t.grad.view(-1).shape == (t.numel(),)


def test_hooks_see_contiguous_gradients():
    x = plain().requires_grad_()
    seen = []
    h = F.conv2d(x, ag.ones(4, 3, 3, 3))
    h.register_hook(lambda g: seen.append((g.is_contiguous(), g.view(-1).shape)))
    h.retain_grad()
    F.max_pool2d(h, 2).sum().backward()
    assert seen == [(True, (h.numel(),))]
    assert h.grad.is_contiguous()


def test_memory_of_the_user_keeps_its_layout():
    """What the user laid out is shared as it is, as in PyTorch."""
    array = numbers().transpose(0, 2, 3, 1)
    t = ag.from_numpy(array)
    assert t.stride() == tuple(s // 4 for s in array.strides)
    assert not t.is_contiguous()
    assert t.numpy() is array or np.shares_memory(t.numpy(), array)
    with pytest.raises(RuntimeError, match="view"):
        t.view(-1)
    assert t.reshape(-1).tolist() == array.reshape(-1).tolist()
    assert t.contiguous().is_contiguous()
    t.add_(1)
    assert array[0, 0, 0, 0] == 1


# -- memory formats --------------------------------------------------------------------------------
def test_memory_formats():
    x = ag.arange(24.0).view(1, 2, 3, 4).requires_grad_()
    for make in (
        lambda: x.to(memory_format=ag.channels_last),
        lambda: x.contiguous(memory_format=ag.channels_last),
        lambda: x.clone(memory_format=ag.channels_last),
    ):
        y = make()
        assert y.is_contiguous(memory_format=ag.channels_last)
        assert y.equal(x)
        x.grad = None
        (y * y).sum().backward()
        assert x.grad.equal(2 * x.detach())
    again = y.to(memory_format=ag.channels_last)
    assert again is y
    assert y.view(-1).tolist() == list(range(24))  # the layout is never seen
    assert not x.is_contiguous(memory_format=ag.channels_last)
    assert x.contiguous(memory_format=ag.contiguous_format) is x is x.contiguous()
    assert x.to(memory_format=ag.preserve_format) is x
    assert ag.ones(1, 2, 3, 3, 3).to(memory_format=ag.channels_last_3d).sum() == 54
    assert repr(ag.channels_last) == "allgrad.channels_last"
    w = ag.randn(3, 2, 2, 2)
    same = ag.nn.functional.conv2d(x.detach(), w)
    np.testing.assert_allclose(
        ag.nn.functional.conv2d(y.detach(), w).numpy(), same.numpy(), rtol=1e-5, atol=1e-5
    )
    net = ag.nn.Linear(2, 2)
    assert net.to(memory_format=ag.channels_last) is net


def test_memory_format_mistakes():
    with pytest.raises(RuntimeError, match=r"channels_last.*4 dimensions.*\(2, 3\)"):
        ag.ones(2, 3).to(memory_format=ag.channels_last)
    with pytest.raises(TypeError, match="memory format"):
        ag.ones(2, 3).contiguous(memory_format="channels_last")
    with pytest.raises(TypeError, match="memory format"):
        ag.nn.Linear(1, 1).to(memory_format=1)
