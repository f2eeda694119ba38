"""What all image data sets share: arrays in memory, transforms, and the batched path.

Stage: the start of a batch. May import utils.data and the transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...tensors import Tensor
from ...utils.data.collate import default_collate
from ...utils.data.dataset import Dataset, take_rows
from ...utils.data.streams import BatchDraws
from ..transforms.base import ImageBatch, is_batchable


class ImageDataset(Dataset[tuple[Any, Any]]):
    """Labelled images in memory.

    Differences from torchvision: an image is a NumPy array (H, W, C), or (H, W) if grey, instead
    of a PIL image; `data` is a uint8 array and `targets` an int64 array for every data set.

    Attributes:
        data: uint8 (N, H, W, C) or (N, H, W).
        targets: int64 (N,), the class of every image.
        classes: names of the classes.
        transform, target_transform: applied to image and class on access.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.transform = transform
        self.target_transform = target_transform
        self.data = np.empty((0, 0, 0), np.uint8)
        self.targets = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        # A copy, so that a transform that writes into its image cannot change the data set.
        image: Any = self.data[index].copy()
        target: Any = int(self.targets[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    @property
    def batchable(self) -> bool:
        """True if the transform can treat many images at once."""
        return is_batchable(self.transform)

    @property
    def needs_random_streams(self) -> bool:
        """Only a target transform is the user's own code here."""
        return self.target_transform is not None

    def get_batch(self, indices: np.ndarray, draws: BatchDraws) -> list[Any]:
        """[images, targets] of the samples at `indices`, transformed and collated."""
        images = ImageBatch.of(take_rows(self.data, indices))
        if self.transform is not None:
            images = self.transform.batch(images, draws)  # type: ignore[attr-defined]
        targets: Any = self.targets[indices]
        if self.target_transform is None:
            return [Tensor(images.collated()), Tensor(targets)]
        labels = default_collate([self.target_transform(int(t)) for t in targets])
        return [Tensor(images.collated()), labels]

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class names to class numbers."""
        return {name: number for number, name in enumerate(self.classes)}

    def __repr__(self) -> str:
        lines = [f"Dataset {type(self).__name__}", f"    Number of datapoints: {len(self)}"]
        if self.root is not None:
            lines.append(f"    Root location: {self.root}")
        if self.transform is not None:
            lines.append(f"    Transform: {self.transform!r}")
        return "\n".join(lines)
