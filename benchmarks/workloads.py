"""The four training workloads, written once for both frameworks.

`build` takes the namespaces `nn` and `F` of allgrad or of torch: the source of the networks is
the same to the letter, which is what makes the comparison a fair one.
"""

from __future__ import annotations

from typing import Any

# name: (shape of one batch, batch size)
BATCHES = {
    "mlp": (128, 784),
    "convnet": (64, 1, 28, 28),
    "resnet20": (128, 3, 32, 32),
    "resnet18": (32, 3, 32, 32),
}

TITLES = {
    "mlp": "MLP 784-512-512-10, batch 128",
    "convnet": "ConvNet (MNIST), batch 64",
    "resnet20": "ResNet-20 (CIFAR), batch 128",
    "resnet18": "ResNet-18 (CIFAR), batch 32",
}


def build(workload: str, nn: Any, F: Any) -> Any:  # noqa: N803 - the usual name
    """The network of `workload`, made of the modules in `nn`."""
    if workload == "mlp":
        return _mlp(nn)
    if workload == "convnet":
        return _convnet(nn, F)
    if workload == "resnet20":
        return _resnet(nn, F, (3, 3, 3), 16)
    if workload == "resnet18":
        return _resnet(nn, F, (2, 2, 2, 2), 64)
    raise ValueError(f"unknown workload {workload!r}; known: {', '.join(BATCHES)}")


def _mlp(nn: Any) -> Any:
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def _convnet(nn: Any, F: Any) -> Any:  # noqa: N803
    class ConvNet(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
            self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
            self.conv2_drop = nn.Dropout2d()
            self.fc1 = nn.Linear(320, 50)
            self.fc2 = nn.Linear(50, 10)

        def forward(self, x: Any) -> Any:
            x = F.relu(F.max_pool2d(self.conv1(x), 2))
            x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
            x = F.relu(self.fc1(x.flatten(1)))
            x = F.dropout(x, training=self.training)
            return F.log_softmax(self.fc2(x), dim=1)

    return ConvNet()


def _resnet(nn: Any, F: Any, blocks: tuple[int, ...], width: int) -> Any:  # noqa: N803
    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            y = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class ResNet(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            stages, inputs = [], width
            for stage, count in enumerate(blocks):
                for i in range(count):
                    outputs = width * 2**stage
                    stages.append(Block(inputs, outputs, 2 if stage and not i else 1))
                    inputs = outputs
            self.blocks = nn.Sequential(*stages)
            self.fc = nn.Linear(inputs, 10)

        def forward(self, x: Any) -> Any:
            x = self.blocks(F.relu(self.bn1(self.conv1(x))))
            return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return ResNet()
