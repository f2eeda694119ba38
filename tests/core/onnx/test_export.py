"""ONNX files compute what the models compute, for other inputs and other batch sizes too."""

from __future__ import annotations

import io

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.nn import functional as F
from allgrad.onnx.export import ExportError, export
from allgrad.vision import models

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


class Function(nn.Module):
    """A function of its inputs as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def session(model, args, **options):
    file = io.BytesIO()
    export(model, args, file, **options)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1
    return runtime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])


def agree(model, shape, tolerance=1e-4, opset=17, batches=(2, 5)):
    """Export from one batch, compare on new values of that and of other batch sizes."""
    rng = np.random.default_rng(1)
    example = rng.standard_normal((batches[0], *shape)).astype(np.float32)
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}, "opset_version": opset}
    run = session(model, ag.from_numpy(example), **options)
    model.eval()
    for batch in batches:
        x = rng.standard_normal((batch, *shape)).astype(np.float32)
        expected = model(ag.from_numpy(x)).detach().numpy()
        (found,) = run.run(None, {"x": x})
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return run


def lively(model, seed=0):
    """Running statistics as after training, so that batch norm does something."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(ag.from_numpy(rng.normal(0, 0.1, shape).astype(np.float32)))
            module.running_var.copy_(ag.from_numpy(rng.uniform(0.5, 2, shape).astype(np.float32)))
    return model


