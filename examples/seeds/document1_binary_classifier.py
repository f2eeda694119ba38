"""Two classes of points, a network of two layers (document 1, section 4.1).

    python examples/seeds/document1_binary_classifier.py

Repaired: the data, which the document does not give, is made up (the sign of a weighted sum of ten
features); the network exists before its optimizer; the loss takes the raw outputs it is given.
"""

from __future__ import annotations

import argparse

import allgrad as torch
from allgrad import nn, optim


class Net(nn.Module):
    """Ten features, five hidden units, one raw score."""

    def __init__(self) -> None:
        super(Net, self).__init__()  # noqa: UP008 - the document's spelling
        self.fc1 = nn.Linear(10, 5)
        self.fc2 = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.fc1(x))
        return self.fc2(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=400, help="steps on all points (400)")
    parser.add_argument("--lr", type=float, default=0.5, help="learning rate (0.5)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    inputs = torch.randn(500, 10)
    labels = (inputs @ torch.linspace(-1, 1, 10).unsqueeze(1) > 0).float()

    net = Net()
    criterion = nn.BCEWithLogitsLoss()
    optimizer = optim.SGD(net.parameters(), lr=options.lr)
    first = None
    for epoch in range(options.epochs):
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
        if (epoch + 1) % 100 == 0:
            print(f"epoch {epoch + 1:4d}  loss {loss.item():.4f}")

    with torch.no_grad():
        accuracy = ((net(inputs) > 0).float() == labels).float().mean().item()
    print(f"loss {first:.3f} -> {loss.item():.3f}, {100 * accuracy:.1f} % of the points right")
    return {"first": first, "loss": loss.item(), "accuracy": accuracy}


if __name__ == "__main__":
    main()
