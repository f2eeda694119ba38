"""Three dense layers on flattened images (document 4, section 4).

    python examples/seeds/document4_mlp.py --synthetic --epochs 2     # without the data
    python examples/seeds/document4_mlp.py                            # fetches MNIST into data/

Repaired: `F` is imported and `trainloader`, which the document leaves out, loads MNIST; the share
of test images recognised is printed.
"""

from __future__ import annotations

import argparse

import image_data

import allgrad as torch
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim
from allgrad.utils.data import DataLoader
from allgrad.vision import transforms


class Net(nn.Module):
    """784-128-64-10 with ReLU."""

    def __init__(self) -> None:
        super(Net, self).__init__()  # noqa: UP008 - the document's spelling
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    image_data.add_options(parser, epochs=10)
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    trainset = image_data.load("MNIST", True, transforms.ToTensor(), options)
    testset = image_data.load("MNIST", False, transforms.ToTensor(), options)
    trainloader = DataLoader(trainset, batch_size=64, shuffle=True)
    testloader = DataLoader(testset, batch_size=1000)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(options.epochs):
        running_loss = 0.0
        for _, data in enumerate(trainloader, 0):
            inputs, labels = data
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        print(f"Epoch {epoch + 1}, loss: {running_loss / len(trainloader)}")

    correct = 0
    with torch.no_grad():
        for images, labels in testloader:
            correct += (net(images).argmax(1) == labels).sum().item()
    kind = "synthetic" if options.synthetic else "test"
    print(f"{100 * correct / len(testset):.1f} % of {len(testset)} {kind} images right")
    return {"loss": running_loss / len(trainloader), "accuracy": correct / len(testset)}


if __name__ == "__main__":
    main()
