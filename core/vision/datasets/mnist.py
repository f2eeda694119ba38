"""MNIST and Fashion-MNIST from their idx files.

Source of the format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits",
section "File formats"; checksums as torchvision publishes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DatasetError
from .files import RemoteFile, atomic_file, check_md5, fetch, locked, missing, read_maybe_gzip
from .images import ImageDataset

_UINT8 = 0x08


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an idx file of bytes, compressed if its name ends in .gz.

    Args:
        path: the file.
        axes: number of axes it must have.

    Returns:
        uint8 array of the shape that the header gives.

    Raises:
        DatasetError: wrong magic number, or more or fewer bytes than the header promises.
    """
    raw = read_maybe_gzip(path)
    expected_magic = (_UINT8 << 8) | axes
    header_bytes = 4 + 4 * axes
    if len(raw) < header_bytes:
        raise DatasetError(
            f"{path}: truncated idx file: the header needs {header_bytes} bytes, found {len(raw)}"
        )
    magic = int.from_bytes(raw[:4], "big")
    if magic != expected_magic:
        raise DatasetError(
            f"{path}: not the idx file expected: magic number {expected_magic:#010x} for "
            f"{axes}-d bytes, found {magic:#010x}"
        )
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
    if len(raw) != header_bytes + math.prod(shape):
        raise DatasetError(
            f"{path}: truncated or damaged idx file: its header promises {shape}, that is "
            f"{header_bytes + math.prod(shape)} bytes, found {len(raw)}"
        )
    return np.frombuffer(raw, np.uint8, offset=header_bytes).reshape(shape).copy()


class MNIST(ImageDataset):
    """70,000 handwritten digits, 28 x 28, grey: 60,000 to train and 10,000 to test.

    Args:
        root: folder that holds (or will hold) ``MNIST/raw/train-images-idx3-ubyte`` and so on,
            plain or with ``.gz``, laid out as by torchvision.
        train: the training or the test part.
        transform, target_transform: applied to image (H, W) uint8, and class.
        download: fetch what is missing. Several ranks may do so at once.
        verify: compare the checksums of the .gz files that are read with the published ones.

    Raises:
        DatasetError: files are missing (the message names them), truncated or damaged.
    """

    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    resources: ClassVar[tuple[tuple[str, str], ...]] = (
        ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    )
    classes = (
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
        "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine",
    )  # fmt: skip

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
        self.train = train
        if download:
            self.download()
        prefix = "train" if train else "t10k"
        names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        paths = [self._find(name) for name in names]
        if None in paths:
            wanted = [f for f in self._remote_files() if f.name.removesuffix(".gz") in names]
            raise missing(type(self).__name__, self.raw_folder, wanted, "files are missing")
        images_path, labels_path = (p for p in paths if p is not None)
        if verify:
            self._verify(images_path, labels_path)
        self.data = read_idx(images_path, axes=3)
        self.targets = read_idx(labels_path, axes=1).astype(np.int64)
        self._check(images_path, labels_path)

    @property
    def raw_folder(self) -> Path:
        """Where the files are: root / name of the class / raw."""
        assert self.root is not None
        return self.root / type(self).__name__ / "raw"

    def _remote_files(self) -> list[RemoteFile]:
        return [RemoteFile(name, md5, self.mirrors) for name, md5 in self.resources]

    def _find(self, name: str) -> Path | None:
        for candidate in (self.raw_folder / name, self.raw_folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
        return None

    def download(self) -> None:
        """Fetch and unpack the files that are not there."""
        with locked(self.raw_folder):
            for remote in self._remote_files():
                plain = self.raw_folder / remote.name.removesuffix(".gz")
                if plain.is_file():
                    continue
                packed = fetch(remote, self.raw_folder, type(self).__name__)
                contents = read_maybe_gzip(packed)
                with atomic_file(plain) as file:
                    file.write(contents)

    def _verify(self, *paths: Path) -> None:
        published = dict(self.resources)
        for path in paths:
            packed = path if path.suffix == ".gz" else path.with_name(path.name + ".gz")
            if not packed.is_file():
                raise DatasetError(
                    f"{path}: cannot be verified, checksums are published for the .gz file only; "
                    f"put {packed.name} beside it or drop verify=True"
                )
            check_md5(packed, published[packed.name])

    def _check(self, images_path: Path, labels_path: Path) -> None:
        if len(self.data) != len(self.targets):
            raise DatasetError(
                f"{images_path} holds {len(self.data)} images, but {labels_path} "
                f"{len(self.targets)} labels"
            )
        if len(self.targets) and self.targets.max() >= len(self.classes):
            raise DatasetError(
                f"{labels_path}: expected labels below {len(self.classes)}, found "
                f"{self.targets.max()}"
            )


class FashionMNIST(MNIST):
    """70,000 pictures of clothes in the format of MNIST; arguments as there.

    Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST".
    """

    mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    resources = (
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    )
    classes = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
