"""Data sets of images under torchvision's names; the images are NumPy arrays."""

from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .images import ImageDataset
from .mnist import MNIST, FashionMNIST
from .synthetic import SyntheticImages

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageDataset",
    "SyntheticImages",
]
