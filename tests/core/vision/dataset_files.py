"""Writes small data sets in the true file formats."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def digits(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and labels (n,)."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10


def write_mnist(root: Path, name: str = "MNIST", n: int = 12, packed: bool = False) -> None:
    """Both parts, laid out as by torchvision."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", n), ("t10k", n // 2)):
        images, labels = digits(count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{kind}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Images (n, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its `str`, as in the published files."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, obj: object) -> None:
        raw = obj.encode("latin1") if isinstance(obj, str) else obj
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(obj: object) -> bytes:
    """`obj` as Python 2 pickled it, with the module name that NumPy had then."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(obj)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar_batch(n: int, seed: int, fine: bool = False) -> tuple[bytes, bytes]:
    """One file of the Python version and the same of the binary version."""
    rows = pictures(n, seed).transpose(0, 3, 1, 2).reshape(n, 3072)
    labels = [(7 * i + seed) % (100 if fine else 10) for i in range(n)]
    coarse = [i % 20 for i in labels]
    content = {"data": rows, "batch_label": "a batch", "filenames": ["x.png"] * n}
    content.update({"fine_labels": labels, "coarse_labels": coarse} if fine else {"labels": labels})
    columns = [coarse, labels] if fine else [labels]
    binary = np.concatenate([np.array(columns, np.uint8).T, rows], axis=1).tobytes()
    return python2_pickle(content), binary


CIFAR10_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_cifar10(root: Path, binary: bool = False, n: int = 3) -> Path:
    """All batches; returns their folder."""
    folder = root / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    for seed, name in enumerate(CIFAR10_FILES):
        contents = cifar_batch(n, seed)[binary]
        (folder / (name + (".bin" if binary else ""))).write_bytes(contents)
    return folder


def write_cifar100(root: Path, binary: bool = False, n: int = 5) -> Path:
    """Both parts; returns their folder."""
    folder = root / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir(parents=True)
    for seed, name in enumerate(("train", "test")):
        contents = cifar_batch(n, seed, fine=True)[binary]
        (folder / (name + (".bin" if binary else ""))).write_bytes(contents)
    return folder


def tar(folder: Path, archive: Path) -> None:
    """A folder as tar.gz."""
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
