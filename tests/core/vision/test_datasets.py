"""Data sets read from the true file formats; missing, cut off and damaged files are named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    digits,
    idx,
    pictures,
    tar,
    write_cifar10,
    write_cifar100,
    write_mnist,
)

import allgrad as ag
from allgrad.errors import DatasetError, OptionError
from allgrad.utils.data import DataLoader
from allgrad.vision import transforms as T
from allgrad.vision.datasets import (
    CIFAR10,
    CIFAR100,
    MNIST,
    Digits,
    FashionMNIST,
    SyntheticImages,
)

TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte"


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path: Path, cls: type[MNIST], packed: bool) -> None:
    write_mnist(tmp_path, cls.__name__, packed=packed)
    for train, count in ((True, 12), (False, 6)):
        dataset = cls(tmp_path, train=train)
        images, labels = digits(count)
        assert (dataset.data == images).all()
        assert dataset.targets.tolist() == labels.tolist()
        image, label = dataset[3]
        assert (image == images[3]).all()
        assert (label, type(label), len(dataset)) == (3, int, count)
    assert len(cls.classes) == 10


def test_an_image_handed_out_is_a_copy(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    dataset = MNIST(str(tmp_path))
    dataset[0][0][...] = 0
    assert (dataset.data == digits(12)[0]).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], r"promises \(12, 28, 28\), that is 9424 bytes, found 9423"),
        (lambda raw: raw + b"x", "9424 bytes, found 9425"),
        (lambda raw: raw[:9], "needs 16 bytes, found 9"),
        (lambda raw: b"", "needs 16 bytes, found 0"),
        (lambda raw: b"\0\0\x0d\x03" + raw[4:], "0x00000803 for 3-d bytes, found 0x00000d03"),
        (lambda raw: idx(np.zeros((11, 28, 28))), "11 images, but .*labels-idx1-ubyte 12 labels"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, damage: object, message: str) -> None:
    write_mnist(tmp_path)
    path = tmp_path / TRAIN_IMAGES
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=message) as caught:
        MNIST(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no" + raw[2:]])
def test_damaged_gzip_files(tmp_path: Path, cut: object) -> None:
    write_mnist(tmp_path, packed=True)
    path = tmp_path / (TRAIN_IMAGES + ".gz")
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(DatasetError, match="damaged gzip file"):
        MNIST(tmp_path)


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(np.full(12, 10)))
    with pytest.raises(DatasetError, match="labels below 10, found 10"):
        MNIST(tmp_path)


def test_missing_files_are_named_once_with_place_and_checksum(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        MNIST(tmp_path, train=False)
    text = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in text
    assert "t10k-images-idx3-ubyte.gz  (MD5 9fb629c4189551a2d022fa330f9573f3)" in text
    assert "t10k-labels-idx1-ubyte.gz" in text
    assert "train-images" not in text
    with pytest.raises(DatasetError, match=r"cifar-100-python\.tar\.gz  \(MD5 eb9058c3"):
        CIFAR100(tmp_path)


def test_wrong_checksum(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    with pytest.raises(DatasetError, match="expected MD5 f68b3c2dcbeaaa9fbdd348bbdeb94873, found"):
        MNIST(tmp_path, verify=True)
    write_cifar10(tmp_path)
    with pytest.raises(DatasetError, match="data_batch_1: wrong checksum: expected MD5 c99cafc1"):
        CIFAR10(tmp_path, verify=True)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("archived", [False, True])
def test_cifar10(tmp_path: Path, binary: bool, archived: bool) -> None:
    if archived:
        folder = write_cifar10(tmp_path / "elsewhere", binary)
        kind = "binary" if binary else "python"
        tar(folder, tmp_path / f"cifar-10-{kind}.tar.gz")
    else:
        write_cifar10(tmp_path, binary)
    train, test = CIFAR10(tmp_path), CIFAR10(tmp_path, train=False)
    assert (train.data == np.concatenate([pictures(3, seed) for seed in range(5)])).all()
    assert (test.data == pictures(3, 5)).all()
    assert train.targets.tolist() == [(7 * i + seed) % 10 for seed in range(5) for i in range(3)]
    assert train[4][0].shape == (32, 32, 3)
    assert train.class_to_idx["truck"] == 9


@pytest.mark.parametrize("binary", [False, True])
def test_cifar100_has_fine_labels(tmp_path: Path, binary: bool) -> None:
    write_cifar100(tmp_path, binary)
    train = CIFAR100(tmp_path)
    assert (train.data == pictures(5, 0)).all()
    assert train.targets.tolist() == [0, 7, 14, 21, 28]
    assert (len(train.classes), train.classes[0], train.classes[99]) == (100, "apple", "worm")
    assert (CIFAR100(tmp_path, train=False).data == pictures(5, 1)).all()


def test_damaged_cifar_files(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    path = folder / "data_batch_3"
    raw = path.read_bytes()
    for damaged, message in (
        (raw[: len(raw) // 2], "data_batch_3: truncated or damaged pickle"),
        (pickle.dumps([1]), "expected a dictionary, found list"),
        (pickle.dumps({"data": 1}), "expected the keys 'data' and 'labels', found b'data'"),
        (
            pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [1, 2]}),
            r"shape \(2, 3072\) for 2 labels, found \(2, 9\)",
        ),
        (pickle.dumps({"data": [1], "labels": [1]}), "array of uint8"),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}),
            "labels from 0 to 9, found 10 to 10",
        ),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=message):
            CIFAR10(tmp_path)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    path = write_cifar10(tmp_path) / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(DatasetError, match="which plain data does not need"):
        CIFAR10(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_binary_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path, binary=True) / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r"multiple of 3073 bytes .* found 9209, .* 3063 over"):
        CIFAR10(tmp_path)


def test_a_damaged_archive(tmp_path: Path) -> None:
    tar(write_cifar10(tmp_path / "elsewhere"), tmp_path / "cifar-10-python.tar.gz")
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"damaged archive \(5000 bytes\)"):
        CIFAR10(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".lock")) == [
        "cifar-10-python.tar.gz", "elsewhere",
    ]  # fmt: skip


def test_digits_are_real_and_split_the_same_everywhere() -> None:
    pytest.importorskip("sklearn")
    train, test = Digits(), Digits(train=False)
    assert (len(train), len(test)) == (1433, 364)
    assert train.data.shape == (1433, 8, 8)
    assert (train.data.min(), train.data.max(), train.data.dtype) == (0, 255, np.uint8)
    assert min(np.bincount(test.targets)) >= 35
    from sklearn.datasets import load_digits

    everything = load_digits()
    ours = np.sort(np.concatenate([train.data, test.data]).reshape(1797, 64).astype(int), axis=0)
    theirs = np.sort(np.rint(everything.images * (255 / 16)).reshape(1797, 64).astype(int), axis=0)
    assert (ours == theirs).all()
    assert test.targets[0] == everything.target[0] == 0


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        Digits()
    path = tmp_path / "digits.csv"
    for text, message in (("1,2", "rows of 65"), ("a,b", "expected numbers"), ("", "numbers")):
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            Digits(path=path)
    path.write_text(",".join(["17"] * 64 + ["3"]) + "\n")
    with pytest.raises(DatasetError, match="pixels from 0 to 16"):
        Digits(path=path)


def test_synthetic_images_can_be_learnt() -> None:
    train = SyntheticImages((3, 16, 16), 5, 200, seed=1)
    test = SyntheticImages((3, 16, 16), 5, 50, seed=1, train=False)
    means = np.stack([train.data[train.targets == c].mean(axis=0) for c in range(5)])
    distances = ((test.data[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == test.targets).all()
    assert not (train.data[:50] == test.data).all()
    assert (SyntheticImages((3, 16, 16), 5, 200, seed=1).data == train.data).all()
    assert SyntheticImages((1, 28, 28), size=3).data.shape == (3, 28, 28)
    with pytest.raises(OptionError, match="size=0"):
        SyntheticImages(size=0)


def test_a_loader_of_real_digits() -> None:
    pytest.importorskip("sklearn")
    dataset = Digits(transform=T.Compose([T.ToTensor(), T.Normalize((0.5,), (0.5,))]))
    images, labels = next(iter(DataLoader(dataset, 64, shuffle=True)))
    assert tuple(images.shape) == (64, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (ag.float32, ag.int64)
    assert "Normalize" in repr(dataset)
