"""The training that benchmarks/chaos.py disturbs: small, with everything that has a state.

allgrad run -n 2 --max-restarts 3 benchmarks/chaos_train.py --dir runs/chaos --steps 2000
"""

from __future__ import annotations

import argparse

import numpy as np

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, nn, optim
from allgrad.ddp import events
from allgrad.utils.data import DataLoader, TensorDataset


def main() -> None:
    """Train `--steps` steps; save every `--save-every`, every other time in the background."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--save-every", type=int, default=5)
    options = parser.parse_args()
    ddp.init_process_group()
    rng = np.random.default_rng(0)
    data = TensorDataset(
        ag.from_numpy(rng.standard_normal((1001, 16)).astype(np.float32)),
        ag.from_numpy(rng.integers(0, 5, 1001)),
    )
    loader = DataLoader(data, 8, sampler=ddp.DistributedSampler(data, seed=1))
    ag.manual_seed(1)
    network = nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5)
    )
    model = ddp.DistributedDataParallel(network)
    optimizer = optim.Adam(model.parameters(), lr=0.002)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    ag.manual_seed(2 + ddp.get_rank())
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    with ddp.CheckpointManager(options.dir) as manager:
        found = manager.load_latest(**parts)
        epoch, step = (found.epoch, found.step) if found else (0, 0)
        first = True
        while step < options.steps:
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                scheduler.step()
                step += 1
                if first and ddp.get_rank() == 0:
                    events.announce("training", step=step)
                first = False
                if step % options.save_every == 0 or step == options.steps:
                    background = step // options.save_every % 2 == 0
                    manager.save(step=step, epoch=epoch, async_save=background, **parts)
                if step == options.steps:
                    break
            else:
                epoch += 1
    ddp.destroy_process_group()


if __name__ == "__main__":
    main()
