"""Transforms: what each does, and that one by one and in batches they agree bit for bit."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import DtypeError, OptionError, ShapeError
from allgrad.utils.data import DataLoader, Dataset
from allgrad.utils.data.streams import BatchDraws, SampleDraws, sample_keys, sample_stream
from allgrad.vision import transforms as T
from allgrad.vision.datasets import SyntheticImages
from allgrad.vision.transforms.base import is_batchable

# One row per transform: (transform, works on plain images, works on tensors).
ROWS = [
    (T.ToTensor(), True, False),
    (T.PILToTensor(), True, False),
    (T.ConvertImageDtype(ag.float32), True, True),
    (T.ConvertImageDtype(ag.uint8), True, True),
    (T.Normalize((0.5,), (0.25,)), False, True),
    (T.Grayscale(), True, True),
    (T.Grayscale(3), True, True),
    (T.Pad(2), True, True),
    (T.Pad((1, 2, 3, 0), fill=7), True, True),
    (T.Pad(2, padding_mode="reflect"), True, True),
    (T.Pad(2, padding_mode="edge"), True, True),
    (T.CenterCrop(6), True, True),
    (T.CenterCrop((13, 5)), True, True),
    (T.RandomCrop(9, padding=3), True, True),
    (T.RandomCrop((9, 4)), True, True),
    (T.RandomCrop(12, padding=1, pad_if_needed=True), True, True),
    (T.RandomCrop(9, padding=3, fill=9), True, True),
    (T.RandomCrop(9, padding=3, padding_mode="symmetric"), True, True),
    (T.RandomHorizontalFlip(), True, True),
    (T.RandomVerticalFlip(0.7), True, True),
    (T.RandomRotation(40), True, True),
    (T.RandomRotation((10, 50), "bilinear", fill=3), True, True),
    (T.RandomErasing(0.8), False, True),
    (T.RandomErasing(0.8, value="random"), False, True),
    (T.RandomRotation((30, 30), expand=True, center=(3, 4)), True, True),
    (T.RandomAffine(30, (0.2, 0.1), (0.5, 1.5), (-10, 10, -5, 5)), True, True),
    (T.RandomAffine(0, shear=20, interpolation="bilinear", fill=3), True, True),
    (T.Resize((5, 13)), True, True),
    (T.Resize(5, T.InterpolationMode.BICUBIC), True, True),
    (T.Resize(20, "nearest", max_size=21), True, True),
    (T.Resize((4, 4), antialias=False), True, True),
    (T.RandomResizedCrop(6), True, True),
    (T.RandomResizedCrop((4, 7), (0.2, 0.5), (1, 2), "nearest-exact"), True, True),
    (T.ColorJitter(0.4, 0.3, (0.5, 2), 0.2), True, True),
    (T.RandomGrayscale(0.5), True, True),
    (T.GaussianBlur((3, 5)), True, True),
    (T.RandomApply([T.RandomCrop(9), T.ColorJitter(0.5)], 1.0), True, True),
    (T.RandomApply([T.RandomVerticalFlip(), T.RandomRotation(90)], 0.4), True, True),
    (T.RandomChoice([T.RandomVerticalFlip(1.0), T.GaussianBlur(3)], [3, 1]), True, True),
    (T.RandomOrder([T.RandomVerticalFlip(), T.ColorJitter(0.4), T.Pad(1)]), True, True),
    (T.Compose([T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), T.ToTensor()]), True, False),
]
SHAPES = [(9, 10, 3), (9, 10, 1), (9, 10)]
COUNT = 7


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, *shape), dtype=np.uint8)


def test_every_transform_has_a_row() -> None:
    tested = {type(row[0]).__name__ for row in ROWS} | {"Transform", "ImageBatch", "Lambda"}
    # These give other things than images, or are not transforms: test_functional.py.
    others = {"FiveCrop", "TenCrop", "ToPILImage", "InterpolationMode", "functional"}
    assert set(T.__all__) == tested | others


def agree(transform: object, batch: T.ImageBatch, samples: list) -> None:
    keys = sample_keys(3, np.arange(COUNT))
    before = [np.array(getattr(s, "_array", s)) for s in samples]
    singly = []
    for sample, key in zip(samples, keys.tolist(), strict=True):
        with sample_stream(SampleDraws(key)):
            singly.append(transform(sample))
    draws = BatchDraws(keys)
    together = transform.batch(batch, draws).collated()
    expected = np.stack([getattr(s, "_array", s) for s in singly])
    assert together.dtype == expected.dtype
    assert together.shape == expected.shape
    assert (together == expected).all()
    for sample, copy in zip(
        samples, before, strict=True
    ):  # a transform never writes into its input
        assert (np.asarray(getattr(sample, "_array", sample)) == copy).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transform", [r[0] for r in ROWS if r[1]], ids=repr)
def test_plain_images_one_by_one_and_in_batches(transform: object, shape: tuple[int, ...]) -> None:
    data = images(shape)
    assert is_batchable(transform)
    agree(transform, T.ImageBatch.of(data.copy()), list(data.copy()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transform", [r[0] for r in ROWS if r[2]], ids=repr)
def test_tensors_one_by_one_and_in_batches(transform: object, shape: tuple[int, ...]) -> None:
    to_tensor = T.ToTensor()
    data = images(shape)
    batch = to_tensor.batch(T.ImageBatch.of(data.copy()), BatchDraws(sample_keys(0, np.arange(1))))
    agree(transform, batch, [to_tensor(image) for image in data])


def test_to_tensor() -> None:
    image = images((4, 5, 3))[0]
    tensor = T.ToTensor()(image)
    assert tuple(tensor.shape) == (3, 4, 5)
    assert tensor.dtype == ag.float32
    assert (tensor.numpy() == image.transpose(2, 0, 1) / np.float32(255)).all()
    assert tuple(T.ToTensor()(image[..., 0]).shape) == (1, 4, 5)
    assert T.ToTensor()(image[..., 0] > 99).dtype == ag.float32
    assert T.ToTensor()(image.astype(np.float64)).numpy().max() == image.max()
    with pytest.raises(ShapeError, match=r"shape \(5,\)"):
        T.ToTensor()(np.zeros(5, np.uint8))
    with pytest.raises(DtypeError, match="came a Tensor"):
        T.ToTensor()(tensor)


def test_anything_with_an_array_interface_is_an_image() -> None:
    class Picture:
        __array_interface__ = images((4, 5, 3))[0].__array_interface__
        keep = images((4, 5, 3))

    assert tuple(T.ToTensor()(Picture()).shape) == (3, 4, 5)


def test_normalize() -> None:
    tensor = T.ToTensor()(images((4, 5, 3))[0])
    before = tensor.numpy().copy()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (before - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    assert (T.Normalize(mean, std)(tensor).numpy() == expected).all()
    assert (tensor.numpy() == before).all()
    batch = ag.from_numpy(np.stack([before, before]))
    assert (T.Normalize(mean, std)(batch).numpy() == np.stack([expected] * 2)).all()
    assert T.Normalize(mean, std, inplace=True)(tensor) is tensor
    assert (tensor.numpy() == expected).all()


def test_normalize_errors() -> None:
    with pytest.raises(DtypeError, match="put ToTensor first"):
        T.Normalize((0.5,), (0.5,))(np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(DtypeError, match="came uint8"):
        T.Normalize((0.5,), (0.5,))(ag.zeros(1, 4, 4, dtype=ag.uint8))
    with pytest.raises(ShapeError, match="2 means for an image of 3 channels"):
        T.Normalize((0.5, 0.5), (0.5, 0.5))(ag.zeros(3, 4, 4))
    with pytest.raises(OptionError, match="contains 0"):
        T.Normalize((0.5,), (0.0,))
    with pytest.raises(OptionError, match="one number per channel"):
        T.Normalize((0.5, 0.5), (1.0,))


def test_random_crop_is_a_window_of_the_padded_image() -> None:
    image = images((6, 7, 3))[0]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 5, x : x + 5].tobytes() for y in range(6) for x in range(7)}
    ag.manual_seed(0)
    found = {T.RandomCrop(5, padding=2)(image).tobytes() for _ in range(600)}
    assert found == windows
    with pytest.raises(ShapeError, match="6 x 7 with its padding, the window 8 x 8"):
        T.RandomCrop(8)(image)
    with pytest.raises(ShapeError, match="2 fill values for an image of 3 channels"):
        T.RandomCrop(8, padding=2, fill=(1, 2))(image)


def test_flips() -> None:
    image = images((4, 5, 3))[0]
    assert (T.RandomHorizontalFlip(1.0)(image) == image[:, ::-1]).all()
    assert (T.RandomVerticalFlip(1.0)(image) == image[::-1]).all()
    assert (T.RandomHorizontalFlip(0.0)(image) == image).all()
    tensor = T.ToTensor()(image)
    assert (T.RandomHorizontalFlip(1)(tensor).numpy() == tensor.numpy()[..., ::-1]).all()
    ag.manual_seed(1)
    flips = [(T.RandomHorizontalFlip()(image) != image).any() for _ in range(400)]
    assert 150 < sum(flips) < 250


def test_rotation() -> None:
    image = images((6, 6, 3))[0]
    for degrees, turns in ((90, 1), (180, 2), (270, 3), (0, 0)):
        for interpolation in ("nearest", "bilinear"):
            turned = T.RandomRotation((degrees, degrees), interpolation)(image)
            assert (turned == np.rot90(image, turns)).all()
    corner = T.RandomRotation((45, 45), fill=9)(np.zeros((9, 9), np.uint8))
    assert (corner[0, 0], corner[4, 4]) == (9, 0)


def test_erasing() -> None:
    ag.manual_seed(0)
    ones = ag.ones(3, 20, 20)
    shares = []
    for _ in range(50):
        erased = T.RandomErasing(1.0)(ones).numpy()
        assert (erased[0] == erased[1]).all()
        shares.append(float((erased[0] == 0).mean()))
    assert 0 < min(shares) < max(shares) < 0.40
    assert T.RandomErasing(1.0, value=(1, 2, 3))(ones).numpy().max() == 3
    with pytest.raises(DtypeError, match="after ToTensor"):
        T.RandomErasing()(np.zeros((4, 4, 3), np.uint8))


def test_centre_crop_pads_small_images() -> None:
    image = images((4, 5))[0]
    assert (T.CenterCrop(2)(image) == image[1:3, 2:4]).all()
    assert T.CenterCrop(8)(image).shape == (8, 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: T.Pad(1, padding_mode="mirror"), "'constant', 'edge'"),
        (lambda: T.Pad((1, 2, 3)), "1, 2 or 4"),
        (lambda: T.CenterCrop(0), "> 0"),
        (lambda: T.RandomHorizontalFlip(1.5), "0 <= p <= 1"),
        (lambda: T.RandomRotation(-3), "came"),
        (lambda: T.RandomRotation(3, "cubic"), "'nearest', 'bilinear'"),
        (lambda: T.RandomRotation(3, "bicubic"), "'nearest', 'bilinear'"),
        (lambda: T.RandomAffine(3, translate=(2, 0)), r"translate in \[0, 1\]"),
        (lambda: T.RandomAffine(3, scale=(2, 1)), "0 < low <= high"),
        (lambda: T.Resize((1, 2, 3)), "both > 0"),
        (lambda: T.Resize(3, "lanczos"), "'nearest-exact', 'bilinear', 'bicubic'"),
        (lambda: T.Resize(8, max_size=4)(np.zeros((9, 9), np.uint8)), "max_size > size"),
        (lambda: T.Resize((8, 8), max_size=9)(np.zeros((9, 9), np.uint8)), "one number"),
        (lambda: T.RandomResizedCrop(3, scale=(0.5, 0.1)), "ascending"),
        (lambda: T.ColorJitter(-1), "brightness >= 0"),
        (lambda: T.ColorJitter(hue=0.7), r"within \[-0.5, 0.5\]"),
        (lambda: T.RandomGrayscale(2), "0 <= p <= 1"),
        (lambda: T.GaussianBlur(4), "odd"),
        (lambda: T.GaussianBlur(3, (2, 1)), "low <= high"),
        (lambda: T.RandomApply([], 2), "0 <= p <= 1"),
        (lambda: T.RandomChoice([abs], [1, 2]), "1 weights"),
        (lambda: T.Grayscale(2), "1, 3"),
        (lambda: T.RandomErasing(value="noise"), "random"),
    ],
)
def test_unknown_arguments(build: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build()


class OneByOne(Dataset):
    """Hides `get_batch`."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        return self.dataset[index]


