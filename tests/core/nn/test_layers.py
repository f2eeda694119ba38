"""Every layer against PyTorch's: keys, forward, backward, both modes, printed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
from allgrad import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

IMAGE, LINE, VOLUME = (3, 4, 6, 5), (3, 4, 7), (2, 4, 4, 5, 3)

# label -> (constructor for both libraries, input shapes or arrays)
LAYERS = {
    "Linear": (lambda nn: nn.Linear(5, 3), (4, 5)),
    "Linear_stack": (lambda nn: nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "Linear_vector": (lambda nn: nn.Linear(5, 3), (5,)),
    "Bilinear": (lambda nn: nn.Bilinear(3, 4, 2), (5, 3), (5, 4)),
    "Identity": (lambda nn: nn.Identity(3, unused=True), (4, 5)),
    "Flatten": (lambda nn: nn.Flatten(), IMAGE),
    "Flatten_part": (lambda nn: nn.Flatten(2, 3), IMAGE),
    "Unflatten": (lambda nn: nn.Unflatten(1, (2, 2)), IMAGE),
    "Conv1d": (lambda nn: nn.Conv1d(4, 6, 3, padding=1), LINE),
    "Conv2d": (lambda nn: nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGE),
    "Conv2d_all": (lambda nn: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), 2, 2, bias=False), IMAGE),
    "Conv2d_same": (lambda nn: nn.Conv2d(4, 6, (3, 4), padding="same"), IMAGE),
    "Conv2d_single": (lambda nn: nn.Conv2d(4, 6, 3), IMAGE[1:]),
    "Conv2d_reflect": (lambda nn: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), IMAGE),
    "Conv2d_circular": (lambda nn: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"),
                        IMAGE),
    "Conv2d_replicate_same": (lambda nn: nn.Conv2d(4, 6, (3, 4), padding="same",
                              padding_mode="replicate"), IMAGE),
    "Conv3d": (lambda nn: nn.Conv3d(4, 2, 2, padding=1), VOLUME),
    "ConvTranspose1d": (lambda nn: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), LINE),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), IMAGE),
    "ConvTranspose2d_dilated": (lambda nn: nn.ConvTranspose2d(4, 6, 3, dilation=2, bias=False),
                                IMAGE),
    "ConvTranspose3d": (lambda nn: nn.ConvTranspose3d(4, 2, 2), VOLUME),
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(4), (5, 4)),
    "BatchNorm1d_line": (lambda nn: nn.BatchNorm1d(4, momentum=0.4), LINE),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(4, eps=1e-3), IMAGE),
    "BatchNorm2d_plain": (lambda nn: nn.BatchNorm2d(4, affine=False), IMAGE),
    "BatchNorm2d_untracked": (lambda nn: nn.BatchNorm2d(4, track_running_stats=False), IMAGE),
    "BatchNorm2d_average": (lambda nn: nn.BatchNorm2d(4, momentum=None), IMAGE),
    "BatchNorm3d": (lambda nn: nn.BatchNorm3d(4), VOLUME),
    "InstanceNorm1d": (lambda nn: nn.InstanceNorm1d(4), LINE),
    "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
                       IMAGE),
    "InstanceNorm2d_single": (lambda nn: nn.InstanceNorm2d(4), IMAGE[1:]),
    "InstanceNorm3d": (lambda nn: nn.InstanceNorm3d(4, affine=True), VOLUME),
    "LayerNorm": (lambda nn: nn.LayerNorm(5), (3, 4, 5)),
    "LayerNorm_two": (lambda nn: nn.LayerNorm((4, 5), eps=1e-3), (3, 4, 5)),
    "LayerNorm_plain": (lambda nn: nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    "LayerNorm_no_bias": (lambda nn: nn.LayerNorm(5, bias=False), (3, 5)),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 4), IMAGE),
    "GroupNorm_plain": (lambda nn: nn.GroupNorm(4, 4, affine=False), LINE),
    "MaxPool1d": (lambda nn: nn.MaxPool1d(3, 2, 1), LINE),
    "MaxPool2d": (lambda nn: nn.MaxPool2d(2), IMAGE),
    "MaxPool2d_all": (lambda nn: nn.MaxPool2d((3, 2), 1, (1, 0), 2, ceil_mode=True), IMAGE),
    "MaxPool3d": (lambda nn: nn.MaxPool3d(2), VOLUME),
    "AvgPool1d": (lambda nn: nn.AvgPool1d(3, 2, 1), LINE),
    "AvgPool2d": (lambda nn: nn.AvgPool2d(3, 2, 1, True, False), IMAGE),
    "AvgPool2d_divisor": (lambda nn: nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "AvgPool3d": (lambda nn: nn.AvgPool3d(2), VOLUME),
    "AdaptiveAvgPool1d": (lambda nn: nn.AdaptiveAvgPool1d(3), LINE),
    "AdaptiveAvgPool2d": (lambda nn: nn.AdaptiveAvgPool2d((2, None)), IMAGE),
    "AdaptiveAvgPool2d_one": (lambda nn: nn.AdaptiveAvgPool2d(1), IMAGE),
    "AdaptiveAvgPool3d": (lambda nn: nn.AdaptiveAvgPool3d(2), VOLUME),
    "AdaptiveMaxPool1d": (lambda nn: nn.AdaptiveMaxPool1d(3), LINE),
    "AdaptiveMaxPool2d": (lambda nn: nn.AdaptiveMaxPool2d((4, 3)), IMAGE),
    "AdaptiveMaxPool3d": (lambda nn: nn.AdaptiveMaxPool3d(2), VOLUME),
    "ReLU": (lambda nn: nn.ReLU(), IMAGE),
    "ReLU6": (lambda nn: nn.ReLU6(), IMAGE),
    "Hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.7), IMAGE),
    "LeakyReLU": (lambda nn: nn.LeakyReLU(0.2), IMAGE),
    "ELU": (lambda nn: nn.ELU(0.5), IMAGE),
    "SELU": (lambda nn: nn.SELU(), IMAGE),
    "CELU": (lambda nn: nn.CELU(0.5), IMAGE),
    "GELU": (lambda nn: nn.GELU(), IMAGE),
    "GELU_tanh": (lambda nn: nn.GELU(approximate="tanh"), IMAGE),
    "SiLU": (lambda nn: nn.SiLU(), IMAGE),
    "Mish": (lambda nn: nn.Mish(), IMAGE),
    "Softplus": (lambda nn: nn.Softplus(2, 1.5), IMAGE),
    "Sigmoid": (lambda nn: nn.Sigmoid(), IMAGE),
    "Tanh": (lambda nn: nn.Tanh(), IMAGE),
    "LogSigmoid": (lambda nn: nn.LogSigmoid(), IMAGE),
    "Softsign": (lambda nn: nn.Softsign(), IMAGE),
    "Hardsigmoid": (lambda nn: nn.Hardsigmoid(), IMAGE),
    "Hardswish": (lambda nn: nn.Hardswish(), IMAGE),
    "Softmax": (lambda nn: nn.Softmax(dim=1), IMAGE),
    "LogSoftmax": (lambda nn: nn.LogSoftmax(dim=-1), IMAGE),
    "Softmin": (lambda nn: nn.Softmin(dim=0), IMAGE),
    "PReLU": (lambda nn: nn.PReLU(), IMAGE),
    "PReLU_channels": (lambda nn: nn.PReLU(4, init=0.1), IMAGE),
    "Embedding": (lambda nn: nn.Embedding(5, 3), np.array([[0, 4, 2], [2, 2, 1]])),
    "Embedding_padding": (lambda nn: nn.Embedding(5, 3, padding_idx=2), np.array([0, 4, 2, 2])),
    "Sequential": (lambda nn: nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3),
                   nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)), IMAGE),
    "Sequential_inplace": (lambda nn: nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3),
                           nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.ReLU(True)), IMAGE),
}  # fmt: skip


def build(name):
    """(ours, theirs) with the same parameters."""
    make = LAYERS[name][0]
    torch.manual_seed(0)
    theirs, ours = make(torch.nn), make(nn)
    with torch.no_grad():
        for p in theirs.parameters():
            p.uniform_(-1, 1)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


def inputs(name, dtype):
    rng = np.random.default_rng(1)
    given = LAYERS[name][1:]
    return [a if isinstance(a, np.ndarray) else rng.standard_normal(a).astype(dtype) for a in given]


def compare_states(ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert_close(a[key].numpy(), b[key].numpy(), GRADIENT, key)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_keys_and_shapes(name):
    ours, theirs = LAYERS[name][0](nn), LAYERS[name][0](torch.nn)
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b)
    assert [tuple(v.shape) for v in a.values()] == [tuple(v.shape) for v in b.values()]
    assert [v.dtype.name for v in a.values()] == [str(v.dtype)[6:] for v in b.values()]
    for attribute in ("named_parameters", "named_buffers", "named_children", "named_modules"):
        expected = [n for n, _ in getattr(theirs, attribute)()]
        assert [n for n, _ in getattr(ours, attribute)()] == expected


@pytest.mark.parametrize("name", LAYERS)
def test_printed_form(name):
    assert repr(LAYERS[name][0](nn)) == repr(LAYERS[name][0](torch.nn))


@pytest.mark.parametrize(("name", "mode"), [*itertools.product(LAYERS, ("train", "eval"))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_forward_and_backward(name, mode, dtype):
    ours, theirs = build(name)
    if dtype == np.float64:
        ours, theirs = ours.double(), theirs.double()
    if mode == "eval":
        for array in inputs(name, dtype):  # statistics that are not the initial ones
            if "Norm" in name or "Sequential" in name:
                ours(ag.tensor(array)), theirs(torch.tensor(array))
        ours.eval(), theirs.eval()
    for _ in range(2):  # the second batch meets moved statistics and accumulated gradients
        arrays = inputs(name, dtype)
        xs, ts = [ag.tensor(a) for a in arrays], [torch.tensor(a) for a in arrays]
        for x, t in zip(xs, ts, strict=True):
            if x.is_floating_point():
                x.requires_grad_(), t.requires_grad_()
        y, z = ours(*xs), theirs(*ts)
        weights = np.random.default_rng(2).standard_normal(tuple(z.shape)).astype(dtype)
        (y * ag.tensor(weights)).sum().backward()
        (z * torch.tensor(weights)).sum().backward()
        assert_close(y.detach().numpy(), z.detach().numpy(), GRADIENT, "output")
        for x, t in zip(xs, ts, strict=True):
            if x.requires_grad:
                rounded = np.float32 if name == "Hardsigmoid" else None  # PyTorch has 1/6 as float
                a, b = x.grad.numpy(), t.grad.numpy()
                assert_close(a, b, GRADIENT, "gradient of input", rounded)
    compare_states(ours, theirs)
    pairs = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    for (key, p), q in pairs:
        assert_close(p.grad.numpy(), q.grad.numpy(), GRADIENT, f"gradient of {key}")


def test_max_pool_with_indices():
    for dims, shape in ((1, LINE), (2, IMAGE), (3, VOLUME)):
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for options in ({"padding": 1, "stride": 2}, {"ceil_mode": True, "stride": 2}, {}):
            ours = getattr(nn, f"MaxPool{dims}d")(3, return_indices=True, **options)
            theirs = getattr(torch.nn, f"MaxPool{dims}d")(3, return_indices=True, **options)
            for a, b in zip(ours(ag.tensor(array)), theirs(torch.tensor(array)), strict=True):
                np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_conv_transpose_to_a_given_size():
    ours, theirs = nn.ConvTranspose2d(4, 2, 3, 2), torch.nn.ConvTranspose2d(4, 2, 3, 2)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(IMAGE).astype(np.float32)
    for size in ([14, 11], [13, 12], (3, 2, 14, 12)):
        a, b = ours(ag.tensor(x), output_size=size), theirs(torch.tensor(x), output_size=size)
        assert_close(a.detach().numpy(), b.detach().numpy(), GRADIENT)
    with pytest.raises(RuntimeError, match="output_size"):
        ours(ag.tensor(x), output_size=[20, 20])


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"])
def test_dropout(name):
    shape = {"Dropout1d": (50, 40, 6), "Dropout2d": (50, 40, 3, 2)}.get(name, (50, 40, 3, 2, 1))
    layer = getattr(nn, name)(0.3)
    assert repr(layer) == repr(getattr(torch.nn, name)(0.3))
    x = ag.ones(*shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    values = np.unique(np.round(y.detach().numpy(), 4))
    assert len(values) == 2
    if name != "AlphaDropout":
        np.testing.assert_allclose(values, [0, 1 / 0.7], atol=1e-3)
        np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
        dropped = (y.detach().numpy() == 0).mean()
        assert abs(dropped - 0.3) < 0.03
    if name[-2:] in ("1d", "2d", "3d"):
        planes = y.detach().numpy().reshape(2000, -1)
        assert (planes == planes[:, :1]).all()
    layer.eval()
    assert layer(x) is x
    assert getattr(nn, name)(0.0)(x) is x
    with pytest.raises(ValueError, match=r"0\.\.1.*1\.5"):
        getattr(nn, name)(1.5)


def test_alpha_dropout_keeps_mean_and_variance():
    y = nn.AlphaDropout(0.2)(ag.randn(100_000))
    assert abs(y.mean().item()) < 0.02
    assert abs(y.std().item() - 1) < 0.02


def test_dropout_of_everything():
    assert nn.Dropout(1.0)(ag.ones(5)).tolist() == [0] * 5
    x = ag.ones(8)
    assert nn.Dropout(0.5, inplace=True)(x) is x
    assert set(x.tolist()) <= {0, 2}


def test_default_initialisation_has_pytorchs_bounds():
    for name in ("Linear", "Conv2d", "ConvTranspose2d", "Embedding", "Bilinear"):
        make = {"Linear": lambda nn: nn.Linear(50, 80), "Conv2d": lambda nn: nn.Conv2d(10, 60, 3),
                "ConvTranspose2d": lambda nn: nn.ConvTranspose2d(20, 30, 3),
                "Embedding": lambda nn: nn.Embedding(90, 40),
                "Bilinear": lambda nn: nn.Bilinear(30, 20, 10)}[name]  # fmt: skip
        torch.manual_seed(0)
        for p, q in zip(make(nn).parameters(), make(torch.nn).parameters(), strict=True):
            a, b = p.detach().numpy(), q.detach().numpy()
            if a.size > 200:
                assert abs(a.std() - b.std()) < 0.05 * b.std()
            if name != "Embedding":
                assert abs(np.abs(a).max() / np.abs(b).max() - 1) < 0.15


@pytest.mark.parametrize("make", [
    lambda nn: nn.Conv2d(3, 4, 3, groups=2), lambda nn: nn.GroupNorm(3, 4),
    lambda nn: nn.Conv2d(3, 4, 3, padding_mode="mirror"), lambda nn: nn.Dropout(-1),
    lambda nn: nn.Conv2d(3, 4, 3, padding="full"), lambda nn: nn.ReLU(slope=3),
])  # fmt: skip
def test_bad_arguments_are_refused_at_once(make):
    with pytest.raises((ValueError, TypeError, RuntimeError)) as theirs:
        make(torch.nn)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as ours:
        make(nn)
    assert isinstance(ours.value, theirs.type)


@pytest.mark.parametrize(("layer", "shape", "message"), [
    (nn.BatchNorm2d(3), (2, 3), r"BatchNorm2d: .*4-dimensional.*\(2, 3\)"),
    (nn.BatchNorm2d(3), (2, 4, 5, 5), r"batch_norm: .*\(2, 4, 5, 5\) has 4 channels"),
    (nn.Linear(3, 2), (5, 4), r"linear: .*\(5, 4\).*\(2, 3\)"),
    (nn.Conv2d(3, 2, 3), (1, 4, 5, 5), r"conv2d: .*\(1, 4, 5, 5\).*\(2, 3, 3, 3\)"),
    (nn.MaxPool2d(3), (1, 1, 2, 2), "max_pool2d"),
    (nn.LayerNorm(4), (2, 5), r"layer_norm: .*\(4,\).*\(2, 5\)"),
    (nn.Dropout2d(), (2, 5), r"dropout2d: .*\(2, 5\)"),
])  # fmt: skip
def test_bad_inputs_are_named(layer, shape, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        layer(ag.zeros(*shape))
