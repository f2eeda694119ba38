"""Transfer learning: what a network learned on the digits 0 to 4 helps it with 5 to 9.

    python examples/transfer_learning.py                       # one rank
    allgrad run -n 2 examples/transfer_learning.py             # two ranks of this host
    mpiexec -n 2 python examples/transfer_learning.py          # the same under any MPI launcher
    python examples/transfer_learning.py --per-class 5         # more samples of each new digit

1. A small ResNet learns the digits 0 to 4 and its weights are saved (safetensors).
2. A new model loads them, is frozen up to its last stage, and gets a new head for the digits 5 to
   9. Last stage and head are trained on one scan of each.
3. For comparison the same network learns the same scans from scratch. With more samples the
   difference vanishes: try --per-class 5.

Writes <out>/digits_0_to_4.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, nn, optim
from allgrad.utils.data import DataLoader, TensorDataset
from allgrad.vision import datasets
from allgrad.vision.models.resnet import BasicBlock, ResNet


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=6, help="passes over the digits 0 to 4 (6)")
    add("--few-epochs", type=int, default=30, help="passes over the few digits 5 to 9 (30)")
    add("--per-class", type=int, default=1, help="training scans of each new digit (1)")
    add("--batch-size", type=int, default=32, help="images per rank and step (32)")
    add("--seed", type=int, default=0, help="of weights and order (0)")
    add("--out", type=Path, default=Path("runs/transfer"), help="folder of the weights")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train three times, and return the accuracies; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()
    weights = options.out / "digits_0_to_4.safetensors"

    # 1. many scans of 0 to 4
    ag.manual_seed(options.seed)
    model = small_resnet()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    train(model, optimizer, scans(range(5), train=True), options.epochs, options)
    first = accuracy(model, scans(range(5), train=False))
    if rank == 0:
        ag.save(model.state_dict(), weights)
        print(f"digits 0 to 4, all scans:            {100 * first:5.1f} %   saved as {weights}")
    ddp.barrier()  # nobody reads before rank 0 has written

    # 2. few scans of 5 to 9: load, freeze, replace the head
    few = scans(range(5, 10), train=True, per_class=options.per_class)
    test = scans(range(5, 10), train=False)
    ag.manual_seed(options.seed + 1)
    model = small_resnet()
    model.load_state_dict(ag.load(weights))
    model.requires_grad_(False)
    model.layer3.requires_grad_(True)
    model.fc = nn.Linear(model.fc.in_features, 5)  # a new layer is trained
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.AdamW(trainable, lr=3e-3)
    train(model, optimizer, few, options.few_epochs, options)
    transferred = accuracy(model, test)

    # 3. the same scans from scratch
    ag.manual_seed(options.seed + 1)
    model = small_resnet()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    train(model, optimizer, few, options.few_epochs, options)
    from_scratch = accuracy(model, test)

    if rank == 0:
        print(f"digits 5 to 9, {len(few)} scans, transferred: {100 * transferred:5.1f} %")
        print(f"digits 5 to 9, {len(few)} scans, from scratch: {100 * from_scratch:5.1f} %")
    ddp.destroy_process_group()
    return {"first": first, "transferred": transferred, "from_scratch": from_scratch}


def small_resnet() -> ResNet:
    """Three stages of one block, 16 to 64 channels, for five classes."""
    return ResNet(BasicBlock, (1, 1, 1), num_classes=5, small_images=True, width=16)


def scans(digits: range, train: bool, per_class: int | None = None) -> TensorDataset:
    """Scans of `digits` as (N, 3, 8, 8) in [-1, 1], labelled from 0; the first of each class."""
    data = datasets.Digits(train=train)
    chosen = [np.flatnonzero(data.targets == digit)[:per_class] for digit in digits]
    rows = np.concatenate(chosen)
    images = data.data[rows, None].astype(np.float32).repeat(3, axis=1) / 127.5 - 1
    return TensorDataset(ag.tensor(images), ag.tensor(data.targets[rows] - digits[0]))


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    images: TensorDataset,
    epochs: int,
    options: argparse.Namespace,
) -> None:
    """Train on this rank's share of `images`."""
    sampler = ddp.DistributedSampler(images, seed=options.seed)
    loader = DataLoader(images, options.batch_size, sampler=sampler)
    parallel = ddp.DistributedDataParallel(model)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(parallel(inputs), labels)
            loss.backward()
            optimizer.step()
            schedule.step()


def accuracy(model: nn.Module, images: TensorDataset) -> float:
    """Share of the images recognised; each counted once over all ranks."""
    order = ddp.DistributedSampler(images, shuffle=False, pad=False)
    model.eval()
    sums = {"correct": 0, "images": 0}
    with ag.no_grad():
        for inputs, labels in DataLoader(images, 256, sampler=order):
            sums["correct"] += (model(inputs).argmax(1) == labels).sum().item()
            sums["images"] += len(labels)
    total = ddp.reduce_sum(sums)
    return total["correct"] / total["images"]


if __name__ == "__main__":
    main()
