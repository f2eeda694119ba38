"""How fast CIFAR-10 can be learnt to 94 %: a small network and the published tricks.

    python examples/cifar10/speedrun.py --data data --download --device cuda --amp bf16 --graph
    python examples/cifar10/speedrun.py --data data --epochs 3 --train-size 5000    # on a CPU
    python examples/cifar10/speedrun.py --synthetic --epochs 1 --train-size 512 --batch-size 64

Prints the time of every epoch and, at the end, the time to the last accuracy. As is the custom, the
clock runs while the network is trained and whitened, not while images are read from disk or
evaluated, nor in the warm-up: one throw-away training of a few steps before it, in which kernels
are compiled, algorithms chosen and CUDA graphs recorded. Both times are printed.

What it does, and where it comes from (Page 2018-2019, "How to train your ResNet"; Jordan 2024,
"94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498):

* the first layer whitens 2x2 patches: its weights come from the images and are not trained;
* convolutions start as identities (dirac) on their first channels;
* label smoothing 0.2, Nesterov momentum with one triangle of a learning rate, biases of batch norm
  with 64 times the rate, weight decay in proportion;
* images are flipped in every other epoch instead of at random, and shifted by up to 2 pixels;
* a running average of the weights (Lookahead) is mixed in every 5 steps;
* the test averages over mirrored and shifted images.

--optimizer muon trains the convolutions with Muon (Jordan 2024), everything else with SGD.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import allgrad as ag
import allgrad.nn.functional as F  # noqa: N812 - as everybody writes it
from allgrad import nn, optim
from allgrad.vision import DeviceLoader, datasets

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT = 2  # pixels
TYPES = {"bf16": ag.bfloat16, "fp16": ag.float16}


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda" if ag.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--amp", choices=("no", "bf16", "fp16"), default="no", help="type of products (no)")
    add("--graph", action="store_true", help="record the step as one CUDA graph")
    add("--optimizer", choices=("sgd", "muon"), default="sgd", help="(sgd)")
    add("--epochs", type=float, default=9.9, help="passes over the training images (9.9)")
    add("--batch-size", type=int, default=1024, help="(1024)")
    add("--lr", type=float, default=11.5, help="highest rate for 1024 decorrelated images (11.5)")
    add("--weight-decay", type=float, default=0.0153, help="for 1024 images (0.0153)")
    add("--momentum", type=float, default=0.85, help="(0.85)")
    add("--runs", type=int, default=1, help="trainings, each from another seed (1)")
    add("--seed", type=int, default=0, help="of the first run (0)")
    add("--data", type=Path, default=Path("data"), help="folder of the data sets (data)")
    add("--download", action="store_true", help="fetch what is missing there")
    add("--synthetic", action="store_true", help="made-up images instead of CIFAR-10")
    add("--train-size", type=int, default=50_000, help="images to train on (50000)")
    options = parser.parse_args(argv)
    if options.optimizer == "muon" and options.amp == "fp16":
        parser.error("--optimizer muon knows no loss scale: use --amp bf16 or none")
    return options


# -- images ----------------------------------------------------------------------------------------
class Images(NamedTuple):
    """All images of a set on the device: uint8 (N, 32, 32, 3), and their classes (N)."""

    pixels: ag.Tensor
    classes: ag.Tensor


def load_images(options: argparse.Namespace, train: bool) -> Images:
    """A set on the device."""
    size = options.train_size if train else max(options.train_size // 5, 1)
    if options.synthetic:
        found: Any = datasets.SyntheticImages((3, 32, 32), size=size, train=train)
    else:
        found = datasets.CIFAR10(options.data, train, download=options.download)
    data, labels = found.data[:size], np.asarray(found.targets[:size], np.int64)
    return Images(ag.tensor(data).to(options.device), ag.tensor(labels).to(options.device))


def make_batches(images: Images, options: argparse.Namespace, seed: int) -> DeviceLoader:
    """Batches for one run: shuffled, shifted at random, flipped in every other epoch.

    Every batch has the same shape, as a recorded step needs; images that are left over wait for
    another shuffle.
    """
    return DeviceLoader(
        images, options.batch_size, device=options.device, drop_last=True, seed=seed,
        crop_padding=SHIFT, padding_mode="reflect", flip="alternate", mean=MEAN, std=STD,
        dtype=TYPES.get(options.amp, ag.float32),
    )  # fmt: skip


def plain_batches(images: Images, batch_size: int, device: str) -> DeviceLoader:
    """The images as they are, in their order."""
    return DeviceLoader(tuple(images), batch_size, device=device, shuffle=False, mean=MEAN, std=STD)


# -- network ---------------------------------------------------------------------------------------
class Group(nn.Module):
    """Two convolutions with batch norm; the first is followed by a pool that halves the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = (nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4) for _ in "ab")
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight[: conv.weight.shape[1]].detach())
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H // 2, W // 2)."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """A whitening layer and three groups; 2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.groups = nn.Sequential(Group(24, 64), Group(64, 256), Group(256, 256))
        self.head = nn.Linear(256, 10, bias=False)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(N, 3, 32, 32) -> (N, 10)."""
        x = self.groups(F.gelu(self.whiten(x)))
        return self.head(F.max_pool2d(x, 3).flatten(1)) / 9

    def whiten_by(self, images: ag.Tensor, eps: float = 5e-4) -> None:
        """Let the first layer give decorrelated patches of variance 1, and their negatives."""
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
        covariance = (patches.T @ patches / len(patches)).cpu()
        values, vectors = ag.linalg.eigh(covariance)
        weight = (vectors / (values + eps).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
        with ag.no_grad():
            self.whiten.weight.copy_(ag.cat([weight, -weight]).float())
            self.whiten.bias.zero_()


# -- training --------------------------------------------------------------------------------------
def make_optimizers(net: SpeedNet, options: argparse.Namespace, steps: int) -> Any:
    """The optimizers and the schedules of their learning rates."""
    kilostep = 1024 * (1 + 1 / (1 - options.momentum))
    lr = options.lr / kilostep
    decay = options.weight_decay * options.batch_size / kilostep
    trained = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    norms = [p for n, p in trained if "norm" in n]
    filters = [p for n, p in trained if n.startswith("groups") and "norm" not in n]
    groups = [
        {"params": norms, "lr": 64 * lr, "weight_decay": decay / (64 * lr)},
        {"params": [net.head.weight], "lr": lr, "weight_decay": decay / lr},
        {"params": [net.whiten.bias], "lr": lr, "weight_decay": decay / lr},
    ]
    optimizers: list[Any] = []
    if options.optimizer == "sgd":
        groups.append({"params": filters, "lr": lr, "weight_decay": decay / lr})
    else:
        optimizers.append(FlatMuon(filters, lr=0.24, momentum=0.6))
    optimizers.append(optim.SGD(groups, lr=lr, momentum=options.momentum, nesterov=True))

    def triangle(step: int) -> float:
        """From 0.2 up to 1 at 23 % of the steps, then down to 0.07."""
        peak = max(int(0.23 * steps), 1)
        if step < peak:
            return 0.2 + 0.8 * step / peak
        return 1 + (0.07 - 1) * (step - peak) / max(steps - peak, 1)

    def at_first(step: int) -> float:
        """The same for three epochs, then 0: the whitening layer stays as it is."""
        return triangle(step) if step < 3 * steps / options.epochs else 0.0

    shapes = [[at_first if g["params"][0] is net.whiten.bias else triangle for g in o.param_groups]
              for o in optimizers]  # fmt: skip
    return optimizers, [
        optim.lr_scheduler.LambdaLR(o, shape) for o, shape in zip(optimizers, shapes, strict=True)
    ]


class FlatMuon(optim.Muon):
    """Muon on convolutions, each as a matrix with one row for each filter."""

    def __init__(self, filters: list[Any], **settings: Any) -> None:
        self.filters = filters
        matrices = [nn.Parameter(p.detach().reshape(len(p), -1)) for p in filters]
        super().__init__(matrices, weight_decay=0.0, **settings)
        self.matrices = matrices  # they share the filters' memory

    def step(self, closure: Any = None) -> Any:
        for matrix, p in zip(self.matrices, self.filters, strict=True):
            matrix.grad = p.grad.reshape(len(p), -1).detach()
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.filters:
            p.grad = None


class Lookahead:
    """A running average of the weights, mixed into them now and then (Zhang et al. 2019)."""

    def __init__(self, net: nn.Module) -> None:
        self.fast = [v for v in net.state_dict().values() if v.is_floating_point()]
        self.slow = [v.clone() for v in self.fast]

    def mix(self, keep: float) -> None:
        """Let the average keep this share of itself, and the weights become the average."""
        with ag.no_grad():
            for slow, fast in zip(self.slow, self.fast, strict=True):
                slow.lerp_(fast, 1 - keep)
                fast.copy_(slow)


def make_step(
    net: SpeedNet, batches: DeviceLoader, optimizers: list[Any], options: argparse.Namespace
) -> Any:
    """One training step on the next batch -> loss, recorded if that is asked for."""
    scaler = ag.amp.GradScaler(options.device, enabled=options.amp == "fp16")
    half = TYPES.get(options.amp)
    cast = ag.autocast(options.device, dtype=half) if half else contextlib.nullcontext()

    def step() -> ag.Tensor:
        images, classes = batches.next_batch()
        for optimizer in optimizers:
            optimizer.zero_grad()
        with cast:
            loss = F.cross_entropy(net(images), classes, label_smoothing=0.2, reduction="sum")
        scaler.scale(loss).backward()
        for optimizer in recorded:
            scaler.step(optimizer)
        scaler.update()
        return loss

    if not options.graph:
        recorded = optimizers
        return step
    # Muon's settings are part of its products, which a recording would repeat as they were.
    recorded = [o for o in optimizers if not isinstance(o, FlatMuon)]
    launch = ag.cuda.capture(step)

    def launch_then_muon() -> ag.Tensor:
        loss = launch()
        for optimizer in optimizers:
            if isinstance(optimizer, FlatMuon):
                optimizer.step()
        return loss

    return launch_then_muon


def train(
    options: argparse.Namespace, seed: int, images: Images, test: Images | None, limit: int | None
) -> tuple[float, float]:
    """(accuracy, seconds of training); `limit` steps alone and no test in the warm-up."""
    ag.manual_seed(seed)
    clock = Clock(options.device)
    with clock:
        net = SpeedNet().to(options.device)
        net.whiten_by(next(iter(plain_batches(images, 5000, options.device)))[0])
        batches = make_batches(images, options, seed)
        steps = limit or max(round(options.epochs * len(batches)), 1)
        optimizers, schedules = make_optimizers(net, options, steps)
        average, step = Lookahead(net), make_step(net, batches, optimizers, options)
    done, accuracy, loss = 0, 0.0, 0.0
    while done < steps:
        net.train()
        with clock:
            for _ in range(min(len(batches), steps - done)):
                last = step()
                for schedule in schedules:
                    schedule.step()
                done += 1
                if done % 5 == 0:
                    average.mix(0.95**5 * (done / steps) ** 3)
            if done == steps:
                average.mix(1.0)
            loss = float(last) / options.batch_size
        if test is not None:
            accuracy = evaluate(net, test, options.device, thorough=done == steps)
            say(f"  {done / len(batches):5.1f} epochs  loss {loss:.4f}  accuracy "
                f"{100 * accuracy:.2f} %  {clock.seconds:.2f} s")  # fmt: skip
    return accuracy, clock.seconds


class Clock:
    """Adds up the time that the ``with`` blocks take, the device's work included."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.seconds = device.startswith("cuda"), 0.0

    def _now(self) -> float:
        if self.on_gpu:
            ag.cuda.synchronize()
        return time.perf_counter()

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *exc: object) -> None:
        self.seconds += self._now() - self._began


