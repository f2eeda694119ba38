"""Networks: torchvision's names and shapes, outputs, initialisation, and files of weights."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.errors import OptionError
from allgrad.vision import models

# (name, parameters, entries of the state, hash of their names and shapes) of torchvision 0.28.
TORCHVISION = [
    ("resnet18", 11689512, 122, "84fb10d9c6905a1c"),
    ("resnet34", 21797672, 218, "28f9096d51307499"),
    ("resnet50", 25557032, 320, "d7e4f8bb0a536344"),
    ("resnet101", 44549160, 626, "02c0f34f4842751f"),
    ("resnet152", 60192808, 932, "685c66205bc823aa"),
    ("resnext50_32x4d", 25028904, 320, "e3bad165c034e60f"),
    ("wide_resnet50_2", 68883240, 320, "41203d1d536c02ed"),
    ("wide_resnet101_2", 126886696, 626, "4f088c0a152b8f5c"),
    ("vgg11", 132863336, 22, "cb3dc23f2a13e182"),
    ("vgg11_bn", 132868840, 62, "8b6717e727c0ecf9"),
    ("vgg13", 133047848, 26, "67c1dc8b57fde74b"),
    ("vgg13_bn", 133053736, 76, "f6b0597d18a7e4d2"),
    ("vgg16", 138357544, 32, "35c4623e0cd4a39d"),
    ("vgg16_bn", 138365992, 97, "347371586a8ea365"),
    ("vgg19", 143667240, 38, "4723255af8f6c485"),
    ("vgg19_bn", 143678248, 118, "fc3ff6fab2b5cc09"),
    ("mobilenet_v2", 3504872, 314, "37bbbce8932fd0c4"),
]
# (name, parameters as the papers count them, input shape).
OTHERS = [
    ("lenet", 61_706, (2, 1, 28, 28)),
    ("resnet20", 272_474, (2, 3, 32, 32)),
    ("resnet32", 466_906, (2, 3, 32, 32)),
    ("resnet44", 661_338, None),
    ("resnet56", 855_770, None),
    ("resnet110", 1_730_714, None),
    ("wide_resnet16_4", 2_748_890, (2, 3, 32, 32)),
    ("wide_resnet28_10", 36_479_194, None),
]
SMALL_INPUT = {"resnet18": 32, "mobilenet_v2": 32, "vgg11_bn": 32}


@pytest.fixture
def no_initialisation(monkeypatch):
    """Drawing 130 million normal numbers takes longer than all other tests of a network."""
    for name in ("kaiming_normal_", "normal_", "kaiming_uniform_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.usefixtures("no_initialisation")
@pytest.mark.parametrize(("name", "parameters", "entries", "digest"), TORCHVISION)
def test_names_and_shapes_are_torchvisions(name, parameters, entries, digest):
    model = models.get_model(name)
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    text = "\n".join(f"{key} {shape}" for key, shape in state.items())
    assert count(model) == parameters
    assert len(state) == entries
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(("name", "parameters", "shape"), OTHERS)
def test_sizes_of_the_other_networks(name, parameters, shape, request):
    if shape is None:
        request.getfixturevalue("no_initialisation")
    model = models.get_model(name).eval()
    assert count(model) == parameters
    if shape:
        assert tuple(model(ag.randn(*shape)).shape) == (2, 10)


def test_every_builder_is_tested():
    tested = {row[0] for row in TORCHVISION} | {row[0] for row in OTHERS}
    assert set(models.list_models()) == tested


@pytest.mark.parametrize("name", sorted(SMALL_INPUT))
def test_a_step_trains_every_parameter(name, request):
    options = {"num_classes": 7}
    if name == "vgg11_bn":  # its linear layers of 120 million weights are tested by their shapes
        request.getfixturevalue("no_initialisation")
        model = nn.Sequential(models.get_model(name).features, nn.Flatten(), nn.Linear(512, 7))
    else:
        model = models.get_model(name, **options)
    y = model(ag.randn(2, 3, SMALL_INPUT[name], SMALL_INPUT[name]))
    assert tuple(y.shape) == (2, 7)
    (y * ag.randn(2, 7)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_options_of_resnet():
    zero = models.resnet18(zero_init_residual=True, num_classes=3)
    assert zero.layer1[0].bn2.weight.abs().max() == 0
    assert zero.layer1[0].bn1.weight.min() == 1
    assert models.resnet18().layer1[0].bn2.weight.min() == 1
    narrow = models.ResNet(models.Bottleneck, (1, 1, 1, 1), 4, width=8, norm_layer=nn.BatchNorm2d)
    assert tuple(narrow(ag.randn(1, 3, 64, 64)).shape) == (1, 4)
    dilated = models.ResNet(
        models.Bottleneck,
        (1, 2, 1, 2),
        4,
        replace_stride_with_dilation=(False, True, True),
        width=8,
    )
    seen = []
    dilated.layer4.register_forward_hook(lambda module, inputs, out: seen.append(out.shape[-1]))
    dilated.eval()(ag.randn(1, 3, 64, 64))
    assert seen == [8]
    assert dilated.layer4[1].conv2.dilation == (4, 4)
    with pytest.raises(ValueError, match="3 values of replace_stride_with_dilation"):
        models.ResNet(models.Bottleneck, (1, 1, 1, 1), replace_stride_with_dilation=(True,))
    with pytest.raises(ValueError, match="BasicBlock: expected groups=1"):
        models.ResNet(models.BasicBlock, (1, 1, 1, 1), groups=2)


def test_initialisation():
    weight = models.resnet18(num_classes=2).layer4[0].conv1.weight  # (512, 256, 3, 3)
    assert float(weight.std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    mobile = models.mobilenet_v2(num_classes=50)
    assert float(mobile.classifier[1].weight.std()) == pytest.approx(0.01, rel=0.03)
    assert mobile.classifier[1].bias.abs().max() == 0


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v2", "resnet20", "lenet"])
def test_weights_are_refused_with_the_way_to_load_them(name):
    with pytest.raises(OptionError, match=r"load_state_dict\(allgrad.load"):
        models.get_model(name, weights="DEFAULT")


def test_models_by_name():
    assert models.list_models(include="vgg1?", exclude=["*13", "*19"]) == ["vgg11", "vgg16"]
    assert models.list_models(module=models.mobilenet) == ["mobilenet_v2"]
    assert models.get_model_builder("ResNet20") is models.resnet20
    with pytest.raises(OptionError, match="unknown model 'alexnet'; known: 'lenet'"):
        models.get_model("alexnet")
    with pytest.raises(OptionError, match="6 n \\+ 4"):
        models.WideResNet(27)
    with pytest.raises(OptionError, match="28, 32"):
        models.LeNet(image_size=30)
    assert tuple(models.LeNet(4, 3, 32)(ag.zeros(1, 3, 32, 32)).shape) == (1, 4)


def torch_block(torch, inplanes, planes, stride):
    """torchvision's basic block, in PyTorch."""
    from torch import nn as tnn

    class Block(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = tnn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
            self.bn1 = tnn.BatchNorm2d(planes)
            self.conv2 = tnn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = tnn.BatchNorm2d(planes)
            self.downsample = None
            if stride != 1 or inplanes != planes:
                self.downsample = tnn.Sequential(
                    tnn.Conv2d(inplanes, planes, 1, stride, bias=False), tnn.BatchNorm2d(planes)
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + shortcut)

    return Block()


def torch_resnet18(torch):
    from torch import nn as tnn

    layers = {
        "conv1": tnn.Conv2d(3, 64, 7, 2, 3, bias=False),
        "bn1": tnn.BatchNorm2d(64),
        "relu": tnn.ReLU(),
        "maxpool": tnn.MaxPool2d(3, 2, 1),
    }
    before = 64
    for stage, planes in enumerate((64, 128, 256, 512)):
        blocks = [
            torch_block(torch, before, planes, 2 if stage else 1),
            torch_block(torch, planes, planes, 1),
        ]
        layers[f"layer{stage + 1}"] = tnn.Sequential(*blocks)
        before = planes
    layers |= {"avgpool": tnn.AdaptiveAvgPool2d(1), "flat": tnn.Flatten(), "fc": tnn.Linear(512, 9)}
    twin = tnn.Sequential()
    for name, layer in layers.items():
        twin.add_module(name, layer)
    return twin


@pytest.mark.torch
def test_weights_travel_to_pytorch_and_back_as_safetensors(tmp_path, rng):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    twin, ours = torch_resnet18(torch), models.resnet18(num_classes=9)
    x = rng.standard_normal((4, 3, 33, 47)).astype(np.float32)
    twin(torch.from_numpy(x))  # running statistics and num_batches_tracked move
    save_file(twin.state_dict(), tmp_path / "torch.safetensors")
    state = ag.load(tmp_path / "torch.safetensors")
    assert set(state) == set(ours.state_dict())
    ours.load_state_dict(state)
    assert int(ours.bn1.num_batches_tracked) == 1

    def difference():
        expected = twin.eval()(torch.from_numpy(x)).detach().numpy()
        return np.abs(ours.eval()(ag.from_numpy(x)).detach().numpy() - expected).max()

    assert difference() <= 1e-5

    ours.train()
    optimizer = ag.optim.SGD(ours.parameters(), lr=0.01)
    ours(ag.from_numpy(x)).square().mean().backward()
    optimizer.step()
    assert difference() > 1e-4
    ag.save(ours.state_dict(), tmp_path / "ours.safetensors")
    twin.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    assert int(twin.bn1.num_batches_tracked) == 2
    assert difference() <= 1e-5