CIFAR_STEPS = [
    T.RandomCrop(32, padding=4),
    T.RandomHorizontalFlip(),
    T.ToTensor(),
    T.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32)])
def test_the_loader_takes_the_batched_path_and_it_changes_no_bit(shape: tuple) -> None:
    steps = CIFAR_STEPS[:3] + ([CIFAR_STEPS[3]] if shape[0] == 3 else [T.Normalize((0.5,), (0.5,))])
    dataset = SyntheticImages(shape, 10, 50, transform=T.Compose(steps))
    results = []
    for data in (dataset, OneByOne(dataset)):
        ag.manual_seed(3)
        loader = DataLoader(data, 16, shuffle=True)
        results.append([(x._array, y.tolist()) for _ in range(2) for x, y in loader])
    for (x, y), (other_x, other_y) in zip(*results, strict=True):
        assert (x == other_x).all()
        assert y == other_y
        assert x.shape[1:] == shape
        assert x.dtype == np.float32
        assert x.transpose(0, 2, 3, 1).flags.c_contiguous  # channels-last in memory
    assert not (results[0][0][0] == results[0][4][0]).all()


def test_a_function_of_the_user_turns_the_batched_path_off() -> None:
    assert T.Compose(CIFAR_STEPS).batchable
    assert not T.Compose([*CIFAR_STEPS, T.Lambda(lambda x: x)]).batchable
    assert not is_batchable(lambda x: x)

    class Mine(T.RandomCrop):
        def __call__(self, image: object) -> object:
            return super().__call__(image)

    class MyWindow(T.RandomCrop):
        def apply(self, array: np.ndarray, draws: object) -> np.ndarray:
            return array

    class MyRotation(T.RandomRotation):
        def apply(self, array: np.ndarray, draws: object) -> np.ndarray:
            return array

    assert not is_batchable(Mine(4))
    assert not is_batchable(MyWindow(4))
    assert is_batchable(MyRotation(4))  # its batch calls apply


def test_target_transform_in_batches() -> None:
    dataset = SyntheticImages((1, 8, 8), 4, 9, target_transform=lambda t: t + 100)
    ((_, labels),) = DataLoader(dataset, 9)
    assert labels.tolist() == [100, 101, 102, 103, 100, 101, 102, 103, 100]


def test_representations() -> None:
    for name, cls in inspect.getmembers(T, inspect.isclass):
        if name in ("Transform", "ImageBatch", "InterpolationMode"):
            continue
        if name in ("FiveCrop", "TenCrop", "ToPILImage"):
            assert repr(cls(None if name == "ToPILImage" else 3)).startswith(name)
            continue
        transform = next((r[0] for r in ROWS if type(r[0]) is cls), T.Lambda(abs))
        assert repr(transform).startswith(name)


@pytest.mark.torch
def test_values_equal_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    image = images((32, 32, 3))[0]
    mean, std = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
    ours = T.Normalize(mean, std)(T.ToTensor()(image)).numpy()
    theirs = torch.from_numpy(image.transpose(2, 0, 1).copy()).to(torch.float32).div(255)
    theirs.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
    assert (ours == theirs.numpy()).all()
