"""The images of the scripts in this folder: the real data set, or made-up images of its shape."""

from __future__ import annotations

import argparse
from typing import Any

from allgrad.vision import datasets

SHAPES = {"MNIST": (1, 28, 28), "CIFAR10": (3, 32, 32)}


def add_options(parser: argparse.ArgumentParser, epochs: int) -> None:
    """The options that all scripts on images share."""
    add = parser.add_argument
    add("--epochs", type=int, default=epochs, help=f"passes over the training images ({epochs})")
    add("--data", default="data", help="folder of the data set; what is missing is fetched (data)")
    add("--synthetic", action="store_true", help="made-up images instead of the data set")
    add("--synthetic-size", type=int, default=6000, help="how many of them (6000)")
    add("--seed", type=int, default=0, help="of weights, order and dropout (0)")


def load(name: str, train: bool, transform: Any, options: argparse.Namespace) -> Any:
    """Training or test images of the data set `name`, ``MNIST`` or ``CIFAR10``."""
    if options.synthetic:
        size = options.synthetic_size if train else max(options.synthetic_size // 6, 1)
        return datasets.SyntheticImages(SHAPES[name], size=size, train=train, transform=transform)
    return getattr(datasets, name)(options.data, train=train, download=True, transform=transform)
