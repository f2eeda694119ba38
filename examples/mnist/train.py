"""The MNIST network of the PyTorch tutorials, on any number of ranks.

    python examples/mnist/train.py --synthetic --epochs 2              # without the data
    python examples/mnist/train.py --data data --download              # one rank, the real images
    allgrad run -n 2 examples/mnist/train.py --data data               # two ranks of this host
    mpiexec -n 2 python examples/mnist/train.py --data data            # under any MPI launcher
    allgrad run -n 2 examples/mnist/train.py --data data --resume      # go on, even in mid-epoch
    python examples/mnist/train.py --data data --amp bf16              # products in bfloat16

Without --download the files are expected in <data>/MNIST/raw, as torchvision lays them out.
--synthetic makes up images of the same shape: its figures say nothing about handwriting.

Saves every --save-every steps and after each epoch into --checkpoint-dir and keeps the last two.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, nn, optim
from allgrad.utils.data import DataLoader
from allgrad.vision import datasets, transforms
from allgrad.vision.models import ConvNet


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=10, help="passes over the training images (10)")
    add("--batch-size", type=int, default=64, help="images per rank and step (64)")
    add("--lr", type=float, default=0.01, help="learning rate (0.01)")
    add("--momentum", type=float, default=0.5, help="momentum (0.5)")
    add("--seed", type=int, default=0, help="of weights, order and dropout (0)")
    add("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    add("--download", action="store_true", help="fetch what is missing there")
    add("--synthetic", action="store_true", help="made-up images instead of MNIST")
    add("--synthetic-size", type=int, default=60_000, help="how many of them (60000)")
    add("--amp", choices=["bf16"], help="forward pass in bfloat16 where that is safe")
    add("--checkpoint-dir", type=Path, default=Path("runs/mnist"), help="(runs/mnist)")
    add("--resume", action="store_true", help="continue from the newest checkpoint there")
    add("--save-every", type=int, default=200, help="steps between two checkpoints (200)")
    add("--max-steps", type=int, default=None, help="end after so many steps, for a quick try")
    add("--log-every", type=int, default=100, help="steps between two lines (100)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()

    ag.manual_seed(options.seed)
    train_set, test_set = load_images(options)
    train_loader = DataLoader(
        train_set,
        options.batch_size,
        sampler=ddp.DistributedSampler(train_set, seed=options.seed),
        prefetch_factor=2,  # a background thread makes the next batches
    )
    test_order = ddp.DistributedSampler(test_set, shuffle=False, pad=False)
    test_loader = DataLoader(test_set, 1000, sampler=test_order)

    model = ddp.DistributedDataParallel(ConvNet())
    optimizer = optim.SGD(model.parameters(), lr=options.lr, momentum=options.momentum)
    ag.manual_seed(options.seed + 1 + rank)  # dropout differs between ranks

    manager = ddp.CheckpointManager(options.checkpoint_dir, keep=2)
    parts = {
        "model": model,
        "optimizer": optimizer,
        "loader": train_loader,
    }
    first_epoch, step = 1, 0
    if options.resume or ddp.restart_count() > 0:  # `allgrad run --max-restarts` counts
        saved = manager.load_latest(**parts)
        if saved is not None:
            first_epoch, step = saved.epoch, saved.step
            say(rank, f"resumed at step {step}, epoch {first_epoch}, from {saved.path}")

    kind = "synthetic images" if options.synthetic else "test images"
    accuracy = loss_on_test = 0.0
    with manager, ddp.graceful_exit() as stop:
        for epoch in range(first_epoch, options.epochs + 1):
            model.train()
            begin, images_seen = time.perf_counter(), 0
            for images, labels in train_loader:
                optimizer.zero_grad()
                with ag.autocast("cpu", enabled=options.amp is not None):
                    loss = F.nll_loss(model(images), labels)
                loss.backward()
                optimizer.step()
                step += 1
                images_seen += len(images)
                if step % options.log_every == 0:
                    say(rank, f"epoch {epoch:2d}  step {step:5d}  loss {loss.item():.4f}")
                if step % options.save_every == 0 or stop.requested():
                    manager.save(step=step, epoch=epoch, async_save=True, **parts)
                if stop.requested():  # by SIGTERM or SIGUSR1, and --resume goes on from here
                    manager.wait()
                    stop.leave()
                if step == options.max_steps:
                    break
            total = ddp.reduce_sum({"images": images_seen})
            images_per_s = total["images"] / (time.perf_counter() - begin)

            loss_on_test, accuracy = evaluate(model, test_loader)
            say(
                rank,
                f"epoch {epoch:2d}/{options.epochs}  test loss {loss_on_test:.4f}  accuracy "
                f"{100 * accuracy:.2f} % of {len(test_set)} {kind}  {images_per_s:.0f} images/s",
            )
            cut_off = step == options.max_steps
            manager.save(step=step, epoch=epoch if cut_off else epoch + 1, async_save=True, **parts)
            if cut_off:
                break
    ddp.destroy_process_group()
    return {"accuracy": accuracy, "loss": loss_on_test, "steps": step}


def load_images(options: argparse.Namespace) -> tuple[Any, Any]:
    """Training and test images, float32 (1, 28, 28) of mean 0 and variance 1, and their labels."""
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    if options.synthetic:
        size = options.synthetic_size
        return (
            datasets.SyntheticImages((1, 28, 28), size=size, transform=transform),
            datasets.SyntheticImages(
                (1, 28, 28), size=max(size // 6, 1), train=False, transform=transform
            ),
        )
    return (
        datasets.MNIST(options.data, True, transform, download=options.download),
        datasets.MNIST(options.data, False, transform, download=options.download),
    )


def evaluate(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Mean loss and share of the images recognised; each counted once over all ranks."""
    model.eval()
    sums = {"loss": 0.0, "correct": 0, "images": 0}
    with ag.no_grad():
        for images, labels in loader:
            y = model(images)
            sums["loss"] += F.nll_loss(y, labels, reduction="sum").item()
            sums["correct"] += (y.argmax(1) == labels).sum().item()
            sums["images"] += len(labels)
    total = ddp.reduce_sum(sums)
    return total["loss"] / total["images"], total["correct"] / total["images"]


def say(rank: int, text: str) -> None:
    """Print on rank 0."""
    if rank == 0:
        print(text, flush=True)


if __name__ == "__main__":
    main()
