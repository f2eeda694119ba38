"""Networks for images; parameter names are torchvision's where it has them."""

from __future__ import annotations

from .resnet import BasicBlock, ResNet, resnet18, resnet20, resnet34, resnet56
from .small import ConvNet, DigitsNet, mlp

__all__ = [
    "BasicBlock",
    "ConvNet",
    "DigitsNet",
    "ResNet",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet56",
]
