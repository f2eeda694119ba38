"""Grids, image files, and data sets of image files."""

from __future__ import annotations

import io

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import DatasetError, OptionError, ShapeError
from allgrad.utils.data import DataLoader
from allgrad.vision import datasets, transforms
from allgrad.vision.utils import make_grid, save_image


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 4, 6), (3, 16, 15)),  # expected shapes are torchvision's
        ((1, 3, 4, 6), (3, 4, 6)),
        ((4, 6), (3, 4, 6)),
        ((3, 4, 6), (3, 4, 6)),
        ((1, 4, 6), (3, 4, 6)),
        ((2, 1, 4, 6), (3, 6, 15)),
    ],
)
def test_shapes_of_grids(shape, expected):
    grid = make_grid(ag.randn(*shape), nrow=2, padding=1)
    assert tuple(grid.shape) == expected


def test_places_and_values_of_a_grid():
    images = ag.arange(3 * 3 * 2 * 2).reshape(3, 3, 2, 2).float()
    grid = make_grid(images, nrow=2, padding=1, pad_value=-1)
    assert (grid[:, 1:3, 1:3] == images[0]).all()
    assert (grid[:, 1:3, 4:6] == images[1]).all()
    assert (grid[:, 4:6, 1:3] == images[2]).all()
    assert int((grid == -1).sum()) == grid.numel() - images.numel()
    assert (make_grid(list(images), nrow=2, padding=1, pad_value=-1) == grid).all()
    whole = make_grid(images, padding=0, normalize=True)
    assert (float(whole.min()), float(whole.max())) == (0, 1)
    each = make_grid(images, padding=0, normalize=True, scale_each=True)
    assert (each[:, :, :2] == each[:, :, 2:4]).all()
    cut = make_grid(images, padding=0, normalize=True, value_range=(10, 20))
    assert float(cut[0, 0, 2]) == pytest.approx(0.2)
    assert images.max() == 35


def test_wrong_images_for_a_grid():
    with pytest.raises(ShapeError, match="of one shape"):
        make_grid([ag.zeros(3, 2, 2), ag.zeros(3, 2, 3)])
    with pytest.raises(ShapeError, match=r"came shape \(2,\)"):
        make_grid(ag.zeros(2))
    with pytest.raises(TypeError, match=r"came \['ndarray'\]"):
        make_grid(np.zeros((2, 3, 4, 4)))
    with pytest.raises(OptionError, match="nrow > 0"):
        make_grid(ag.zeros(2, 3, 4, 4), nrow=0)


def test_image_files(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image = ag.tensor([[[0.0, 1.0], [0.5, 2.0]]] * 3)
    save_image(image, tmp_path / "x.png")
    with image_module.open(tmp_path / "x.png") as read:
        assert np.asarray(read)[..., 0].tolist() == [[0, 255], [128, 255]]
    file = io.BytesIO()
    save_image(ag.rand(4, 1, 5, 5, requires_grad=True), file, format="BMP", nrow=2)
    with image_module.open(file) as read:
        assert (read.format, read.size) == ("BMP", (16, 16))


@pytest.fixture
def folder(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    for name, colour in (("dog", 10), ("cat", 20)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for place in ("b.PNG", "a.jpeg", "deep/c.bmp"):
            array = np.full((6, 5, 3), colour, np.uint8)
            image_module.fromarray(array).save(tmp_path / name / place)
        (tmp_path / name / "notes.txt").write_text("no image")
    (tmp_path / "grey.png").write_bytes(b"not in a class")
    return tmp_path


def test_image_folder(folder):
    data = datasets.ImageFolder(folder, transforms.ToTensor(), lambda target: target + 5)
    assert data.classes == ["cat", "dog"]
    assert data.class_to_idx == {"cat": 0, "dog": 1}
    names = [path.removeprefix(f"{folder}/") for path, _ in data.samples]
    expected = [
        f"{kind}/{file}" for kind in ("cat", "dog") for file in ("a.jpeg", "b.PNG", "deep/c.bmp")
    ]
    assert names == expected
    assert data.targets == [0, 0, 0, 1, 1, 1]
    assert data.imgs is data.samples
    ((images, labels),) = DataLoader(data, 6)
    assert tuple(images.shape) == (6, 3, 6, 5)
    assert labels.tolist() == [5, 5, 5, 6, 6, 6]
    assert images[1, 0, 0, 0].item() == pytest.approx(20 / 255)
    assert "Number of datapoints: 6" in repr(data)


def test_files_of_the_users_choice(folder):
    texts = datasets.DatasetFolder(folder, lambda path: path[-9:], extensions=(".txt",))
    assert texts[0] == ("notes.txt", 0)
    deep = datasets.ImageFolder(folder, is_valid_file=lambda path: "deep" in path)
    assert len(deep) == 2
    (folder / "empty").mkdir()
    assert len(datasets.ImageFolder(folder, allow_empty=True)) == 6
    with pytest.raises(FileNotFoundError, match="class 'empty' has no files"):
        datasets.ImageFolder(folder)
    with pytest.raises(DatasetError, match="there is no folder"):
        datasets.ImageFolder(folder / "absent")
    with pytest.raises(FileNotFoundError, match="a folder for each class"):
        datasets.ImageFolder(folder / "empty")
    with pytest.raises(ValueError, match="either extensions or is_valid_file"):
        datasets.DatasetFolder(folder, str)


def test_fake_data():
    data = datasets.FakeData(7, (3, 4, 5), 4, transforms.ToTensor(), lambda target: -target)
    image, target = data[3]
    assert tuple(image.shape) == (3, 4, 5)
    assert target <= 0
    assert (data[3][0] == image).all()
    assert not (data[4][0] == image).all()
    other = datasets.FakeData(7, (3, 4, 5), 4, transforms.ToTensor(), random_offset=1)
    assert not (other[3][0] == image).all()
    assert len(list(data)) == len(data) == 7
    assert {t for _, t in datasets.FakeData(100, (1, 1, 1), 3)} == {0, 1, 2}
    with pytest.raises(OptionError, match="positive numbers"):
        datasets.FakeData(7, (3, 4))
