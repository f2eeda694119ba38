"""CIFAR-10 and CIFAR-100, from the Python or the binary version.

Source of both formats: A. Krizhevsky, "The CIFAR-10 dataset", cs.toronto.edu/~kriz/cifar.html;
checksums from there and as torchvision publishes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DatasetError
from .cifar_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from .files import RemoteFile, check_md5, fetch, locked, missing, unpack_tar
from .images import ImageDataset
from .pickled import read_pickle

_PIXELS = 3 * 32 * 32


class CIFAR10(ImageDataset):
    """60,000 colour pictures 32 x 32 in 10 classes: 50,000 to train and 10,000 to test.

    Args:
        root: folder that holds (or will hold) ``cifar-10-batches-py`` (the Python version) or
            ``cifar-10-batches-bin`` (the binary version), or the archive of one of them.
        train: the training or the test part.
        transform, target_transform: applied to image (32, 32, 3) uint8, and class.
        download: fetch what is missing. Several ranks may do so at once.
        verify: compare the checksums of the files that are read with the published ones.

    Raises:
        DatasetError: files are missing (the message names them), truncated or damaged.
    """

    mirrors: ClassVar[tuple[str, ...]] = ("https://www.cs.toronto.edu/~kriz/",)
    python_folder: ClassVar[str] = "cifar-10-batches-py"
    binary_folder: ClassVar[str] = "cifar-10-batches-bin"
    archive: ClassVar[tuple[str, str]] = (
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
    )
    binary_archive: ClassVar[str] = "cifar-10-binary.tar.gz"
    train_list: ClassVar[tuple[tuple[str, str], ...]] = (
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    )
    test_list: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
    )
    label_key: ClassVar[bytes] = b"labels"
    binary_labels: ClassVar[int] = 1
    classes = CIFAR10_CLASSES

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
        *,
        verify: bool = False,
    ) -> None:
        super().__init__(root, transform, target_transform)
        self.train, self._verify = train, verify
        if download:
            self.download()
        parts = self._read()
        self.data = np.concatenate([images for images, _ in parts])
        self.targets = np.concatenate([labels for _, labels in parts])

    @property
    def _batches(self) -> tuple[tuple[str, str], ...]:
        return self.train_list if self.train else self.test_list

    def _read(self) -> list[tuple[np.ndarray, np.ndarray]]:
        python, binary = self._places()
        if not self._complete(python, "") and not self._complete(binary, ".bin"):
            self._unpack_local()
        if self._complete(python, ""):
            if self._verify:
                for name, md5 in self._batches:
                    check_md5(python / name, md5)
            return [self._read_python(python / name) for name, _ in self._batches]
        if self._complete(binary, ".bin"):
            return [self._read_binary(binary / f"{name}.bin") for name, _ in self._batches]
        raise self._missing("files are missing")

    def _places(self) -> tuple[Path, Path]:
        assert self.root is not None
        return self.root / self.python_folder, self.root / self.binary_folder

    def _complete(self, folder: Path, suffix: str) -> bool:
        return all((folder / (name + suffix)).is_file() for name, _ in self._batches)

    def _missing(self, reason: str) -> DatasetError:
        assert self.root is not None
        name, md5 = self.archive
        return missing(
            type(self).__name__, self.root, [RemoteFile(name, md5, self.mirrors)], reason
        )

    def _unpack_local(self) -> None:
        """Unpack an archive that lies in the root folder, whichever version it is."""
        assert self.root is not None
        names = [name for name, _ in (*self.train_list, *self.test_list)]
        for archive, folder, suffix in (
            (self.archive[0], self.python_folder, ""),
            (self.binary_archive, self.binary_folder, ".bin"),
        ):
            if not (self.root / archive).is_file():
                continue
            with locked(self.root):
                if not self._complete(self.root / folder, suffix):
                    members = [f"{folder}/{name}{suffix}" for name in names]
                    unpack_tar(self.root / archive, members, self.root / folder)
            return

    def download(self) -> None:
        """Fetch and unpack the Python version unless one of the versions is there."""
        assert self.root is not None
        with locked(self.root):
            python, binary = self._places()
            if self._complete(python, "") or self._complete(binary, ".bin"):
                return
            name, md5 = self.archive
            packed = fetch(RemoteFile(name, md5, self.mirrors), self.root, type(self).__name__)
            files = [f"{self.python_folder}/{n}" for n, _ in (*self.train_list, *self.test_list)]
            unpack_tar(packed, files, python)

    def _read_python(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        batch = read_pickle(path)
        found = ", ".join(sorted(str(k) for k in batch))
        if b"data" not in batch or self.label_key not in batch:
            raise DatasetError(
                f"{path}: expected the keys 'data' and '{self.label_key.decode()}', found {found}"
            )
        data, labels = batch[b"data"], np.asarray(batch[self.label_key], dtype=np.int64)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
            raise DatasetError(f"{path}: expected images as an array of uint8")
        if data.shape != (len(labels), _PIXELS):
            raise DatasetError(
                f"{path}: expected images of shape ({len(labels)}, {_PIXELS}) for "
                f"{len(labels)} labels, found {data.shape}"
            )
        return self._images(data), self._labels(labels, path)

    def _read_binary(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        raw = np.fromfile(path, np.uint8)
        record = self.binary_labels + _PIXELS
        if len(raw) == 0 or len(raw) % record:
            raise DatasetError(
                f"{path}: truncated or damaged: expected a multiple of {record} bytes (labels "
                f"and {_PIXELS} pixel values), found {len(raw)}, that is {len(raw) % record} over"
            )
        rows = raw.reshape(-1, record)
        labels = rows[:, self.binary_labels - 1].astype(np.int64)  # CIFAR-100: coarse, fine
        return self._images(rows[:, self.binary_labels :]), self._labels(labels, path)

    def _images(self, rows: np.ndarray) -> np.ndarray:
        planes = rows.reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))

    def _labels(self, labels: np.ndarray, path: Path) -> np.ndarray:
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DatasetError(
                f"{path}: expected labels from 0 to {len(self.classes) - 1}, found "
                f"{labels.min()} to {labels.max()}"
            )
        return labels


class CIFAR100(CIFAR10):
    """60,000 colour pictures 32 x 32 in 100 classes; arguments as `CIFAR10`.

    `root` holds ``cifar-100-python`` or ``cifar-100-binary``, or the archive of one of them.
    """

    python_folder = "cifar-100-python"
    binary_folder = "cifar-100-binary"
    archive = ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
    binary_archive = "cifar-100-binary.tar.gz"
    train_list = (("train", "16019d7e3df5f24257cddd939b257f8d"),)
    test_list = (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),)
    label_key = b"fine_labels"
    binary_labels = 2
    classes = CIFAR100_CLASSES
