"""Residual networks on CIFAR-10, on any number of ranks.

    python examples/cifar10/train.py --synthetic --synthetic-size 2560 --epochs 1   # without data
    python examples/cifar10/train.py --data data --download               # ResNet-20, one rank
    allgrad run -n 4 examples/cifar10/train.py --data data                # four ranks of this host
    mpiexec -n 4 python examples/cifar10/train.py --data data             # under any MPI launcher
    allgrad run -n 4 examples/cifar10/train.py --data data --model resnet18 --batch-size 32
    allgrad run -n 4 examples/cifar10/train.py --data data --resume       # go on, in mid-epoch too
    python examples/cifar10/train.py --data data --device cuda --amp bf16 --graph    # on a GPU

With --logical-shards N the training does not depend on the number of ranks, see
docs/reproducibility.md; --batch-size is then that of a shard, and the learning rate grows with N.

Without --download the files are expected in <data>, in the binary or the python format. The
learning rate grows with the number of images per step of all ranks (Goyal et al. 2017) and
follows half a cosine after a linear warm-up. --synthetic makes up images of the same shape: its
figures say nothing about photographs.

--device cuda takes the GPU of this rank, which makes the batches, too; --amp computes products in a
half type there (or on the CPU); --graph records the whole step as one CUDA graph, with the same
bits as without.

Saves every --save-every steps and after each epoch into --checkpoint-dir and keeps the last two.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import ddp, optim
from allgrad.vision import DeviceLoader, datasets, models, transforms

sys.path.append(str(Path(__file__).resolve().parents[1]))
from example_parts import add_run_options, evaluate, make_loader, parts_of, say, test_loader

MODELS = {
    "resnet20": models.resnet20,
    "resnet18": lambda: models.resnet18(num_classes=10, small_images=True),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=sorted(MODELS), default="resnet20", help="(resnet20)")
    add("--epochs", type=int, default=60, help="passes over the training images (60)")
    add("--batch-size", type=int, default=128, help="images per rank (or shard) and step (128)")
    add("--lr", type=float, default=0.1, help="highest learning rate for 128 images a step (0.1)")
    add("--weight-decay", type=float, default=5e-4, help="(5e-4)")
    add("--warmup-epochs", type=float, default=1.0, help="epochs of rising learning rate (1)")
    add("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    add("--download", action="store_true", help="fetch what is missing there")
    add("--synthetic", action="store_true", help="made-up images instead of CIFAR-10")
    add("--synthetic-size", type=int, default=50_000, help="how many of them (50000)")
    add("--save-every", type=int, default=200, help="steps between two checkpoints (200)")
    add("--log-every", type=int, default=50, help="steps between two lines (50)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--amp", choices=("bf16", "fp16"), help="products in this type")
    add("--graph", action="store_true", help="record the step as one CUDA graph")
    add_run_options(parser, "runs/cifar10")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank, world_size = ddp.get_rank(), ddp.get_world_size()

    ag.manual_seed(options.seed)
    train_set, test_set = load_images(options)
    train_loader, held_out = make_loaders(train_set, test_set, options)

    model = ddp.DistributedDataParallel(
        MODELS[options.model]().to(options.device),
        logical_shards=options.logical_shards,
        static_graph=options.graph,
    )
    lr = options.lr * options.batch_size * (options.logical_shards or world_size) / 128
    optimizer = optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=options.weight_decay
    )
    schedule = warm_up_then_cosine(
        steps=options.epochs * len(train_loader),
        warmup=round(options.warmup_epochs * len(train_loader)),
    )
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, schedule)

    scaler = ag.amp.GradScaler(options.device, enabled=options.amp == "fp16")
    train_step = make_step(model, optimizer, scaler, options)

    manager = ddp.CheckpointManager(options.checkpoint_dir, keep=2)
    parts = parts_of(model, optimizer=optimizer, scheduler=scheduler, loader=train_loader)
    if options.amp == "fp16":
        parts["scaler"] = scaler
    first_epoch, step = 1, 0
    if options.resume or ddp.restart_count() > 0:  # `allgrad run --max-restarts` counts
        saved = manager.load_latest(**parts)
        if saved is not None:
            first_epoch, step = saved.epoch, saved.step
            say(rank, f"resumed at step {step}, epoch {first_epoch}, from {saved.path}")

    kind = "synthetic images" if options.synthetic else "test images"
    accuracy = 0.0
    with manager, ddp.graceful_exit() as stop:
        for epoch in range(first_epoch, options.epochs + 1):
            model.train()
            begin, images_seen = time.perf_counter(), 0
            for images, labels in train_loader:
                loss = train_step(images, labels)
                scheduler.step()
                step += 1
                images_seen += len(images)
                if step % options.log_every == 0:
                    speed = images_seen * world_size / (time.perf_counter() - begin)
                    say(
                        rank,
                        f"epoch {epoch:2d}  step {step:5d}  loss {loss.item():.4f}  "
                        f"lr {scheduler.get_last_lr()[0]:.4f}  {speed:.0f} images/s",
                    )
                if step % options.save_every == 0 or stop.requested():
                    manager.save(step=step, epoch=epoch, async_save=True, **parts)
                if stop.requested():  # by SIGTERM or SIGUSR1, and --resume goes on from here
                    manager.wait()
                    stop.leave()
            total = ddp.reduce_sum({"images": images_seen})
            images_per_s = total["images"] / (time.perf_counter() - begin)

            accuracy = evaluate(model, held_out, options.device)
            say(
                rank,
                f"epoch {epoch:2d}/{options.epochs}  accuracy {100 * accuracy:.2f} % of "
                f"{len(test_set)} {kind}  {images_per_s:.0f} images/s",
            )
            if options.fingerprint:  # all ranks must agree on it
                say(rank, f"  SHA-256 {ddp.fingerprint(model, optimizer, check=True)}")
            manager.save(step=step, epoch=epoch + 1, async_save=True, **parts)
    ddp.destroy_process_group()
    return {"accuracy": accuracy, "steps": step}


def make_step(model: Any, optimizer: Any, scaler: Any, options: argparse.Namespace) -> Any:
    """One training step of (images, labels) -> loss."""
    half = {"bf16": ag.bfloat16, "fp16": ag.float16}.get(options.amp)
    cast = ag.autocast(ag.device(options.device).type, dtype=half, enabled=half is not None)

    def step(images: ag.Tensor, labels: ag.Tensor) -> ag.Tensor:
        images = images.to(options.device, non_blocking=True)
        labels = labels.to(options.device, non_blocking=True)
        optimizer.zero_grad()
        for x, y in model.shards(images, labels):  # all without --logical-shards
            with cast:
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return ag.cuda.capture(step) if options.graph else step


def load_images(options: argparse.Namespace) -> tuple[Any, Any]:
    """Training images (cropped and flipped at random), test images, float32 (3, 32, 32)."""
    plain = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    random = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train, test = transforms.Compose([*random, *plain]), transforms.Compose(plain)
    if options.synthetic:
        size = options.synthetic_size
        return (
            datasets.SyntheticImages((3, 32, 32), size=size, transform=train),
            datasets.SyntheticImages(
                (3, 32, 32), size=max(size // 5, 1), train=False, transform=test
            ),
        )
    return (
        datasets.CIFAR10(options.data, True, train, download=options.download),
        datasets.CIFAR10(options.data, False, test, download=options.download),
    )


def make_loaders(train_set: Any, test_set: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """This rank's batches to train on and to test on.

    On a GPU all images lie there as bytes, and it makes the batches: it would wait for a CPU that
    does. The same crops and flips are drawn in another way, so results differ by chance.
    """
    if ag.device(options.device).type != "cuda":
        # a background thread makes the next batches
        return make_loader(train_set, options, prefetch_factor=2), test_loader(test_set, 250)
    look = {"kind": DeviceLoader, "device": options.device, "mean": MEAN, "std": STD}
    random = {"crop_padding": 4, "flip": "random", "seed": options.seed}
    return (
        make_loader(train_set, options, **look, **random),
        test_loader(test_set, 250, **look),
    )


def warm_up_then_cosine(steps: int, warmup: int) -> Any:
    """Factor of the learning rate by step: from 0 to 1 on a line, then to 0 on half a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))

    return factor


if __name__ == "__main__":
    main()
