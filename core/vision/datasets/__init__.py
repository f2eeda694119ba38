"""Data sets of images under torchvision's names; the images are NumPy arrays."""

from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .folder import DatasetFolder, ImageFolder
from .images import ImageDataset
from .mnist import MNIST, FashionMNIST
from .synthetic import FakeData, SyntheticImages

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "DatasetFolder",
    "Digits",
    "FakeData",
    "FashionMNIST",
    "ImageDataset",
    "ImageFolder",
    "SyntheticImages",
]
