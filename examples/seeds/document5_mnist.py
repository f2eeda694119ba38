"""The MNIST project of document 5, section 4: load, define, train, evaluate.

    python examples/seeds/document5_mnist.py --synthetic --epochs 2     # without the data
    python examples/seeds/document5_mnist.py                            # fetches MNIST into data/

Repaired: the network already gives log-probabilities, so the loss is NLLLoss (CrossEntropyLoss
takes the logarithm of a softmax of them once more, which changes nothing but costs time).
`--model mlp` trains the dense network of section 3.1 in the same loop, on flattened images.
"""

from __future__ import annotations

import argparse

import image_data

import allgrad as torch
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim
from allgrad.utils.data import DataLoader
from allgrad.vision import transforms


class MyModel(nn.Module):
    """Section 3.1: 784-128-10."""

    def __init__(self) -> None:
        super(MyModel, self).__init__()  # noqa: UP008 - the document's spelling
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x.flatten(1))
        x = F.relu(x)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


class ConvNet(nn.Module):
    """Section 4.2: two convolutions, two dense layers."""

    def __init__(self) -> None:
        super(ConvNet, self).__init__()  # noqa: UP008 - the document's spelling
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = x.view(-1, 320)
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    image_data.add_options(parser, epochs=10)
    parser.add_argument("--model", choices=["convnet", "mlp"], default="convnet")
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    train_dataset = image_data.load("MNIST", True, transform, options)
    test_dataset = image_data.load("MNIST", False, transform, options)
    train_loader = DataLoader(train_dataset, batch_size=64, shuffle=True)
    test_loader = DataLoader(test_dataset, batch_size=64, shuffle=False)

    model = ConvNet() if options.model == "convnet" else MyModel()
    criterion = nn.NLLLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    for epoch in range(options.epochs):
        losses = []
        running_loss = 0.0
        for i, data in enumerate(train_loader, 0):
            inputs, labels = data
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            running_loss += loss.item()
            if i % 100 == 99:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 100:.3f}")
                running_loss = 0.0
    print("Finished Training")

    correct = 0
    total = 0
    with torch.no_grad():
        for data in test_loader:
            images, labels = data
            outputs = model(images)
            _, predicted = torch.max(outputs.data, 1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    kind = "synthetic" if options.synthetic else "test"
    print(f"Accuracy of the network on the {total} {kind} images: {100 * correct / total:.2f}%")
    return {"loss": sum(losses) / len(losses), "accuracy": correct / total}


if __name__ == "__main__":
    main()
