"""Small networks for small images."""

from __future__ import annotations

from typing import Any

from ... import nn
from ...errors import OptionError
from ...nn import functional as F  # noqa: N812 - PyTorch's spelling
from ...tensors import Tensor
from .registry import refuse_weights


class ConvNet(nn.Module):
    """Two 5x5 convolutions and two linear layers, for MNIST; 21,840 parameters.

    Shape: (N, 1, 28, 28) -> (N, 10) log-probabilities.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.view(-1, 320)))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class DigitsNet(nn.Module):
    """Two 3x3 convolutions and a linear layer, for the 8x8 digits; 19,466 parameters.

    Shape: (N, 1, 8, 8) -> (N, 10) logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LeNet(nn.Module):
    """LeNet-5 as it is written today: two 5x5 convolutions with max pooling, three linear layers.

    Shape: (N, channels, S, S) -> (N, num_classes) logits.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition".

    Args:
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.
        image_size: S; 28 for MNIST (padded to 32 as in the paper), 32 for CIFAR.

    Raises:
        OptionError: another image size.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise OptionError.unknown("image_size of LeNet", image_size, (28, 32))
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=(32 - image_size) // 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        return self.fc3(x)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them: ``mlp(784, 512, 512, 10)``.

    Shape: (N, ...) with sizes[0] elements a sample -> (N, sizes[-1]).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(len(sizes) - 1):
        if i:
            layers.append(nn.ReLU())
        layers.append(nn.Linear(sizes[i], sizes[i + 1]))
    return nn.Sequential(*layers)


def lenet(num_classes: int = 10, *, weights: None = None, **kwargs: Any) -> LeNet:
    """LeNet-5: 61,706 parameters. Further arguments go to `LeNet`."""
    refuse_weights("lenet", weights)
    return LeNet(num_classes, **kwargs)
