"""A list of transforms, and a transform made of the user's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...utils.data.streams import BatchDraws
from .base import ImageBatch, is_batchable


class Compose:
    """Apply transforms one after the other.

    When all of them come from this package (or define `batch`), the data sets of
    `allgrad.vision.datasets` run the list on whole batches, with the same result.

    Args:
        transforms: callables from image to image.

    >>> from allgrad.vision.transforms import Normalize, ToTensor
    >>> Compose([ToTensor(), Normalize((0.5,), (0.5,))]).batchable
    True
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def batchable(self) -> bool:
        """True if every transform in the list is."""
        return all(is_batchable(t) for t in self.transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """The list on many images at once."""
        for transform in self.transforms:
            images = transform.batch(images, draws)  # type: ignore[attr-defined]
        return images

    def __repr__(self) -> str:
        return "\n".join(["Compose(", *(f"    {t!r}" for t in self.transforms), ")"])


class Lambda:
    """The user's function as a transform; it sees one image at a time.

    Args:
        lambd: callable from image to image.
    """

    batchable = False

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        if not callable(lambd):
            raise TypeError(f"Lambda: expected a callable, came {type(lambd).__name__}")
        self.lambd = lambd

    def __call__(self, image: Any) -> Any:
        return self.lambd(image)

    def __repr__(self) -> str:
        return "Lambda()"
