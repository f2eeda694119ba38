"""Networks for images; parameter names and constructors are torchvision's where it has them.

There are no weights to download: `weights` must be None, and `progress`, which would show a
download, changes nothing. Activations are not in place: a layer absorbs the ReLU that follows it.
"""

from __future__ import annotations

from .cifar import (
    WideResNet,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    wide_resnet16_4,
    wide_resnet28_10,
)
from .mobilenet import MobileNetV2, mobilenet_v2
from .registry import get_model, get_model_builder, list_models, register
from .resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .small import ConvNet, DigitsNet, LeNet, lenet, mlp
from .vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

register(
    lenet=lenet,
    mobilenet_v2=mobilenet_v2,
    resnet18=resnet18,
    resnet20=resnet20,
    resnet32=resnet32,
    resnet34=resnet34,
    resnet44=resnet44,
    resnet50=resnet50,
    resnet56=resnet56,
    resnet101=resnet101,
    resnet110=resnet110,
    resnet152=resnet152,
    resnext50_32x4d=resnext50_32x4d,
    vgg11=vgg11,
    vgg11_bn=vgg11_bn,
    vgg13=vgg13,
    vgg13_bn=vgg13_bn,
    vgg16=vgg16,
    vgg16_bn=vgg16_bn,
    vgg19=vgg19,
    vgg19_bn=vgg19_bn,
    wide_resnet16_4=wide_resnet16_4,
    wide_resnet28_10=wide_resnet28_10,
    wide_resnet50_2=wide_resnet50_2,
    wide_resnet101_2=wide_resnet101_2,
)

__all__ = [
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "ConvNet",
    "DigitsNet",
    "LeNet",
    "MobileNetV2",
    "ResNet",
    "WideResNet",
    "get_model",
    "get_model_builder",
    "lenet",
    "list_models",
    "mlp",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnext50_32x4d",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet16_4",
    "wide_resnet28_10",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
