"""The seven training workloads, written once for both frameworks.

`build` takes the namespaces `nn` and `F` of allgrad or of torch: the source of the networks is
the same to the letter, which is what makes the comparison a fair one. The networks of sequences
are in `sequences.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sequences

BATCHES = {  # shape of one batch of the images; the sequences have theirs in `sequences.py`
    "mlp": (128, 784),
    "convnet": (64, 1, 28, 28),
    "resnet20": (128, 3, 32, 32),
    "resnet18": (32, 3, 32, 32),
    **{name: workload.shape for name, workload in sequences.WORKLOADS.items()},
}
IMAGES = ("convnet", "resnet20", "resnet18")  # PyTorch runs these in two memory layouts

TITLES = {
    "mlp": "MLP 784-512-512-10, batch 128",
    "convnet": "ConvNet (MNIST), batch 64",
    "resnet20": "ResNet-20 (CIFAR), batch 128",
    "resnet18": "ResNet-18 (CIFAR), batch 32",
    **{name: workload.title for name, workload in sequences.WORKLOADS.items()},
}


class Optimizer(NamedTuple):
    """A class of `optim` and its settings."""

    kind: str
    settings: dict[str, float]


def optimizer_of(workload: str) -> Optimizer:
    """What the workload is trained with."""
    if workload in sequences.WORKLOADS:
        return Optimizer(*sequences.WORKLOADS[workload].optimizer)
    return Optimizer("SGD", {"lr": 1e-3, "momentum": 0.9})


def batch(workload: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and targets."""
    if workload in sequences.WORKLOADS:
        return sequences.WORKLOADS[workload].batch(rng)
    shape = BATCHES[workload]
    return rng.standard_normal(shape, np.float32), rng.integers(0, 10, shape[0])


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
    if workload == "resnet50":
        return _resnet50(nn, F)
    if workload in sequences.WORKLOADS:
        return sequences.WORKLOADS[workload].build(nn)
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


def _resnet50(nn: Any, F: Any) -> Any:  # noqa: N803
    class Bottleneck(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * width)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != 4 * width:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
                )

        def forward(self, x: Any) -> Any:
            y = F.relu(self.bn1(self.conv1(x)))
            y = F.relu(self.bn2(self.conv2(y)))
            return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))

    class ResNet50(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            stages, inputs = [], 64
            for stage, count in enumerate((3, 4, 6, 3)):
                for i in range(count):
                    stride = 2 if stage and not i else 1
                    stages.append(Bottleneck(inputs, 64 * 2**stage, stride))
                    inputs = 256 * 2**stage
            self.blocks = nn.Sequential(*stages)
            self.fc = nn.Linear(inputs, 1000)

        def forward(self, x: Any) -> Any:
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.fc(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))

    return ResNet50()


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
