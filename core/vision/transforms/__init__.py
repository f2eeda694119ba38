"""Transforms of images under torchvision's names, for one image and for whole batches."""

from . import functional
from .base import ImageBatch, Transform
from .colour import ColorJitter, GaussianBlur, RandomGrayscale
from .compose import Compose, Lambda, RandomApply, RandomChoice, RandomOrder
from .crops import FiveCrop, TenCrop
from .erasing import RandomErasing
from .geometry import CenterCrop, Pad, RandomCrop, RandomHorizontalFlip, RandomVerticalFlip
from .pictures import ToPILImage
from .resize import InterpolationMode, RandomResizedCrop, Resize
from .rotation import RandomAffine, RandomRotation
from .values import ConvertImageDtype, Grayscale, Normalize, PILToTensor, ToTensor

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConvertImageDtype",
    "FiveCrop",
    "GaussianBlur",
    "Grayscale",
    "ImageBatch",
    "InterpolationMode",
    "Lambda",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomOrder",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "TenCrop",
    "ToPILImage",
    "ToTensor",
    "Transform",
    "functional",
]
