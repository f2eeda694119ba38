"""Lists of transforms, run in order or by chance, and a transform made of the user's function."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import OptionError
from ...utils.data.streams import BatchDraws, Draws, current
from .base import ImageBatch, Transform, is_batchable


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


class _Choice(Transform):
    """What RandomApply, RandomChoice and RandomOrder share: a list, and a random plan.

    Where all transforms of the list define `apply`, images go through it; otherwise each is called
    as the user's functions are, one image at a time.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        if not isinstance(transforms, Sequence):
            raise TypeError(
                f"{type(self).__name__}: expected a list of transforms, came "
                f"{type(transforms).__name__}"
            )
        self.transforms = list(transforms)

    @property
    def batchable(self) -> bool:  # type: ignore[override]
        """True if every transform in the list works on arrays alone."""
        return all(
            isinstance(t, Transform)
            and type(t).apply is not Transform.apply
            and type(t).__call__ is Transform.__call__
            and is_batchable(t)
            for t in self.transforms
        )

    def plan(self, draws: Draws) -> Sequence[Any]:
        """The transforms to run this time, in order."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, image: Any) -> Any:
        if self.batchable:
            return super().__call__(image)
        for transform in self.plan(current()):
            image = transform(image)
        return image

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        for transform in self.plan(draws):
            array = transform.apply(array, draws)
        return array

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images, one after the other."""
        return super().batch(images, draws)

    def __repr__(self) -> str:
        return "\n".join([f"{type(self).__name__}(", *(f"    {t!r}" for t in self.transforms), ")"])


class RandomApply(_Choice):
    """All transforms of a list, with probability `p`; otherwise none.

    Args:
        transforms: callables from image to image.
        p: probability in [0, 1].
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: float = 0.5) -> None:
        super().__init__(transforms)
        if not 0 <= p <= 1:
            raise OptionError(f"RandomApply: expected 0 <= p <= 1, came {p}")
        self.p = p

    def plan(self, draws: Draws) -> Sequence[Any]:
        return self.transforms if draws.uniform() < self.p else ()


class RandomChoice(_Choice):
    """One transform of a list.

    Args:
        transforms: callables from image to image.
        p: their weights; equal by default.
    """

    def __init__(
        self, transforms: Sequence[Callable[[Any], Any]], p: Sequence[float] | None = None
    ) -> None:
        super().__init__(transforms)
        if p is not None and (len(p) != len(self.transforms) or min(p) < 0 or not sum(p)):
            raise OptionError(
                f"RandomChoice: expected {len(self.transforms)} weights >= 0, came {p}"
            )
        self.p = p

    def plan(self, draws: Draws) -> Sequence[Any]:
        if self.p is None:
            return (self.transforms[draws.integer(0, len(self.transforms))],)
        ends = list(itertools.accumulate(self.p))
        place = bisect.bisect_right(ends, draws.uniform() * ends[-1])
        return (self.transforms[place],)


class RandomOrder(_Choice):
    """All transforms of a list, in random order."""

    def plan(self, draws: Draws) -> Sequence[Any]:
        turns = [draws.uniform() for _ in self.transforms]
        return [self.transforms[i] for i in sorted(range(len(turns)), key=turns.__getitem__)]
