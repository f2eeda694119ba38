"""A GRU that is fed one value at a time (document 3, section 3, example 2).

    python examples/seeds/document3_rnn.py

It learns to predict the next value of sine waves of random phase. Repaired: the document has the
network only, so data and training loop are ours; the model goes to the GPU only where there is one.
"""

from __future__ import annotations

import argparse
import math

import allgrad as torch
from allgrad import nn, optim


class RNN(nn.Module):
    """One GRU layer and a dense layer; the caller carries the hidden state."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.rnn = nn.GRU(input_dim, hidden_dim)
        self.linear = nn.Linear(hidden_dim, output_dim)

    def init_hidden(self, batch_size: int) -> torch.Tensor:
        """The hidden state before the first value."""
        return torch.zeros((1, batch_size, self.hidden_dim))

    def forward(
        self, input: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, hidden = self.rnn(input.unsqueeze(0), hidden)
        prediction = self.linear(output.squeeze(0))
        return prediction, hidden


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150, help="batches of waves (150)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RNN(input_dim=1, hidden_dim=100, output_dim=1).to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.005)
    criterion = nn.MSELoss()
    losses = []
    for step in range(options.steps):
        phase = 2 * math.pi * torch.rand(1, 16)
        waves = torch.sin(0.4 * torch.arange(25).unsqueeze(1) + phase).unsqueeze(2).to(device)
        hidden = model.init_hidden(16).to(device)
        optimizer.zero_grad()
        loss = torch.zeros((), device=device)
        for t in range(24):
            prediction, hidden = model(waves[t], hidden)
            loss = loss + criterion(prediction, waves[t + 1]) / 24
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            print(f"step {step + 1:4d}  mean square error {losses[-1]:.5f}")
    return {"first": losses[0], "loss": sum(losses[-10:]) / len(losses[-10:])}


if __name__ == "__main__":
    main()
