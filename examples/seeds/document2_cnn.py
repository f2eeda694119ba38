"""A small CNN learns one random image by heart (document 2, section 4.2).

    python examples/seeds/document2_cnn.py

The target is a vector of ten class probabilities, which CrossEntropyLoss takes as such. Repaired:
`F` is imported, gradients are zeroed in every step, and the random target is turned into
probabilities (with the document's normal numbers, some negative, the loss has no lower bound).
"""

from __future__ import annotations

import argparse

import allgrad as torch
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim


class CNN(nn.Module):
    """Two convolutions with pooling, two dense layers; images of (3, 32, 32)."""

    def __init__(self) -> None:
        super(CNN, self).__init__()  # noqa: UP008 - the document's spelling
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 8 * 8, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = x.view(-1, 64 * 8 * 8)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=200, help="steps on the image (200)")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate (0.05)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    y = torch.softmax(torch.randn(1, 10), dim=1)

    model = CNN()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=options.lr)
    least = -(y * y.log()).sum().item()  # the entropy of the target: no loss is smaller
    for epoch in range(options.epochs):
        optimizer.zero_grad()
        y_pred = model(x)
        loss = criterion(y_pred, y)
        loss.backward()
        optimizer.step()
        if (epoch + 1) % 50 == 0:
            print(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}  (at least {least:.4f})")
    return {"loss": loss.item(), "least": least}


if __name__ == "__main__":
    main()
