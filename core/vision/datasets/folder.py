"""Images in folders, one folder for each class, under torchvision's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError, DatasetError
from ...utils.data.dataset import Dataset
from ..transforms.pictures import pillow

IMG_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class MissingFilesError(DatasetError, FileNotFoundError):
    """A folder does not hold the files of a data set."""


def default_loader(path: str) -> np.ndarray:
    """The image in a file as uint8 (H, W, 3). Needs Pillow."""
    with pillow().open(path) as image:
        return np.array(image.convert("RGB"))


class DatasetFolder(Dataset[tuple[Any, Any]]):
    """Samples in ``root/<class>/**/<file>``; classes and files are sorted by name.

    Args:
        root: the folder of the class folders.
        loader: from a path to a sample.
        extensions: endings of the files to take.
        transform, target_transform: applied to sample and class on access.
        is_valid_file: from a path to whether it is taken; instead of `extensions`.
        allow_empty: whether a class may have no files.

    Attributes:
        classes: names of the classes; `class_to_idx` has their numbers.
        samples: (path, class) of every file; `targets` has the classes alone.

    Raises:
        FileNotFoundError: no class folders, or a class without files.
        ValueError: not exactly one of `extensions` and `is_valid_file`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        loader: Callable[[str], Any],
        extensions: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.loader, self.extensions = loader, extensions
        self.transform, self.target_transform = transform, target_transform
        self.classes, self.class_to_idx = self.find_classes(self.root)
        self.samples = self._find(is_valid_file, allow_empty)
        self.targets = [target for _, target in self.samples]

    def find_classes(self, directory: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
        """(names of the class folders, their numbers); subclasses may take others.

        Raises:
            FileNotFoundError: there is none.
        """
        if not os.path.isdir(directory):
            raise MissingFilesError(f"{type(self).__name__}: there is no folder {directory}")
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
        if not classes:
            raise MissingFilesError(
                f"{type(self).__name__}: expected a folder for each class in {directory}, found "
                "none"
            )
        return classes, {name: number for number, name in enumerate(classes)}

    def _find(
        self, is_valid_file: Callable[[str], bool] | None, allow_empty: bool
    ) -> list[tuple[str, int]]:
        if (self.extensions is None) == (is_valid_file is None):
            raise ArgumentError(
                f"{type(self).__name__}: expected either extensions or is_valid_file, came "
                f"extensions={self.extensions} and is_valid_file={is_valid_file}"
            )
        endings = tuple(e.lower() for e in self.extensions or ())
        valid = is_valid_file or (lambda path: path.lower().endswith(endings))
        samples: list[tuple[str, int]] = []
        for name in sorted(self.class_to_idx):
            number = self.class_to_idx[name]
            before = len(samples)
            for folder, _, files in sorted(os.walk(self.root / name, followlinks=True)):
                paths = (os.path.join(folder, file) for file in sorted(files))
                samples += [(path, number) for path in paths if valid(path)]
            if len(samples) == before and not allow_empty:
                wanted = f"; expected files ending in {', '.join(endings)}" if endings else ""
                raise MissingFilesError(
                    f"{type(self).__name__}: class {name!r} has no files in {self.root / name}"
                    f"{wanted}. allow_empty=True permits it"
                )
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        sample, label = self.loader(path), target
        if self.transform is not None:
            sample = self.transform(sample)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return sample, label

    def __repr__(self) -> str:
        lines = [f"Dataset {type(self).__name__}", f"    Number of datapoints: {len(self)}"]
        lines.append(f"    Root location: {self.root}")
        if self.transform is not None:
            lines.append(f"    Transform: {self.transform!r}")
        return "\n".join(lines)


class ImageFolder(DatasetFolder):
    """Images in ``root/<class>/**/<file>``.

    An image is a uint8 array (H, W, 3), where torchvision gives a PIL image.

    Args:
        root: the folder of the class folders.
        transform, target_transform: applied to image and class on access.
        loader: from a path to an image; by default Pillow reads it.
        is_valid_file: from a path to whether it is taken; default: by its ending.
        allow_empty: whether a class may have no files.

    Raises:
        FileNotFoundError: no class folders, or a class without files.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        loader: Callable[[str], Any] = default_loader,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        extensions = IMG_EXTENSIONS if is_valid_file is None else None
        super().__init__(
            root, loader, extensions, transform, target_transform, is_valid_file, allow_empty
        )
        self.imgs = self.samples
