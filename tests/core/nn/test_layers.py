"""Every layer against PyTorch's: keys, forward, backward, both modes, printed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.layers import IMAGE, LINE, VOLUME, all_layers
from support.lazy_layers import LAYERS as LAZY_LAYERS
from support.losses import LOSSES
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
from allgrad import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LAYERS = all_layers()


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


def tensors_of(output):
    """The floating tensors in an output, however nested."""
    if isinstance(output, tuple | list):
        return [t for part in output for t in tensors_of(part)]
    return [output] if output.dtype.is_floating_point else []


def weighted_sum(outputs, make):
    rng = np.random.default_rng(2)
    total = 0
    for y in outputs:
        like = y.detach().numpy()
        total = total + (y * make(rng.standard_normal(like.shape).astype(like.dtype))).sum()
    return total


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
        ys, zs = tensors_of(ours(*xs)), tensors_of(theirs(*ts))
        for y, z in zip(ys, zs, strict=True):
            assert_close(y.detach().numpy(), z.detach().numpy(), GRADIENT, "output")
        weighted_sum(ys, ag.tensor).backward()
        weighted_sum(zs, torch.tensor).backward()
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
    (nn.Dropout2d(), (5,), r"dropout2d: .*\(5,\)"),
    (nn.Dropout1d(), (2, 3, 4, 5), r"dropout1d: .*\(2, 3, 4, 5\)"),
])  # fmt: skip
def test_bad_inputs_are_named(layer, shape, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        layer(ag.zeros(*shape))


@pytest.mark.parametrize(("name", "shape"), [
    ("dropout2d", (40, 50)), ("dropout2d", (40, 50, 3)), ("dropout3d", (40, 50, 3)),
])  # fmt: skip
def test_channel_dropout_of_other_shapes_warns(name, shape):
    """PyTorch still takes them; networks that end in Dropout2d and Linear are around."""
    with pytest.warns(UserWarning, match=name):
        getattr(torch.nn.functional, name)(torch.ones(shape), 0.5)
    with pytest.warns(UserWarning, match=rf"{name}: .*\(40, 50.*dropout"):
        y = getattr(nn.functional, name)(ag.ones(*shape), 0.5).numpy().reshape(40, 50, -1)
    assert set(np.unique(y)) == {0, 2}
    assert (y == y[:, :, :1]).all()  # whole channels
    assert 800 < (y[:, :, 0] == 0).sum() < 1200


# Classes whose rows stand elsewhere, with the test that has them.
ELSEWHERE = {
    "Module": "test_module.py",
    "AdaptiveLogSoftmaxWithLoss": "test_losses.py: test_adaptive_log_softmax",
    "ModuleDict": "test_module.py: test_module_dict",
    "ModuleList": "test_module.py: test_module_list",
    "ParameterDict": "test_module.py: test_parameter_containers",
    "ParameterList": "test_module.py: test_parameter_containers",
    "Dropout": "test_dropout (random)",
    "Dropout1d": "test_dropout (random)",
    "Dropout2d": "test_dropout (random)",
    "Dropout3d": "test_dropout (random)",
    "AlphaDropout": "test_dropout (random)",
    "FeatureAlphaDropout": "test_dropout (random)",
    "RReLU": "test_rrelu (random)",
    "RNNBase": "RNN, LSTM and GRU, which inherit it",
    "RNNCellBase": "the cells, which inherit it",
    "MaxUnpool1d": "test_max_unpool",
    "MaxUnpool2d": "test_max_unpool",
    "MaxUnpool3d": "test_max_unpool",
    "FractionalMaxPool2d": "test_fractional_max_pool (random)",
    "FractionalMaxPool3d": "test_fractional_max_pool (random)",
}


def test_every_layer_has_a_row():
    """A class of allgrad.nn without a row in a table of layers or losses fails here."""
    met = set(ELSEWHERE)
    for make, *_ in LAYERS.values():
        met |= {type(m).__name__ for m in make(nn).modules()}
    public = {
        name
        for name, value in vars(nn).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    losses = {name for name in public if name.endswith("Loss") and name not in ELSEWHERE}
    lazy = {name for name in public if name.startswith("Lazy")}
    missing = public - met - losses - lazy
    assert not missing, f"layers without a row in tests/support/layers_*.py: {sorted(missing)}"
    unmet = lazy - {name.split("_")[0] for name in LAZY_LAYERS}
    assert not unmet, f"lazy layers without a row in test_lazy.py: {sorted(unmet)}"
    assert not losses - set(LOSSES), f"losses without a row: {sorted(losses - set(LOSSES))}"
    unknown = set(ELSEWHERE) - public
    assert not unknown, f"exceptions for layers that do not exist: {sorted(unknown)}"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_max_unpool(dims):
    shape = {1: LINE, 2: IMAGE, 3: VOLUME}[dims]
    array = np.random.default_rng(0).standard_normal(shape)
    found = []
    for lib in (ag, torch):
        x = lib.tensor(array, requires_grad=True)
        pool = getattr(lib.nn, f"MaxPool{dims}d")(2, return_indices=True)
        unpool = getattr(lib.nn, f"MaxUnpool{dims}d")(2)
        y = unpool(*pool(x), output_size=x.size())
        (y * y).sum().backward()
        found.append((y.detach().numpy(), x.grad.numpy(), repr(unpool)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional_max_pool(dims):
    shape = (2, 3, 9, 8) if dims == 2 else (2, 2, 7, 6, 8)
    array = np.random.default_rng(0).standard_normal(shape)
    samples = np.random.default_rng(1).random((2, shape[1], dims))
    found = []
    for lib in (ag, torch):
        for options in ({"output_size": 4}, {"output_ratio": 0.5}):
            name = f"FractionalMaxPool{dims}d"
            layer = getattr(lib.nn, name)(
                2, return_indices=True, _random_samples=lib.tensor(samples), **options
            )
            found += [t.numpy() for t in layer(lib.tensor(array))]
    for a, b in zip(found[:4], found[4:], strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = getattr(nn, f"FractionalMaxPool{dims}d")(3, output_ratio=0.5)(ag.tensor(array))
    assert np.isin(drawn.numpy(), array).all()


def test_rrelu():
    layer, x = nn.RReLU(0.2, 0.4), ag.tensor([-1.0, 2.0] * 500, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    low = y.detach().numpy()[::2]
    assert -0.4 <= low.min() < -0.38 < -0.22 < low.max() <= -0.2
    assert (y.detach().numpy()[1::2] == 2).all()
    np.testing.assert_allclose(x.grad.numpy()[::2], -low)
    assert repr(layer) == repr(torch.nn.RReLU(0.2, 0.4))
    assert layer.eval()(ag.tensor([-1.0])).item() == pytest.approx(-0.3)
