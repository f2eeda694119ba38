"""Batches of stored images against a plain composition of transforms."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad.backend.images import Augmentation, ImageStore
from allgrad.errors import OptionError, ShapeError
from allgrad.vision import transforms as T
from allgrad.vision.transforms import functional as TF

F32 = np.dtype(np.float32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
N = 64


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (N, 8, 8, 3), np.uint8)


def store(images, dtype=F32, by_place=False, **settings):
    return ImageStore(images, np.arange(len(images)), Augmentation(**settings), dtype, by_place)


def batch(store, epoch, order=None, seed=3):
    order = np.arange(N) if order is None else order
    store.begin(order, seed, epoch)
    return store.fetch(len(order))[0]


def candidates(image, padding, mode):
    """Every result that RandomCrop, RandomHorizontalFlip, ToTensor and Normalize can give."""
    plain = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])
    padded = TF.pad(image, padding, padding_mode="constant" if mode == "zeros" else mode)
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = TF.crop(padded, top, left, 8, 8)
            for mirrored in (False, True):
                shown = TF.hflip(window) if mirrored else window
                yield (top, left, mirrored), plain(shown).numpy()


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_results_are_those_of_transforms(images, mode):
    made = store(images, padding=2, padding_mode=mode, flip="random", mean=MEAN, std=STD)
    seen = []
    for image, x in zip(images, batch(made, 0), strict=True):
        found = [key for key, y in candidates(image, 2, mode) if (x == y).all()]
        assert len(found) == 1
        seen += found
    tops, lefts, mirrored = zip(*seen, strict=True)
    assert set(tops) == set(lefts) == set(range(5))
    assert 18 < sum(mirrored) < 46
    assert len(set(seen)) > 30


def test_alternating_flips(images):
    made = store(images, flip="alternate")
    plain = batch(store(images), 0)
    epochs = [batch(made, e) for e in range(4)]
    flipped = (epochs[0] != plain).any(axis=(1, 2, 3))
    assert 18 < flipped.sum() < 46
    for e, got in enumerate(epochs):
        mirror = flipped ^ bool(e % 2)
        want = np.where(mirror[:, None, None, None], plain[..., ::-1], plain)
        np.testing.assert_array_equal(got, want)


def test_cutout(images):
    images |= 1
    x = batch(store(images, cutout=4), 0)
    cut = (x == 0).all(axis=1)
    sizes = [(hole.any(axis=1).sum(), hole.any(axis=0).sum()) for hole in cut]
    for hole, (rows, columns) in zip(cut, sizes, strict=True):
        assert hole.sum() == rows * columns  # a rectangle
        assert 2 <= min(rows, columns) <= max(rows, columns) <= 4
    assert (4, 4) in sizes
    assert len(set(sizes)) > 3  # those at a border


def test_an_image_is_drawn_for_by_seed_epoch_and_number_alone(images, rng):
    settings = {"padding": 3, "flip": "random", "cutout": 2}
    made, order = store(images, **settings), rng.permutation(N)
    first = batch(made, 5)
    np.testing.assert_array_equal(batch(made, 5, order), first[order])
    made.begin(order[10:], 3, 5)
    parts = [made.fetch(n) for n in (7, 20)]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), first[order[10:37]])
    assert np.concatenate([y for _, y in parts]).tolist() == order[10:37].tolist()
    assert (batch(made, 6) != first).any()
    assert (batch(made, 5, seed=4) != first).any()


def test_repeated_images_look_different_if_places_draw(images):
    settings, order = {"padding": 3, "flip": "random", "cutout": 2}, np.zeros(N, np.int64)
    assert len({x.tobytes() for x in batch(store(images, **settings), 1, order)}) == 1
    placed = store(images, by_place=True, **settings)
    whole = batch(placed, 1, order)
    assert len({x.tobytes() for x in whole}) > N // 2
    placed.begin(order[10:], 3, 1, 10)
    np.testing.assert_array_equal(placed.fetch(9)[0], whole[10:19])


def test_smaller_windows_and_added_channels(images):
    x = batch(store(images, size=(5, 4), channels=8), 0)
    assert x.shape == (N, 8, 5, 4)
    assert not x[:, 3:].any()
    seen = set()
    for image, got in zip(images, x[:, :3], strict=True):
        whole = T.ToTensor()(image).numpy()
        places = [(r, c) for r in range(4) for c in range(5)
                  if (whole[:, r : r + 5, c : c + 4] == got).all()]  # fmt: skip
        assert len(places) == 1
        seen.update(places)
    assert {r for r, _ in seen} == {0, 1, 2, 3}
    assert {c for _, c in seen} == {0, 1, 2, 3, 4}


def test_padding_is_black(images):
    x = batch(store(images, padding=8, mean=MEAN, std=STD), 0)
    black = T.Normalize(MEAN, STD)(T.ToTensor()(np.zeros((1, 1, 3), np.uint8))).numpy()
    assert (x == black).all(axis=1).any()


@pytest.mark.parametrize(("settings", "error", "text"), [
    ({"flip": "maybe"}, OptionError, "alternate"),
    ({"padding_mode": "edge"}, OptionError, "reflect"),
    ({"padding": -1}, OptionError, "0 pixels or more"),
    ({"mean": (1, 2), "std": (1, 1)}, ShapeError, "3 for images of 3 channels"),
    ({"mean": 0.5, "std": 0}, OptionError, "above 0"),
    ({"size": (9, 8)}, ShapeError, "at most that of the images with their padding, 8 x 8"),
    ({"padding": 8, "padding_mode": "reflect"}, ShapeError, "larger than that"),
])  # fmt: skip
def test_settings_that_make_no_sense(images, settings, error, text):
    with pytest.raises(error, match=text):
        store(images, **settings)
