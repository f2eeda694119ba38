"""Residual networks for 32x32 images: ResNet-20 to -110, and wide ones.

Source: He et al. 2015, section 4.2; Zagoruyko & Komodakis 2016, "Wide residual networks".
"""

from __future__ import annotations

from typing import Any

from ... import nn
from ...errors import OptionError
from ...nn import functional as F  # noqa: N812 - PyTorch's spelling
from ...tensors import Tensor
from .registry import refuse_weights
from .resnet import BasicBlock, ResNet


def _cifar(blocks: int, num_classes: int, weights: Any, options: Any) -> ResNet:
    refuse_weights("resnet", weights)
    layers = (blocks, blocks, blocks)
    return ResNet(BasicBlock, layers, num_classes, small_images=True, width=16, **options)


def resnet20(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-20 for 32x32 images: 16 to 64 channels, 0.27 M parameters.

    Shortcuts that change shape are 1x1 convolutions (option B of the paper). Further arguments go
    to `ResNet`; so for its deeper siblings.
    """
    return _cifar(3, num_classes, weights, kwargs)


def resnet32(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-32 for 32x32 images: 0.47 M parameters."""
    return _cifar(5, num_classes, weights, kwargs)


def resnet44(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-44 for 32x32 images: 0.66 M parameters."""
    return _cifar(7, num_classes, weights, kwargs)


def resnet56(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-56 for 32x32 images: 0.86 M parameters."""
    return _cifar(9, num_classes, weights, kwargs)


def resnet110(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-110 for 32x32 images: 1.7 M parameters."""
    return _cifar(18, num_classes, weights, kwargs)


class WideBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions, and a shortcut.

    Args:
        inplanes, planes: channels of input and output.
        stride: of the first convolution.
        drop_rate: dropout between the convolutions.
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inplanes)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.drop_rate = drop_rate
        self.shortcut: nn.Module | None = None
        if stride != 1 or inplanes != planes:
            self.shortcut = nn.Conv2d(inplanes, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = F.relu(self.bn2(self.conv1(y)))
        if self.drop_rate:
            y = F.dropout(y, self.drop_rate, self.training)
        return self.conv2(y) + shortcut


class WideResNet(nn.Module):
    """WRN-depth-widen for 32x32 images.

    Args:
        depth: number of convolutions along the way, 6 n + 4.
        widen_factor: channels are 16, 32 and 64 times this.
        num_classes: outputs.
        drop_rate: dropout inside of the blocks (0.3 in the paper, for CIFAR without augmentation).

    Raises:
        OptionError: a depth that is not 6 n + 4.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int = 10,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise OptionError(f"WideResNet: expected a depth of 6 n + 4, came {depth}")
        blocks = (depth - 4) // 6
        channels = 16
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for stage in range(3):
            planes = 16 * widen_factor * 2**stage
            layer = []
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                layer.append(WideBlock(channels, planes, stride, drop_rate))
                channels = planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.bn = nn.BatchNorm2d(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in range(3):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(self.avgpool(F.relu(self.bn(x))).flatten(1))


def wide_resnet28_10(
    num_classes: int = 10, *, weights: None = None, drop_rate: float = 0.0
) -> WideResNet:
    """WRN-28-10 for 32x32 images: 36.5 M parameters."""
    refuse_weights("wide_resnet28_10", weights)
    return WideResNet(28, 10, num_classes, drop_rate)


def wide_resnet16_4(
    num_classes: int = 10, *, weights: None = None, drop_rate: float = 0.0
) -> WideResNet:
    """WRN-16-4 for 32x32 images: 2.7 M parameters."""
    refuse_weights("wide_resnet16_4", weights)
    return WideResNet(16, 4, num_classes, drop_rate)
