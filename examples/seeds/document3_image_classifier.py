"""A deep image classifier in AlexNet's manner (document 3, section 3, example 1).

    python examples/seeds/document3_image_classifier.py --synthetic --epochs 2
    python examples/seeds/document3_image_classifier.py      # fetches CIFAR-10 into data/

Repaired: for images of (3, 32, 32) the convolutions leave 2 x 2 pixels, so the dense layer takes
256 * 2 * 2 features; the model goes to the GPU only where there is one; the document has no
training loop, so the usual one follows.
"""

from __future__ import annotations

import argparse

import image_data

import allgrad as torch
from allgrad import nn, optim
from allgrad.utils.data import DataLoader
from allgrad.vision import transforms


class CNN(nn.Module):
    """Five convolutions and one dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels=3, out_channels=64, kernel_size=7, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.fc = nn.Linear(256 * 2 * 2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x.view(-1, 256 * 2 * 2)
        return self.fc(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    image_data.add_options(parser, epochs=10)
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))]
    )
    trainset = image_data.load("CIFAR10", True, transform, options)
    testset = image_data.load("CIFAR10", False, transform, options)
    trainloader = DataLoader(trainset, batch_size=32, shuffle=True)
    testloader = DataLoader(testset, batch_size=100, shuffle=False)

    model = CNN().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.0005)
    for epoch in range(options.epochs):
        running_loss = 0.0
        for images, labels in trainloader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        print(f"epoch {epoch + 1:2d}  loss {running_loss / len(trainloader):.4f}")

    correct = 0
    with torch.no_grad():
        for images, labels in testloader:
            _, predicted = torch.max(model(images.to(device)).data, 1)
            correct += (predicted == labels.to(device)).sum().item()
    kind = "synthetic" if options.synthetic else "test"
    accuracy = correct / len(testset)
    print(f"{100 * accuracy:.1f} % of {len(testset)} {kind} images right")
    return {"loss": running_loss / len(trainloader), "accuracy": accuracy}


if __name__ == "__main__":
    main()
