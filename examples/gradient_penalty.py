"""A small GAN whose critic is kept smooth by a gradient penalty (WGAN-GP), on points of a ring.

    python examples/gradient_penalty.py                # about ten seconds on one core

The data are eight clouds of points on a circle of radius 2. The generator turns noise into points;
the critic gives every point a height, high for data and low for what the generator makes. Its
steepness must stay near 1 between the two: then the difference of the heights is the distance of
the two distributions, and its slope shows the generator the way. The penalty on the steepness is a
function of the critic's gradient, so its own gradient is a second derivative: that is what
`create_graph=True` is for.

Source: Gulrajani et al. 2017, "Improved training of Wasserstein GANs", algorithm 1.
"""

from __future__ import annotations

import argparse
import math

import allgrad as ag
from allgrad import nn, optim

CLOUDS, RADIUS, SPREAD = 8, 2.0, 0.1


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line; unknown ones end the script and list the known ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600, help="of the generator (600)")
    parser.add_argument("--critic-steps", type=int, default=3, help="for each of them (3)")
    parser.add_argument("--batch-size", type=int, default=128, help="points per step (128)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate of both nets (2e-3)")
    parser.add_argument("--penalty", type=float, default=1.0, help="weight of the penalty (1)")
    parser.add_argument("--seed", type=int, default=0, help="of data, noise and weights (0)")
    return parser.parse_args(argv)


def real_points(count: int) -> ag.Tensor:
    """Points of the clouds, (count, 2)."""
    angle = ag.randint(0, CLOUDS, (count,)).float() * (2 * math.pi / CLOUDS)
    centres = RADIUS * ag.stack([angle.cos(), angle.sin()], dim=1)
    return centres + SPREAD * ag.randn(count, 2)


def mlp(inputs: int, outputs: int, hidden: int = 64) -> nn.Sequential:
    """A small network."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def steepness(critic: nn.Module, real: ag.Tensor, fake: ag.Tensor) -> ag.Tensor:
    """Length of the critic's gradient at points between real and fake ones, (count,)."""
    share = ag.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    height = critic(between)
    (slope,) = ag.autograd.grad(height.sum(), between, create_graph=True)
    return slope.norm(2, dim=1)


def quality(points: ag.Tensor) -> tuple[float, int]:
    """(share of the points within 4 spreads of a cloud's centre, clouds that were found)."""
    angle = ag.arange(CLOUDS).float() * (2 * math.pi / CLOUDS)
    centres = RADIUS * ag.stack([angle.cos(), angle.sin()], dim=1)
    distance = (points[:, None] - centres[None]).norm(2, dim=2)
    nearest, which = distance.min(dim=1)
    close = nearest < 4 * SPREAD
    found = {int(i) for i, near in zip(which.tolist(), close.tolist(), strict=True) if near}
    return close.float().mean().item(), len(found)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    options = parse_options(argv)
    ag.set_num_threads(1)  # matrices this small gain nothing from more
    ag.manual_seed(options.seed)
    generator, critic = mlp(2, 2), mlp(2, 1)
    settings = {"lr": options.lr, "betas": (0.5, 0.9)}
    generator_optimizer = optim.Adam(generator.parameters(), **settings)
    critic_optimizer = optim.Adam(critic.parameters(), **settings)

    history = []
    for step in range(1, options.steps + 1):
        for _ in range(options.critic_steps):
            real = real_points(options.batch_size)
            with ag.no_grad():
                fake = generator(ag.randn(options.batch_size, 2))
            distance = critic(real).mean() - critic(fake).mean()
            penalty = ((steepness(critic, real, fake) - 1) ** 2).mean()
            critic_optimizer.zero_grad()
            (options.penalty * penalty - distance).backward()
            critic_optimizer.step()

        generator_optimizer.zero_grad()
        (-critic(generator(ag.randn(options.batch_size, 2))).mean()).backward()
        generator_optimizer.step()

        history.append((distance.item(), penalty.item()))
        if step % 50 == 0:
            print(f"step {step:4d}  distance {distance.item():6.3f}  penalty {penalty.item():.4f}")

    with ag.no_grad():
        share, found = quality(generator(ag.randn(2000, 2)))
    print(f"{100 * share:.0f} % of the generated points lie in a cloud; {found} of {CLOUDS} found")
    last = history[-50:]
    return {
        "first_distance": max(d for d, _ in history[:200]),
        "distance": sum(d for d, _ in last) / len(last),
        "first_penalty": history[0][1],
        "penalty": sum(p for _, p in last) / len(last),
        "share": share,
        "found": found,
    }


if __name__ == "__main__":
    main()