def evaluate(net: SpeedNet, test: Images, device: str, thorough: bool) -> float:
    """Share of the images recognised; `thorough`: mirrored and shifted ones have a say, too."""
    net.eval()
    correct = 0
    with ag.no_grad():
        for x, y in plain_batches(test, 1000, device):
            scores = _both_ways(net, x)
            if thorough:
                wide = F.pad(x, (1, 1, 1, 1), mode="reflect")
                shifted = (wide[..., :32, :32], wide[..., 2:, 2:])
                scores = 0.5 * scores + 0.25 * sum(_both_ways(net, s) for s in shifted)
            correct += (scores.argmax(1) == y).sum().item()
    return correct / len(test.classes)


def _both_ways(net: SpeedNet, x: ag.Tensor) -> ag.Tensor:
    return 0.5 * (net(x) + net(x.flip(-1)))


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the figures of the last run; `argv` stands for the command line."""
    options = parse_options(argv)
    images, test = load_images(options, train=True), load_images(options, train=False)
    if len(images.classes) < options.batch_size:
        raise SystemExit(
            f"speedrun.py: expected at least one batch of {options.batch_size} images, came "
            f"{len(images.classes)}; lower --batch-size"
        )
    start = time.perf_counter()
    train(options, options.seed, images, None, limit=6)
    say(f"warm-up, not counted: {time.perf_counter() - start:.2f} s")
    accuracy = seconds = 0.0
    for run in range(options.runs):
        accuracy, seconds = train(options, options.seed + run, images, test, limit=None)
        say(f"run {run + 1}: {100 * accuracy:.2f} % after {seconds:.2f} s")
    return {"accuracy": accuracy, "seconds": seconds}


if __name__ == "__main__":
    main()
