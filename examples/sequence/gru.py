"""Predict a noisy wave with a GRU whose hidden state is handed from step to step.

    python examples/sequence/gru.py                        # one rank
    allgrad run -n 2 examples/sequence/gru.py              # two ranks of this host
    mpiexec -n 2 python examples/sequence/gru.py           # the same under any MPI launcher

The data is made up: sine waves of random phase and frequency with noise. The network sees one
number per step and predicts the next one. At the end it goes on alone: it is fed its own
predictions, and what it draws is compared with the wave itself.
"""

from __future__ import annotations

import argparse

import numpy as np

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import Tensor, ddp, nn, optim


class RNN(nn.Module):
    """A GRU that is called once per step: (input (N, 1), hidden) -> (prediction, hidden)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.rnn = nn.GRU(input_dim, hidden_dim)
        self.linear = nn.Linear(hidden_dim, output_dim)

    def init_hidden(self, batch_size: int) -> Tensor:
        """The state before the first step."""
        return ag.zeros((1, batch_size, self.hidden_dim))

    def forward(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step."""
        output, hidden = self.rnn(input.unsqueeze(0), hidden)
        return self.linear(output.squeeze(0)), hidden


class Predictor(nn.Module):
    """The network on whole waves: (steps, N, 1) -> the prediction after each step."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.network = RNN(1, hidden_dim, 1)

    def forward(self, waves: Tensor, alone: int = 0) -> Tensor:
        """Predict along the waves, then for `alone` more steps from the own predictions."""
        hidden = self.network.init_hidden(waves.shape[1])
        predictions = []
        for value in waves:
            prediction, hidden = self.network(value, hidden)
            predictions.append(prediction)
        for _ in range(alone):
            prediction, hidden = self.network(predictions[-1], hidden)
            predictions.append(prediction)
        return ag.stack(predictions)


def waves(rng: np.random.Generator, count: int, steps: int, noise: float) -> np.ndarray:
    """Sine waves (steps, count, 1) of 15 to 25 steps a period."""
    phase, period = rng.uniform(0, 2 * np.pi, count), rng.uniform(15, 25, count)
    clean = np.sin(2 * np.pi * np.arange(steps)[:, None] / period + phase)
    return (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)[:, :, None]


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10, help="of 20 batches each (10)")
    parser.add_argument("--batch-size", type=int, default=32, help="waves per rank and step (32)")
    parser.add_argument("--length", type=int, default=40, help="steps of a wave (40)")
    parser.add_argument("--hidden", type=int, default=32, help="size of the hidden state (32)")
    parser.add_argument("--lr", type=float, default=1e-2, help="learning rate (0.01)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and waves (0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()
    ag.manual_seed(options.seed)  # the same start on every rank
    rng = np.random.default_rng((options.seed, rank))  # but waves of its own
    model = ddp.DistributedDataParallel(Predictor(options.hidden))
    optimizer = optim.Adam(model.parameters(), lr=options.lr)

    for epoch in range(1, options.epochs + 1):
        sums = {"loss": 0.0, "batches": 0}
        for _ in range(20):
            batch = ag.from_numpy(waves(rng, options.batch_size, options.length + 1, 0.05))
            optimizer.zero_grad()
            loss = F.mse_loss(model(batch[:-1]), batch[1:])
            loss.backward()
            optimizer.step()
            sums["loss"] += loss.item()
            sums["batches"] += 1
        total = ddp.reduce_sum(sums)
        mean_loss = total["loss"] / total["batches"]
        if rank == 0:
            print(f"epoch {epoch}: mean squared error {mean_loss:.4f}")

    error = alone(model.module, options.length, np.random.default_rng(options.seed + 1))
    if rank == 0:
        print(f"20 steps on its own predictions: mean squared error {error:.4f}")
    return {"loss": mean_loss, "alone": error}


def alone(model: nn.Module, length: int, rng: np.random.Generator) -> float:
    """The error of 20 steps that the network goes on alone, on 64 waves without noise."""
    truth = waves(rng, 64, length + 21, 0.0)
    with ag.no_grad():
        guesses = model(ag.from_numpy(truth[:length]), alone=20)
    return float(np.mean((guesses.numpy()[-20:] - truth[length + 1 :]) ** 2))


if __name__ == "__main__":
    main()
