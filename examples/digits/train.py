"""Recognise handwritten digits: a small network, real scans, any number of ranks, no download.

    python examples/digits/train.py                            # one rank
    allgrad run -n 2 examples/digits/train.py                  # two ranks of this host
    mpiexec -n 2 python examples/digits/train.py               # the same under any MPI launcher
    allgrad run -n 2 examples/digits/train.py --resume         # go on after an interruption
    python examples/digits/train.py --synthetic --epochs 2     # made-up images of the same shape
    python examples/digits/train.py --amp bf16                 # products in bfloat16
    allgrad run -n 3 examples/digits/train.py --logical-shards 8 --fingerprint   # see below

The data are the 1,797 scans (8 x 8 grey values) of the UCI set "Optical Recognition of Handwritten
Digits". A fifth is held out and never trained on; the accuracy is measured on it, every image
counted once over all ranks. Every rank works on its share of each epoch; the gradients are
averaged while backward runs.

With --logical-shards N the training does not depend on the number of ranks: 1 to N of them give the
same bits, dropout included, which --fingerprint shows. A step then has N times --batch-size images.

Writes into --checkpoint-dir: the last two checkpoints, and curves.png with loss and accuracy.
Needs the extra "demo" for progress bar and picture: pip install 'allgrad[demo]'; --no-progress and
--no-plot do without.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, optim
from allgrad.utils.data import DataLoader
from allgrad.vision import datasets, transforms
from allgrad.vision.models import DigitsNet

sys.path.append(str(Path(__file__).resolve().parents[1]))
from example_parts import add_run_options, evaluate, make_loader, parts_of, say, test_loader


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=15, help="passes over the training images (15)")
    add("--batch-size", type=int, default=32, help="images per rank (or shard) and step (32)")
    add("--lr", type=float, default=0.05, help="highest learning rate of the cycle (0.05)")
    add("--synthetic", action="store_true", help="made-up images instead of the scans")
    add("--amp", choices=["bf16"], help="forward pass in bfloat16 where that is safe")
    add("--check-finite", action="store_true", help="stop at the first loss that is NaN or inf")
    add("--no-progress", action="store_true", help="no progress bar")
    add("--no-plot", action="store_true", help="no picture of the curves")
    add_run_options(parser, "runs/digits")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank, world_size = ddp.get_rank(), ddp.get_world_size()
    begin = time.perf_counter()

    ag.manual_seed(options.seed)
    train_set, test_set = load_images(options)
    train_loader, held_out = make_loader(train_set, options), test_loader(test_set, 256)

    # small buckets: a network this small would fit into one, with nothing left to hide it behind
    model = ddp.DistributedDataParallel(
        DigitsNet(), bucket_cap_mb=0.02, logical_shards=options.logical_shards
    )
    optimizer = optim.SGD(
        model.parameters(), lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = options.epochs * len(train_loader)
    scheduler = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.lr, total_steps=steps, cycle_momentum=False
    )
    ag.manual_seed(options.seed + 1 + rank)  # dropout differs between ranks

    manager = ddp.CheckpointManager(options.checkpoint_dir, keep=2)
    parts = parts_of(model, optimizer=optimizer, scheduler=scheduler, loader=train_loader)
    history: list[dict[str, float]] = []
    if options.resume or ddp.restart_count() > 0:  # `allgrad run --max-restarts` counts
        saved = manager.load_latest(**parts)
        if saved is not None:
            if saved.values["epochs"] != options.epochs:
                raise SystemExit(
                    f"{saved.path} is of a run with --epochs {saved.values['epochs']}; the "
                    "learning rates depend on it, so resume with the same number"
                )
            history = saved.values["history"]
            say(rank, f"resumed after epoch {saved.epoch} from {saved.path}")

    for epoch in range(len(history) + 1, options.epochs + 1):
        model.train()
        epoch_begin = time.perf_counter()
        sums = {"loss": 0.0, "images": 0}
        for images, labels in progress(train_loader, f"epoch {epoch:2d}", rank, options):
            optimizer.zero_grad()
            step_loss = 0.0
            for x, y in model.shards(images, labels):  # all at once without --logical-shards
                with ag.autocast("cpu", enabled=options.amp is not None):
                    loss = F.cross_entropy(model(x), y)
                loss.backward()
                step_loss += loss.item() * len(x)
            if options.check_finite:
                ddp.check_finite(step_loss / len(images), scheduler.last_epoch)
            optimizer.step()
            scheduler.step()
            sums["loss"] += step_loss
            sums["images"] += len(images)
        trained = ddp.reduce_sum(sums)
        seconds = time.perf_counter() - epoch_begin

        result = {
            "loss": trained["loss"] / trained["images"],
            "accuracy": evaluate(model, held_out),
            "images_per_s": trained["images"] / seconds,
        }
        history.append(result)
        say(
            rank,
            f"epoch {epoch:2d}/{options.epochs}  loss {result['loss']:.4f}  held-out accuracy "
            f"{100 * result['accuracy']:.2f} %  {result['images_per_s']:.0f} images/s",
        )
        if options.fingerprint:  # all ranks must agree on it
            say(rank, f"  SHA-256 {ddp.fingerprint(model, optimizer, check=True)}")
        manager.save(
            step=epoch * len(train_loader),
            epoch=epoch,
            values={"history": history, "epochs": options.epochs},
            async_save=True,  # a thread writes it while the next epoch goes on
            **parts,
        )
    manager.close()

    report = model.communication_report()
    summary = {
        "accuracy": history[-1]["accuracy"],
        "loss": history[-1]["loss"],
        "seconds": time.perf_counter() - begin,
        "images_per_s": sum(r["images_per_s"] for r in history) / len(history),
        "hidden_share": report["hidden_share"],
    }
    if rank == 0 and not options.no_plot:
        plot(history, options)
    kind = "synthetic images" if options.synthetic else "images"
    say(
        rank,
        f"{world_size} rank(s), {len(history)} epochs in {summary['seconds']:.1f} s: held-out "
        f"accuracy {100 * summary['accuracy']:.2f} % on {len(test_set)} {kind}, "
        f"{summary['images_per_s']:.0f} images/s, {communication(report, world_size)}; "
        f"checkpoint and curves in {options.checkpoint_dir}",
    )
    ddp.destroy_process_group()
    return summary


def load_images(options: argparse.Namespace) -> tuple[Any, Any]:
    """Training and held-out images, float32 (1, 8, 8), and their labels."""
    to_tensor = transforms.ToTensor()
    if options.synthetic:
        shape = (1, 8, 8)
        return (
            datasets.SyntheticImages(shape, size=1433, train=True, transform=to_tensor),
            datasets.SyntheticImages(shape, size=364, train=False, transform=to_tensor),
        )
    return (
        datasets.Digits(train=True, transform=to_tensor),
        datasets.Digits(train=False, transform=to_tensor),
    )


def progress(
    loader: DataLoader, title: str, rank: int, options: argparse.Namespace
) -> Iterable[Any]:
    """`loader` behind a progress bar, on rank 0."""
    if rank != 0 or options.no_progress:
        return loader
    try:
        from tqdm import tqdm  # noqa: PLC0415 - optional
    except ImportError:
        options.no_progress = True
        say(rank, "no progress bar: tqdm is missing; pip install 'allgrad[demo]'")
        return loader
    return tqdm(loader, title, leave=False, unit="step")


def plot(history: list[dict[str, float]], options: argparse.Namespace) -> None:
    """Write the curves of loss and accuracy to <checkpoint-dir>/curves.png."""
    try:
        import matplotlib  # noqa: PLC0415 - optional
    except ImportError:
        say(0, "no picture: matplotlib is missing; pip install 'allgrad[demo]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - optional, and after use()

    epochs = range(1, len(history) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(epochs, [r["loss"] for r in history], "o-", markersize=3)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    accuracy = [100 * r["accuracy"] for r in history]
    right.plot(epochs, accuracy, "o-", color="tab:green", markersize=3)
    right.set(xlabel="epoch", ylabel="held-out accuracy, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    kind = "synthetic images" if options.synthetic else "scanned digits"
    figure.suptitle(
        f"allgrad on {kind}, {ddp.get_world_size()} rank(s): {accuracy[-1]:.2f} % recognised"
    )
    figure.savefig(options.checkpoint_dir / "curves.png", dpi=120)
    plt.close(figure)


def communication(report: dict[str, Any], world_size: int) -> str:
    """How much of the communication took place while backward still ran."""
    if world_size == 1:
        return "no communication"
    return f"{100 * report['hidden_share']:.0f} % of the communication hidden behind backward"


if __name__ == "__main__":
    main()
