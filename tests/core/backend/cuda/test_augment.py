"""Images on a GPU: the kernel writes the bits that its twin writes, and so do whole epochs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from allgrad.backend.images import Augmentation, ImageStore
from allgrad.errors import ShapeError

TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
SETTINGS = {
    "plain": {},
    "cifar": {"padding": 4, "flip": "random", "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.3, 0.25)},
    "speed": {"padding": 2, "padding_mode": "reflect", "flip": "alternating", "channels": 8},
    "cut out": {"size": (7, 5), "cutout": 3, "fill": (1, 2, 3), "padding": 1, "channels": 5},
    "middle": {"size": (4, 6), "random": False, "channels": 4},
}


def stored(rng, shape=(12, 9, 8, 3)):
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, shape[0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_main_memory(gpu, rng, name, dtype):
    from allgrad.backend.cuda.augment import CudaImageStore

    images, labels = stored(rng)
    settings = Augmentation(**SETTINGS[name])
    here = ImageStore(images, labels, settings, np.dtype(dtype))
    there = CudaImageStore(images, labels, settings, np.dtype(dtype), 0)
    for epoch in (0, 1):
        order = rng.permutation(12)
        for store in (here, there):
            store.begin(order, 2**63 + 5, epoch, 1)
        for count in (5, 1, 5):
            (x, y), (want, classes) = there.fetch(count), here.fetch(count)
            assert x.strides == want.strides
            assert x.dtype == want.dtype == dtype
            np.testing.assert_array_equal(x.get(), want)
            assert y.get().tolist() == classes.tolist()
            assert want.astype(np.float32).std() > 0.1


def test_more_images_than_blocks_and_grey_ones(gpu, rng):
    from allgrad.backend.cuda import augment

    images, labels = stored(rng, (40, 5, 5, 1))
    settings = Augmentation(padding=1, flip="random", cutout=2)
    here = ImageStore(images, labels, settings, np.dtype(np.float32))
    there = augment.CudaImageStore(images, labels, settings, np.dtype(np.float32), 0)
    order = np.tile(rng.permutation(40), 3)  # longer than the data set
    for store in (here, there):
        store.begin(order, 1, 2, 0)
    augment._MOST_BLOCKS, before = 7, augment._MOST_BLOCKS
    try:
        x, _ = there.fetch(120)
    finally:
        augment._MOST_BLOCKS = before
    np.testing.assert_array_equal(x.get(), here.fetch(120)[0])


def test_too_many_channels_are_refused(gpu):
    from allgrad.backend.cuda.augment import CudaImageStore

    images, labels = np.zeros((1, 2, 2, 50), np.uint8), np.zeros(1, np.int64)
    with pytest.raises(ShapeError, match="50 channels: expected at most 47"):
        CudaImageStore(images, labels, Augmentation(), np.dtype(np.float32), 0)
