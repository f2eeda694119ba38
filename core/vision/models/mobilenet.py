"""MobileNetV2, with torchvision's parameter names.

Source: Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ... import nn
from ...errors import ArgumentError
from ...tensors import Tensor
from .registry import refuse_weights

Norm = Callable[[int], nn.Module]
# Expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def _divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, at most 10 % below it."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def _conv_norm_relu(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, norm: Norm
) -> nn.Sequential:
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        norm(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Widen with 1x1, filter each channel with 3x3, narrow with 1x1; a shortcut if shapes allow.

    Args:
        inp, oup: channels of input and output.
        stride: 1 or 2.
        expand_ratio: how much wider the middle is.
        norm_layer: makes a normalisation from its channels (BatchNorm2d).
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        stride: int,
        expand_ratio: float,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ArgumentError(f"InvertedResidual: expected stride 1 or 2, came {stride}")
        norm = norm_layer or nn.BatchNorm2d
        hidden = round(inp * expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(_conv_norm_relu(inp, hidden, 1, 1, 1, norm))
        layers += [
            _conv_norm_relu(hidden, hidden, 3, stride, hidden, norm),
            nn.Conv2d(hidden, oup, 1, bias=False),
            norm(oup),
        ]
        self.conv = nn.Sequential(*layers)
        self.stride, self.out_channels = stride, oup
        self.use_res_connect = stride == 1 and inp == oup

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals and a linear classifier.

    Shape: (N, 3, H, W) -> (N, num_classes).

    Args:
        num_classes: outputs.
        width_mult: factor on the channels of all layers.
        inverted_residual_setting: per stage (expansion, channels, blocks, stride).
        round_nearest: channels are multiples of this.
        block: class of the blocks (InvertedResidual).
        norm_layer: makes a normalisation from its channels (BatchNorm2d).
        dropout: before the classifier.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Callable[..., nn.Module] | None = None,
        norm_layer: Norm | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        make, norm = block or InvertedResidual, norm_layer or nn.BatchNorm2d
        stages = _STAGES if inverted_residual_setting is None else inverted_residual_setting
        if not stages or any(len(stage) != 4 for stage in stages):
            raise ArgumentError(
                "MobileNetV2: expected inverted_residual_setting with 4 numbers a stage, came "
                f"{inverted_residual_setting}"
            )
        channels = _divisible(32 * width_mult, round_nearest)
        self.last_channel = _divisible(1280 * max(1.0, width_mult), round_nearest)
        features: list[nn.Module] = [_conv_norm_relu(3, channels, 3, 2, 1, norm)]
        for expansion, width, count, stride in stages:
            outputs = _divisible(width * width_mult, round_nearest)
            for i in range(count):
                step = stride if i == 0 else 1
                features.append(make(channels, outputs, step, expansion, norm_layer=norm))
                channels = outputs
        features.append(_conv_norm_relu(channels, self.last_channel, 1, 1, 1, norm))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout), nn.Linear(self.last_channel, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(pooled.flatten(1))


def mobilenet_v2(*, weights: None = None, progress: bool = True, **kwargs: Any) -> MobileNetV2:
    """MobileNetV2: 3.5 M parameters. Further arguments go to `MobileNetV2`."""
    refuse_weights("mobilenet_v2", weights)
    return MobileNetV2(**kwargs)