# Every family of vision.models; widths and images are small where the structure is the same.
MODELS = {
    "LeNet": (models.LeNet, (1, 28, 28)),
    "MLP": (lambda: models.mlp(784, 32, 10), (1, 28, 28)),
    "ConvNet": (models.ConvNet, (1, 28, 28)),
    "DigitsNet": (models.DigitsNet, (1, 8, 8)),
    "resnet18": (lambda: models.resnet18(num_classes=10), (3, 32, 32)),
    "resnet18 for small images": (
        lambda: models.resnet18(small_images=True, width=16),
        (3, 16, 16),
    ),
    "resnet20": (models.resnet20, (3, 32, 32)),
    "resnet34": (lambda: models.resnet34(num_classes=10, width=16), (3, 32, 32)),
    "resnet50": (lambda: models.resnet50(num_classes=10, width=16), (3, 32, 32)),
    "resnet56": (models.resnet56, (3, 32, 32)),
    "WideResNet": (lambda: models.WideResNet(16, 2, drop_rate=0.3), (3, 32, 32)),
    "mobilenet_v2": (models.mobilenet_v2, (3, 32, 32)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_vision(name):
    build, shape = MODELS[name]
    agree(lively(build()), shape)


def test_vgg_with_its_adaptive_pooling(monkeypatch):
    """All but the width of the linear layers, whose 120 million weights would take seconds."""
    with monkeypatch.context() as patch:
        patch.setattr(nn, "Linear", lambda inputs, outputs: nn.Identity())
        features = models.vgg._features((8, 0, 16, 0, 32, 0), True)
        model = models.VGG(features, init_weights=False)
    model.classifier = nn.Sequential(
        nn.Linear(32 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 9)
    )
    for size in (32, 56):  # windows of unequal sizes, and of equal ones
        agree(lively(model), (3, size, size))


FUNCTIONS = {
    "add": lambda x: x + 2 + ag.add(x, x, alpha=3),
    "sub": lambda x: 1 - ag.sub(x, x * x, alpha=2),
    "div, pow": lambda x: 3 / (x * x + 1) ** 2,
    "max, min": lambda x: ag.maximum(x, -x) - ag.minimum(x, x * 2),
    "where": lambda x: ag.where(ag.tensor([True, False, True, False]), x, x * 0.5),
    "exp, log": lambda x: ag.log(ag.exp(x) + 1) + ag.log2(x.abs() + 1) + ag.log10(x.abs() + 1),
    "log1p, expm1": lambda x: ag.log1p(x.abs()) + ag.expm1(x),
    "roots": lambda x: ag.sqrt(x.abs()) + ag.rsqrt(x.abs() + 1) + (x.abs() + 1).reciprocal(),
    "trigonometry": lambda x: ag.sin(x) + ag.cos(x) + ag.tan(x * 0.1) + ag.tanh(x),
    "steps": lambda x: ag.floor(x) + ag.ceil(x) + ag.sign(x) + ag.round(x) + ag.trunc(x),
    "clamp": lambda x: x.clamp(-0.5, 1) + x.clamp(min=0) + F.relu6(x) + F.hardtanh(x),
    "neg, square": lambda x: -ag.square(x),
    "sigmoids": lambda x: ag.sigmoid(x) + F.logsigmoid(x) + F.silu(x) + F.hardsigmoid(x),
    "rectifiers": lambda x: F.leaky_relu(x, 0.1) + F.elu(x, 0.7) + F.selu(x) + F.celu(x, 0.5),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "softplus": lambda x: F.softplus(x) + F.softplus(x, beta=2) + F.mish(x) + F.hardswish(x),
    "softmax": lambda x: F.softmax(x, -1) + F.log_softmax(x, 1),
    "in place": lambda x: F.relu(x * 2, inplace=True) + F.relu6(x + 1, inplace=True),
    "sums": lambda x: x.sum(1) + x.mean(1) + x.sum((1,)) + x.prod(1) + ag.logsumexp(x, 1),
    "kept dimensions": lambda x: x.sum(1, keepdim=True) + x.mean((0, 1), keepdim=True),
    "extremes": lambda x: ag.amax(x, 1) + ag.amin(x, (1,)),
    "variance": lambda x: x.var(1) + x.std(-2, unbiased=False) + x.norm(dim=1),
    "cumsum": lambda x: x.cumsum(1),
    "reshape": lambda x: x.reshape(x.shape[0], -1) + x.flatten(1) + x.view(-1, 12),
    "reshape of two sizes": lambda x: x.reshape(x.shape[0] * 3, 2, 2),
    "permute": lambda x: x.permute(0, 2, 1) + x.transpose(1, 2),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1) + x[:, None].squeeze(),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1) + x[:, 0].unsqueeze(1).expand(x.shape[0], 5, 4),
    "slices": lambda x: x[:, 1:] + x[:, :-1, :] + x[:, -1].unsqueeze(1) + x[..., :2, ::2].sum(),
    "reversed slices": lambda x: x[:, ag.tensor([2, 0])] + x.index_select(1, ag.tensor([1, 1])),
    "cat, stack": lambda x: ag.cat([x, x * 2], 1).sum(1) + ag.stack([x, x], 1).sum((1, 2)),
    "split": lambda x: x.split(2, -1)[1] + x.chunk(2, -1)[0],
    "flip, roll": lambda x: x.flip(1) + x.roll(1, 2) + x.roll((1, -1), (1, 2)),
    "repeat": lambda x: x.repeat(1, 2, 1) + x.repeat(1, 2, 1).tril(),
    "pad": lambda x: F.pad(x, (1, 2)) + F.pad(x, (1, 2), mode="replicate"),
    "triangle": lambda x: x.tril() + x.triu(1),
    "gather": lambda x: x.gather(2, ag.zeros(2, 3, 2, dtype=ag.int64)[: x.shape[0]] + 1),
    "matmul": lambda x: x @ x.transpose(1, 2) @ x,
    "casts": lambda x: x.double().exp().float(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    fixed = name in ("gather", "squeeze")
    agree(Function(FUNCTIONS[name]), (3, 4), batches=(2, 2) if fixed else (2, 5))


LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, 2), (4, 9)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 4, 5, 3)),
    "Conv2d same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (4, 5, 6)),
    "Conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 5, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (4, 5, 6)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 8, 7)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 8, 7)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 8)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(1), (2, 8, 7)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 8)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 8, 7)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "LayerNorm without": (lambda: nn.LayerNorm(4, elementwise_affine=False), (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 5, 3)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 5, 3)),
    "PReLU": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.PReLU(3), nn.PReLU()), (2, 4, 4)),
    "Linear of sequences": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (5, 4)),
    "Dropout": (lambda: nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3)), (4,)),
}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, opset):
    build, shape = LAYERS[name]
    agree(build(), shape, opset=opset)


@pytest.mark.parametrize("name", ["sums", "kept dimensions", "pad", "variance", "extremes"])
def test_later_operators(name):
    agree(Function(FUNCTIONS[name]), (3, 4), opset=21)


def test_dynamic_image_size_and_names():
    model = models.resnet20()
    axes = {"image": {0: "n", 2: "h", 3: "w"}, "scores": {0: "n"}}
    options = {"input_names": ["image"], "output_names": ["scores"], "dynamic_axes": axes}
    run = session(model, ag.randn(1, 3, 16, 16), **options)
    assert run.get_inputs()[0].shape == ["n", 3, "h", "w"]
    assert run.get_outputs()[0].shape == ["n", 10]
    x = np.random.default_rng(0).standard_normal((3, 3, 24, 40)).astype(np.float32)
    (found,) = run.run(["scores"], {"image": x})
    np.testing.assert_allclose(found, model.eval()(ag.from_numpy(x)).detach().numpy(), atol=1e-5)


