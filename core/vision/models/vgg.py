"""VGG networks, with torchvision's parameter names.

Source: Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image
recognition", table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import nn
from ...tensors import Tensor
from .registry import refuse_weights

# Channels of the 3x3 convolutions; 0 is a 2x2 max pooling.
_LAYERS: dict[int, tuple[int, ...]] = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    13: (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, *(256,) * 3, 0, *(512,) * 3, 0, *(512,) * 3, 0),
    19: (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0),
}


class VGG(nn.Module):
    """Convolutions, pooling to 7x7, and three linear layers.

    Shape: (N, 3, H, W) -> (N, num_classes); H and W at least 32.

    Args:
        features: the convolutional part; gives 512 channels.
        num_classes: outputs.
        init_weights: initialise as torchvision does.
        dropout: between the linear layers.
    """

    def __init__(
        self,
        features: nn.Module,
        num_classes: int = 1000,
        init_weights: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(p=dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(p=dropout),
            nn.Linear(4096, num_classes),
        )
        if init_weights:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, 0, 0.01)
                if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _features(channels: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for now in channels:
        if not now:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(before, now, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(now))
        layers.append(nn.ReLU())
        before = now
    return nn.Sequential(*layers)


def _vgg(depth: int, batch_norm: bool, weights: Any, options: Any) -> VGG:
    refuse_weights(f"vgg{depth}", weights)
    return VGG(_features(_LAYERS[depth], batch_norm), **options)


def vgg11(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11: 132.9 M parameters. Further arguments go to `VGG`; so for its siblings."""
    return _vgg(11, False, weights, kwargs)


def vgg11_bn(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11 with batch norm: 132.9 M parameters."""
    return _vgg(11, True, weights, kwargs)


def vgg13(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13: 133.0 M parameters."""
    return _vgg(13, False, weights, kwargs)


def vgg13_bn(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13 with batch norm: 133.1 M parameters."""
    return _vgg(13, True, weights, kwargs)


def vgg16(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16: 138.4 M parameters."""
    return _vgg(16, False, weights, kwargs)


def vgg16_bn(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16 with batch norm: 138.4 M parameters."""
    return _vgg(16, True, weights, kwargs)


def vgg19(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19: 143.7 M parameters."""
    return _vgg(19, False, weights, kwargs)


def vgg19_bn(*, weights: None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19 with batch norm: 143.7 M parameters."""
    return _vgg(19, True, weights, kwargs)
