"""Residual networks (He et al. 2015, "Deep residual learning for image recognition").

Parameter names are torchvision's, so that its weights load key by key.
"""

from __future__ import annotations

from typing import Any

from ... import nn
from ...tensors import Tensor


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Shape: (N, inplanes, H, W) -> (N, planes, H/stride, W/stride).
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: Any = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """A stem, stages of basic blocks that halve the size and double the width, a classifier.

    Args:
        blocks: number of blocks of each stage.
        width: channels of the first stage.
        num_classes: outputs.
        small_images: stem for 32x32 images (one 3x3 convolution) instead of the one for 224x224
            (7x7 convolution of stride 2 and max pooling).
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int = 64,
        num_classes: int = 1000,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        self.small_images = small_images
        if small_images:
            self.conv1 = _conv3x3(3, width)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        if not small_images:
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        planes = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layer = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layer.append(BasicBlock(planes, outputs, stride))
                planes = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.stages = len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if not self.small_images:
            x = self.maxpool(x)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int = 1000, small_images: bool = False) -> ResNet:
    """ResNet-18: 11.7 M parameters with 1,000 classes; 11.2 M for CIFAR-10."""
    return ResNet((2, 2, 2, 2), 64, num_classes, small_images)


def resnet34(num_classes: int = 1000, small_images: bool = False) -> ResNet:
    """ResNet-34: 21.8 M parameters with 1,000 classes."""
    return ResNet((3, 4, 6, 3), 64, num_classes, small_images)


def resnet20(num_classes: int = 10) -> ResNet:
    """ResNet-20 for 32x32 images: 16 to 64 channels, 0.27 M parameters.

    Shortcuts that change shape are 1x1 convolutions (option B of the paper).
    """
    return ResNet((3, 3, 3), 16, num_classes, small_images=True)


def resnet56(num_classes: int = 10) -> ResNet:
    """ResNet-56 for 32x32 images: 16 to 64 channels, 0.86 M parameters."""
    return ResNet((9, 9, 9), 16, num_classes, small_images=True)
