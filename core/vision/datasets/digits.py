"""The 1,797 handwritten digits that scikit-learn ships: real data without a download.

Source: E. Alpaydin, C. Kaynak 1998, "Optical recognition of handwritten digits", UCI machine
learning repository; the test part of it, as in `sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from .files import read_maybe_gzip
from .images import ImageDataset

_COLUMNS = 65
_TEST_EVERY = 5


class Digits(ImageDataset):
    """1,797 scanned digits, 8 x 8, grey: 1,433 to train and 364 to test.

    The split is fixed: of every class, in the order of the file, each fifth digit is for testing,
    beginning with the first. The values 0..16 of the file are spread over 0..255, so `ToTensor`
    gives [0, 1].

    Args:
        train: the training or the test part.
        transform, target_transform: applied to image (8, 8) uint8, and class.
        path: the file ``digits.csv.gz``; by default the one inside the installed scikit-learn,
            which is read but not imported.

    Raises:
        DatasetError: scikit-learn is not installed, or the file is damaged.
    """

    classes = tuple("0123456789")

    def __init__(
        self,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        path: str | Path | None = None,
    ) -> None:
        super().__init__(None, transform, target_transform)
        self.train = train
        images, labels = _read(_find() if path is None else Path(path))
        chosen = _is_test(labels) != train
        self.data, self.targets = images[chosen], labels[chosen]


def _find() -> Path:
    spec = importlib.util.find_spec("sklearn")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise DatasetError(
        "Digits: expected digits.csv.gz inside the package scikit-learn, which is not installed "
        "here; pip install scikit-learn, or give Digits(path=...)"
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 8, 8), labels int64 (N,)."""
    text = read_maybe_gzip(path)
    try:
        # One line of numbers for each image: about five times faster than np.loadtxt.
        values = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.float64)
    except ValueError as err:
        raise DatasetError(f"{path}: damaged, expected numbers: {err}") from err
    if len(values) == 0 or len(values) % _COLUMNS:
        raise DatasetError(
            f"{path}: truncated or damaged: expected rows of {_COLUMNS} numbers, found "
            f"{len(values)} numbers"
        )
    rows = values.reshape(-1, _COLUMNS)
    pixels, labels = rows[:, :64], rows[:, 64].astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 16 or labels.min() < 0 or labels.max() > 9:
        raise DatasetError(f"{path}: damaged: expected pixels from 0 to 16 and labels from 0 to 9")
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8), labels


def _is_test(labels: np.ndarray) -> np.ndarray:
    """True for each fifth sample of every class, so that both parts hold all classes alike."""
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[::_TEST_EVERY]] = True
    return chosen
