"""A line through noisy points (document 2, section 4.1).

    python examples/seeds/document2_linear_regression.py

Repaired: the gradients are zeroed in every step; the document lets them add up.
"""

from __future__ import annotations

import argparse

import allgrad as torch
from allgrad import nn, optim


class LinearRegression(nn.Module):
    """y = weight x + bias."""

    def __init__(self) -> None:
        super(LinearRegression, self).__init__()  # noqa: UP008 - the document's spelling
        self.linear = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=1000, help="steps on all points (1000)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    x = torch.randn(100, 1)
    y = 3 * x + 1 + torch.randn(100, 1) * 0.1

    model = LinearRegression()
    criterion = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    for _ in range(options.epochs):
        optimizer.zero_grad()
        y_pred = model(x)
        loss = criterion(y_pred, y)
        loss.backward()
        optimizer.step()

    slope, offset = model.linear.weight.item(), model.linear.bias.item()
    print(f"y = {slope:.3f} x + {offset:.3f}  (made with 3 x + 1), loss {loss.item():.4f}")
    return {"slope": slope, "offset": offset, "loss": loss.item()}


if __name__ == "__main__":
    main()
