"""Small networks for 28x28 and 8x8 grey images."""

from __future__ import annotations

from ... import nn
from ...nn import functional as F  # noqa: N812 - PyTorch's spelling
from ...tensors import Tensor


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
