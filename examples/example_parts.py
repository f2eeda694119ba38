"""What the examples on images share: options of a run, this rank's batches, the test, and printing.

A script of your own needs none of this; each function is a few lines to copy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import allgrad as ag
from allgrad import ddp, nn
from allgrad.utils.data import DataLoader


def add_run_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Options of where a run is kept, and of its reproducibility; `folder` is the default place."""
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of weights, order and whatever else is random (0)")
    add("--checkpoint-dir", type=Path, default=Path(folder), help=f"({folder})")
    add("--resume", action="store_true", help="continue from the newest checkpoint there")
    add("--logical-shards", type=int, help="the same bits for every number of ranks up to this")
    add("--fingerprint", action="store_true", help="print a SHA-256 of the state per epoch")


def make_loader(train_set: Any, options: argparse.Namespace, **more: Any) -> DataLoader:
    """This rank's batches; `more` are options of the loader, and its class as `kind`."""
    kind = more.pop("kind", DataLoader)
    shards = options.logical_shards
    if shards is None:
        order = ddp.DistributedSampler(train_set, seed=options.seed)
        return kind(train_set, options.batch_size, sampler=order, **more)
    batches = ddp.ShardedBatchSampler(
        train_set, options.batch_size * shards, shards, seed=options.seed
    )
    return kind(train_set, batch_sampler=batches, **more)


def test_loader(test_set: Any, batch_size: int, **more: Any) -> DataLoader:
    """This rank's share of the test images, each of them on one rank only; `more` as above."""
    order = ddp.DistributedSampler(test_set, shuffle=False, pad=False)
    kind = more.pop("kind", DataLoader)
    return kind(test_set, batch_size, sampler=order, **more)


def parts_of(model: Any, **others: Any) -> dict[str, Any]:
    """What a checkpoint holds: the model, and the others under their names."""
    parts = {"model": model, **others}
    if model.logical is not None:
        parts["shards"] = model.logical
    return parts


def evaluate(model: nn.Module, loader: DataLoader, device: str = "cpu") -> float:
    """Share of the images recognised; each counted once over all ranks."""
    model.eval()
    sums = {"correct": 0, "images": 0}
    with ag.no_grad():
        for images, labels in loader:
            found = model(images.to(device)).argmax(1)
            sums["correct"] += (found == labels.to(device)).sum().item()
            sums["images"] += len(labels)
    total = ddp.reduce_sum(sums)
    return total["correct"] / total["images"]


def say(rank: int, text: str) -> None:
    """Print on rank 0."""
    if rank == 0:
        print(text, flush=True)
