"""Transforms of images under torchvision's names, for one image and for whole batches."""

from .base import ImageBatch, Transform
from .compose import Compose, Lambda
from .erasing import RandomErasing
from .geometry import CenterCrop, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip
from .rotation import RandomRotation
from .values import ConvertImageDtype, Grayscale, Normalize, PILToTensor, ToTensor

__all__ = [
    "CenterCrop",
    "Compose",
    "ConvertImageDtype",
    "Grayscale",
    "ImageBatch",
    "Lambda",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomRotation",
    "RandomVerticalFlip",
    "ToTensor",
    "Transform",
]
