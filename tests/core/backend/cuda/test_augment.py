"""Images on a GPU: the kernel writes the bits that its twin writes, eager and in captured steps."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

import allgrad as ag
from allgrad.backend.images import Augmentation, ImageStore
from allgrad.errors import DeviceError, ShapeError
from allgrad.vision import DeviceLoader

TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
SETTINGS = {
    "plain": {},
    "cifar": {"padding": 4, "flip": "random", "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.3, 0.25)},
    "speed": {"padding": 2, "padding_mode": "reflect", "flip": "alternate", "channels": 8},
    "cut out": {"size": (7, 5), "cutout": 3, "padding": 1, "channels": 5},
}


def stored(rng, shape=(12, 9, 8, 3)):
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, shape[0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_main_memory(gpu, rng, name, dtype):
    from allgrad.backend.cuda.augment import CudaImageStore

    images, labels = stored(rng)
    settings = Augmentation(**SETTINGS[name])
    by_place = name == "cut out"
    here = ImageStore(images, labels, settings, np.dtype(dtype), by_place)
    there = CudaImageStore(images, labels, settings, np.dtype(dtype), 0, by_place)
    for epoch in (0, 1):
        order = rng.permutation(12)
        for store in (here, there):
            store.begin(order, 2**63 + 5, epoch, 2**33)
        for count in (5, 1, 6):
            (x, y), (want, classes) = there.fetch(count), here.fetch(count)
            assert x.strides == want.strides
            assert x.dtype == want.dtype == dtype
            np.testing.assert_array_equal(x.get(), want)
            assert y.get().tolist() == classes.tolist()
            assert want.astype(np.float32).std() > 0.1


def test_more_images_than_blocks_and_grey_ones(gpu, rng, monkeypatch):
    from allgrad.backend.cuda import augment

    images, labels = stored(rng, (40, 5, 5, 1))
    settings = Augmentation(padding=1, flip="random", cutout=2)
    here = ImageStore(images, labels, settings, np.dtype(np.float32))
    there = augment.CudaImageStore(images, labels, settings, np.dtype(np.float32), 0)
    order = np.tile(rng.permutation(40), 3)  # longer than the data set
    for store in (here, there):
        store.begin(order, 1, 2)
    monkeypatch.setattr(augment, "_MOST_BLOCKS", 7)
    np.testing.assert_array_equal(there.fetch(120)[0].get(), here.fetch(120)[0])


def test_too_many_channels_are_refused(gpu):
    from allgrad.backend.cuda.augment import CudaImageStore

    images, labels = np.zeros((1, 2, 2, 50), np.uint8), np.zeros(1, np.int64)
    with pytest.raises(ShapeError, match="50 channels: expected at most 47"):
        CudaImageStore(images, labels, Augmentation(), np.dtype(np.float32), 0)


# -- the loader ------------------------------------------------------------------------------------
LOOK = {"crop_padding": 1, "flip": "alternate", "cutout": 2, "seed": 3}


def loaders(rng, size=23, **settings):
    """The same loader in main memory and on the GPU, where it shares the memory of tensors."""
    images, labels = rng.integers(0, 256, (size, 6, 5, 3), np.uint8), np.arange(size)
    tensors = (ag.tensor(images).cuda(), ag.tensor(labels).cuda())
    here = DeviceLoader((images, labels), 4, device="cpu", **LOOK, **settings)
    there = DeviceLoader(tensors, 4, device="cuda", **LOOK, **settings)
    assert there._store._images.data.ptr == tensors[0]._array.data.ptr
    return here, there


def same(got, want):
    (x, y), (u, v) = got, want
    assert x.is_cuda
    np.testing.assert_array_equal(x.cpu().numpy(), u.numpy())
    assert y.tolist() == v.tolist()


def test_the_loader_gives_the_batches_of_the_cpu(gpu, rng):
    here, there = loaders(rng, pad_channels=True)
    for _ in range(2):
        batches = list(zip(there, here, strict=True))
        assert len(batches) == 6
        for got, want in batches:
            same(got, want)


def test_captured_steps_get_the_batches_of_eager_ones(gpu, rng):
    """Over more than two epochs, with a resume and a change of epochs by hand on the way."""
    here, there = loaders(rng, drop_last=True)
    step = ag.cuda.capture(there.next_batch, warmup=2)
    for _ in range(13):
        same(step(), here.next_batch())
    assert (step.eager_calls, step.replays) == (2, 11)
    saved = there.state_dict()
    assert saved == here.state_dict()
    assert (saved["epoch"], saved["batches"]) == (2, 3)
    following = [here.next_batch() for _ in range(4)]
    for _ in range(2):
        there.load_state_dict(saved)
        for want in following:
            same(step(), want)
    for loader in (here, there):
        loader.set_epoch(9)
        assert loader.begin_epoch() == 5
    same(step(), here.next_batch())
    assert (step.eager_calls, step.replays) == (2, 20)


def test_two_batches_in_a_step(gpu, rng):
    here, there = loaders(rng, size=24, drop_last=True)
    step = ag.cuda.capture(lambda: (there.next_batch(), there.next_batch()), warmup=1)
    for _ in range(7):
        for got in step():
            same(got, here.next_batch())
    assert step.replays == 6


def test_a_graph_keeps_the_images_alive(gpu, rng):
    here, there = loaders(rng, size=24)
    same(there.next_batch(), here.next_batch())
    graph = ag.cuda.CUDAGraph()
    with ag.cuda.graph(graph):
        got = there.next_batch()
    del there
    gc.collect()
    for _ in range(7):
        graph.replay()
        same(got, here.next_batch())


def test_steps_that_no_batch_fits(gpu, rng):
    _, uneven = loaders(rng)
    step = ag.cuda.capture(uneven.next_batch, warmup=1)
    step()
    with pytest.raises(DeviceError, match=r"some of \[3, 4\] images; use drop_last=True"):
        step()
    assert uneven.next_batch()[1].shape == (4,)
    here, there = loaders(rng, drop_last=True)
    step = ag.cuda.capture(lambda: (there.next_batch(), there.next_batch()), warmup=1)
    for _ in range(2):
        for got in step():
            same(got, here.next_batch())
    with pytest.raises(DeviceError, match=r"of \[4, 4\] images, but the epoch goes on with \[4\]"):
        step()
    same(there.next_batch(), here.next_batch())  # nothing was lost