class Sentence(nn.Module):
    """Integers in, several arguments, several results."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self, tokens, weights, scale=1.0, square=False):
        x = self.linear(self.embedding(tokens)) * weights.unsqueeze(-1) * scale
        return {"all": x * x if square else x, "mean": x.mean(1)}


def test_several_inputs_and_outputs_of_several_types():
    model = Sentence()
    tokens, weights = ag.tensor([[1, 2, 6], [0, 5, 3]]), ag.randn(2, 3)
    run = session(
        model, (tokens, weights, 2.0), kwargs={"square": True}, output_names=["all", "mean"],
        dynamic_axes={"tokens": [0, 1], "weights": [0, 1]},
    )  # fmt: skip
    assert [v.name for v in run.get_inputs()] == ["tokens", "weights"]
    assert run.get_inputs()[0].type == "tensor(int64)"
    tokens, weights = ag.tensor([[4, 1, 3, 3]]), ag.randn(1, 4)
    found = run.run(None, {"tokens": tokens.numpy(), "weights": weights.numpy()})
    expected = model(tokens, weights, 2.0, square=True)
    for a, b in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_model_stays_as_it_was_and_parameters_keep_their_names(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    model[0].weight.requires_grad = False
    model[1].eval()
    export(model, ag.randn(2, 1, 5, 5), tmp_path / "deep" / "m.onnx")
    assert [m.training for m in model] == [True, False, True, True]
    assert not model[0].weight.requires_grad
    assert model[0].weight.grad is None
    graph = onnx.load(tmp_path / "deep" / "m.onnx").graph
    kept = {t.name for t in graph.initializer}
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} <= kept
    assert [n.op_type for n in graph.node] == ["Conv", "BatchNormalization", "Reshape"]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 1, 5, 5]


def test_shared_parameters_are_written_once():
    layer = nn.Linear(4, 4, bias=False)
    file = io.BytesIO()
    export(nn.Sequential(layer, nn.ReLU(), layer), ag.randn(1, 4), file)
    graph = onnx.load_from_string(file.getvalue()).graph
    assert [t.name for t in graph.initializer] == ["0.weight"]


def test_float64():
    model = nn.Linear(3, 2).double()
    run = session(model, ag.randn(2, 3, dtype=ag.float64))
    x = np.random.default_rng(0).standard_normal((2, 3))
    (found,) = run.run(None, {"input": x})
    np.testing.assert_allclose(found, model(ag.from_numpy(x)).detach().numpy(), rtol=1e-12)


def branches(x):
    return x * 2 if x.sum() > 1e9 or x.shape[0] > 2 else x.exp()


REFUSED = {
    "a rounding that ONNX lacks": (lambda x: ag.round(x, decimals=2), "ONNX has no <lambda>"),
    "an op without counterpart": (lambda x: ag.erfinv(x), "Erfinv of inputs of shapes"),
    "a mask of the values": (lambda x: ag.where(x > 0, x, -x), "a constant that Where takes"),
    "NumPy in the middle": (
        lambda x: x + ag.from_numpy(np.exp(x.detach().numpy())),
        "a constant that Add takes",
    ),
    "a number read from the input": (lambda x: x * float(x.sum()), "a constant that Mul takes"),
    "an index by values": (lambda x: x[x.argmax(0)], "Take: key is"),
    "control flow": (branches, "control flow"),
    "training": (lambda x: F.dropout(x), "Dropout of inputs.*training"),
    "no op at all": (lambda x: ag.zeros(2), "does not depend on the input"),
    "a batch in a constant": (lambda x: x + ag.ones(x.shape[0], 1), "a constant that Add takes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_named(name):
    function, message = REFUSED[name]
    with pytest.raises(ExportError, match=message):
        export(
            Function(function), ag.randn(2, 3), io.BytesIO(),
            input_names=["x"], dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset_version": 9}, ValueError, r"within 17\.\.\d+, came 9"),
        ({"dynamic_axes": {"y": [0]}}, ValueError, "unknown name in dynamic_axes 'y'"),
        ({"dynamic_axes": {"x": [3]}}, IndexError, r"axes within -2\.\.1, came \[3\]"),
        ({"dynamic_axes": {"output": [1], "x": [0]}}, RuntimeError, "axis 1 is 2 whatever"),
        ({"input_names": ["a", "b"]}, ValueError, "expected 1 different input_names"),
        ({"export_params": False}, ValueError, "without weights"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        export(nn.Linear(3, 2), ag.randn(2, 3), io.BytesIO(), **({"input_names": ["x"]} | options))


def test_wrong_types():
    with pytest.raises(TypeError, match="expected a Module, came function"):
        export(test_wrong_types, ag.randn(2), io.BytesIO())
    with pytest.raises(ValueError, match="tensor or a plain value, came list"):
        export(nn.Linear(3, 2), ([ag.randn(2, 3)],), io.BytesIO())
