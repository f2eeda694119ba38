"""Residual networks for photographs and for 32x32 images.

Parameter names and constructors are torchvision's, so that its weights load key by key.

Source: He et al. 2015, "Deep residual learning for image recognition"; Zagoruyko & Komodakis 2016,
"Wide residual networks"; Xie et al. 2016, "Aggregated residual transformations".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ... import nn
from ...errors import ArgumentError
from ...tensors import Tensor
from .registry import refuse_weights

Norm = Callable[[int], nn.Module]


def _conv3x3(
    inputs: int, outputs: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Shape: (N, inplanes, H, W) -> (N, planes, H/stride, W/stride).

    Args:
        inplanes, planes: channels of input and output.
        stride: of the first convolution.
        downsample: what the shortcut does; by default nothing.
        groups, base_width, dilation: 1, 64 and 1; other blocks take others.
        norm_layer: makes a normalisation from its channels (BatchNorm2d).
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64 or dilation != 1:
            raise ArgumentError(
                "BasicBlock: expected groups=1, base_width=64 and dilation=1, came "
                f"groups={groups}, base_width={base_width}, dilation={dilation}; use Bottleneck"
            )
        norm = norm_layer or nn.BatchNorm2d
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen, and a shortcut.

    The stride is in the 3x3 convolution (torchvision's ResNet 1.5).
    Shape: (N, inplanes, H, W) -> (N, 4 planes, H/stride, W/stride).

    Args:
        inplanes: channels of the input.
        planes: channels of the output over 4.
        stride, groups, dilation: of the 3x3 convolution.
        downsample: what the shortcut does; by default nothing.
        base_width: channels in the middle per 64 planes and group.
        norm_layer: makes a normalisation from its channels (BatchNorm2d).
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = _conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet(nn.Module):
    """A stem, stages of blocks that halve the size and double the width, a classifier.

    Args:
        block: BasicBlock or Bottleneck.
        layers: number of blocks of each stage; torchvision's have four.
        num_classes: outputs.
        zero_init_residual: start each block as its shortcut (Goyal et al. 2017).
        groups, width_per_group: of the bottlenecks (ResNeXt, wide ResNets).
        replace_stride_with_dilation: per stage after the first, keep the size and dilate.
        norm_layer: makes a normalisation from its channels (BatchNorm2d).
        small_images: stem for 32x32 images (one 3x3 convolution) instead of the one for 224x224
            (7x7 convolution of stride 2 and max pooling). Not in torchvision.
        width: channels of the first stage. Not in torchvision.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Norm | None = None,
        *,
        small_images: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        dilate = replace_stride_with_dilation or [False] * (len(layers) - 1)
        if len(dilate) != len(layers) - 1:
            raise ArgumentError(
                f"ResNet: expected {len(layers) - 1} values of replace_stride_with_dilation, came "
                f"{replace_stride_with_dilation}"
            )
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.inplanes, self.dilation = width, 1
        self.groups, self.base_width = groups, width_per_group
        self.small_images, self.stages = small_images, len(layers)
        if small_images:
            self.conv1 = _conv3x3(3, width)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = self._norm_layer(width)
        self.relu = nn.ReLU()
        if not small_images:
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for stage, count in enumerate(layers):
            stride = 1 if stage == 0 else 2
            wide = stage > 0 and dilate[stage - 1]
            made = self._make_layer(block, width * 2**stage, count, stride, wide)
            setattr(self, f"layer{stage + 1}", made)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, num_classes)
        self._initialise(zero_init_residual)

    def _make_layer(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        planes: int,
        count: int,
        stride: int,
        dilate: bool,
    ) -> nn.Sequential:
        first_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        outputs = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != outputs:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, outputs, 1, stride, bias=False), self._norm_layer(outputs)
            )
        rest = (self.groups, self.base_width)
        norm = self._norm_layer
        blocks = [block(self.inplanes, planes, stride, downsample, *rest, first_dilation, norm)]
        self.inplanes = outputs
        blocks += [
            block(outputs, planes, 1, None, *rest, self.dilation, norm) for _ in range(1, count)
        ]
        return nn.Sequential(*blocks)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                last: Any = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                if getattr(last, "weight", None) is not None:
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if not self.small_images:
            x = self.maxpool(x)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def _resnet(
    block: type[BasicBlock] | type[Bottleneck], layers: tuple[int, ...], weights: Any, options: Any
) -> ResNet:
    refuse_weights("resnet", weights)
    return ResNet(block, layers, **options)


def resnet18(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-18: 11.7 M parameters with 1,000 classes. Further arguments go to `ResNet`."""
    return _resnet(BasicBlock, (2, 2, 2, 2), weights, kwargs)


def resnet34(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-34: 21.8 M parameters. Further arguments go to `ResNet`."""
    return _resnet(BasicBlock, (3, 4, 6, 3), weights, kwargs)


def resnet50(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-50: 25.6 M parameters. Further arguments go to `ResNet`."""
    return _resnet(Bottleneck, (3, 4, 6, 3), weights, kwargs)


def resnet101(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-101: 44.5 M parameters. Further arguments go to `ResNet`."""
    return _resnet(Bottleneck, (3, 4, 23, 3), weights, kwargs)


def resnet152(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-152: 60.2 M parameters. Further arguments go to `ResNet`."""
    return _resnet(Bottleneck, (3, 8, 36, 3), weights, kwargs)


def resnext50_32x4d(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNeXt-50 with 32 groups of width 4: 25.0 M parameters."""
    options = {"groups": 32, "width_per_group": 4, **kwargs}
    return _resnet(Bottleneck, (3, 4, 6, 3), weights, options)


def wide_resnet50_2(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """Wide ResNet-50-2: twice the channels inside of the bottlenecks, 68.9 M parameters."""
    return _resnet(Bottleneck, (3, 4, 6, 3), weights, {"width_per_group": 128, **kwargs})


def wide_resnet101_2(*, weights: None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """Wide ResNet-101-2: twice the channels inside of the bottlenecks, 126.9 M parameters."""
    return _resnet(Bottleneck, (3, 4, 23, 3), weights, {"width_per_group": 128, **kwargs})
