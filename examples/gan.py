"""Draw digits: a generative adversarial network on real scans, in seconds, without a download.

    python examples/gan.py                                     # one rank
    allgrad run -n 2 examples/gan.py                           # two ranks of this host
    mpiexec -n 2 python examples/gan.py                        # the same under any MPI launcher
    python examples/gan.py --epochs 200 --out runs/gan         # longer; the picture goes there

A generator turns noise into images of 8 x 8 grey values; a discriminator learns to tell them from
the scans of the set `Digits`, and the generator learns to deceive it. The figure that tells how
well needs neither: the Frechet distance in pixel space, between mean and covariance of the
drawings and of the held-out scans.

Writes <out>/samples.png, a grid of drawings. Needs matplotlib for it: pip install 'allgrad[demo]'.
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

NOISE = 16


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=30, help="passes over the scans (30)")
    add("--batch-size", type=int, default=64, help="images per rank and step (64)")
    add("--lr", type=float, default=1e-3, help="learning rate of both networks (1e-3)")
    add("--seed", type=int, default=0, help="of weights, order and noise (0)")
    add("--out", type=Path, default=Path("runs/gan"), help="folder of the picture (runs/gan)")
    add("--no-plot", action="store_true", help="no picture")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the Frechet distances; `argv` stands for the command line."""
    options = parse_options(argv)
    ddp.init_process_group()
    rank = ddp.get_rank()

    ag.manual_seed(options.seed)
    scans, held_out = pixels(train=True), pixels(train=False)
    train_set = TensorDataset(ag.tensor(scans))
    sampler = ddp.DistributedSampler(train_set, seed=options.seed)
    loader = DataLoader(train_set, options.batch_size, sampler=sampler)

    generator = nn.Sequential(
        nn.Linear(NOISE, 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 64), nn.Sigmoid(),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Linear(64, 128), nn.LeakyReLU(0.2),
        nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1),
    )  # fmt: skip
    draw = ddp.DistributedDataParallel(generator)
    judge = ddp.DistributedDataParallel(critic)
    draw_optimizer = optim.Adam(draw.parameters(), lr=options.lr, betas=(0.5, 0.999))
    judge_optimizer = optim.Adam(judge.parameters(), lr=options.lr, betas=(0.5, 0.999))
    # the drawings shown and measured come from an average of the generator over training
    average = optim.swa_utils.AveragedModel(
        generator, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    fixed_noise = ag.randn(1000, NOISE)
    ag.manual_seed(options.seed + 1 + rank)  # noise differs between ranks

    before = frechet_distance(sample(generator, fixed_noise), held_out)
    for epoch in range(1, options.epochs + 1):
        sums = {"judge": 0.0, "draw": 0.0, "images": 0}
        for (real,) in loader:
            count = len(real)
            with ag.no_grad():
                fake = generator(ag.randn(count, NOISE))
            judge_optimizer.zero_grad()
            verdict = judge(ag.cat([real, fake])).flatten()
            truth = ag.cat([ag.full((count,), 0.9), ag.zeros(count)])  # 0.9: never quite sure
            judge_loss = F.binary_cross_entropy_with_logits(verdict, truth)
            judge_loss.backward()
            judge_optimizer.step()

            draw_optimizer.zero_grad()
            critic.requires_grad_(False)  # it judges here, and does not learn
            verdict = critic(draw(ag.randn(count, NOISE))).flatten()
            draw_loss = F.binary_cross_entropy_with_logits(verdict, ag.ones(count))
            draw_loss.backward()
            draw_optimizer.step()
            critic.requires_grad_(True)
            average.update_parameters(generator)

            sums["judge"] += judge_loss.item() * count
            sums["draw"] += draw_loss.item() * count
            sums["images"] += count
        total = ddp.reduce_sum(sums)
        if rank == 0 and (epoch % 10 == 0 or epoch == options.epochs):
            distance = frechet_distance(sample(average, fixed_noise), held_out)
            print(
                f"epoch {epoch:3d}  critic's loss {total['judge'] / total['images']:.3f}  "
                f"generator's loss {total['draw'] / total['images']:.3f}  "
                f"distance to held-out scans {distance:.2f}",
                flush=True,
            )

    drawings = sample(average, fixed_noise)
    result = {
        "before": before,
        "after": frechet_distance(drawings, held_out),
        "scans": frechet_distance(scans, held_out),
    }
    if rank == 0:
        print(
            f"Frechet distance to the held-out scans: {result['before']:.2f} untrained, "
            f"{result['after']:.2f} trained, {result['scans']:.2f} between the scans themselves"
        )
        if not options.no_plot:
            plot(drawings[:64], options.out)
    ddp.destroy_process_group()
    return result


def pixels(train: bool) -> np.ndarray:
    """The scans as float32 (N, 64) in [0, 1]."""
    images = datasets.Digits(train=train).data
    return images.reshape(len(images), 64).astype(np.float32) / 255


def sample(generator: nn.Module, noise: ag.Tensor) -> np.ndarray:
    """One drawing per row of noise, (N, 64), with the running statistics of the batch norms."""
    generator.eval()
    with ag.no_grad():
        drawings = generator(noise).numpy()
    generator.train()
    return drawings


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions with mean and covariance of the rows of `a` and of `b`.

    Source: Dowson and Landau 1982; Heusel et al. 2017 use it on features of a network.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0))
    return float(means + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def plot(drawings: np.ndarray, folder: Path) -> None:
    """Write the drawings as a grid to <folder>/samples.png."""
    try:
        import matplotlib  # noqa: PLC0415 - optional
    except ImportError:
        print("no picture: matplotlib is missing; pip install 'allgrad[demo]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - optional, and after use()

    folder.mkdir(parents=True, exist_ok=True)
    framed = np.pad(drawings.reshape(8, 8, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    grid = framed.transpose(0, 2, 1, 3).reshape(80, 80).repeat(8, 0).repeat(8, 1)
    plt.imsave(folder / "samples.png", grid, cmap="gray_r", vmin=0, vmax=1)
    print(f"drawings in {folder / 'samples.png'}")


if __name__ == "__main__":
    main()
