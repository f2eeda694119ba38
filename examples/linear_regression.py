"""Fit a line: the smallest training loop, on one rank or on many.

    python examples/linear_regression.py                       # one rank
    allgrad run -n 2 examples/linear_regression.py             # two ranks of this host
    mpiexec -n 2 python examples/linear_regression.py          # the same under any MPI launcher

The data is made up: y = 2 x - 1 and a little noise, 256 points shared by the ranks. Every rank
works on its share; the gradients are averaged, so all ranks hold the same model at every step.
"""

from __future__ import annotations

import argparse

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, nn, optim
from allgrad.utils.data import DataLoader, TensorDataset


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data (20)")
    parser.add_argument("--batch-size", type=int, default=16, help="points per rank and step (16)")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate (0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of data and order (0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()

    ag.manual_seed(options.seed)  # the same points and the same start on every rank
    x = ag.rand(256, 1) * 4 - 2
    points = TensorDataset(x, 2 * x - 1 + 0.1 * ag.randn(256, 1))
    sampler = ddp.DistributedSampler(points, seed=options.seed)
    loader = DataLoader(points, options.batch_size, sampler=sampler)

    line = nn.Linear(1, 1)
    model = ddp.DistributedDataParallel(line)
    optimizer = optim.SGD(model.parameters(), lr=options.lr)

    for epoch in range(1, options.epochs + 1):
        sums = {"loss": 0.0, "points": 0}
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            sums["loss"] += loss.item() * len(inputs)
            sums["points"] += len(inputs)
        total = ddp.reduce_sum(sums)
        mean_loss = total["loss"] / total["points"]
        if rank == 0 and (epoch % 5 == 0 or epoch == options.epochs):
            print(f"epoch {epoch:3d}  loss {mean_loss:.5f}", flush=True)

    slope, offset = line.weight.item(), line.bias.item()
    if rank == 0:
        print(f"y = {slope:.3f} x + {offset:.3f}   (made with y = 2 x - 1, noise 0.1)")
    ddp.destroy_process_group()
    return {"slope": slope, "offset": offset, "loss": mean_loss}


if __name__ == "__main__":
    main()
