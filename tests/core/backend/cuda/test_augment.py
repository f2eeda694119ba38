"""Batches of images on a GPU are those of the CPU, also where the step is captured."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad.vision import DeviceLoader

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23)
SETTINGS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "seed": 3}


def both(**settings):
    pair = (PIXELS, LABELS)
    return [DeviceLoader(pair, 4, device=d, **SETTINGS, **settings) for d in ("cpu", "cuda")]


LOOKS = (
    {},
    {"crop_padding": 2, "flip": "random", "cutout": 3, "pad_channels": True},
    {"crop_padding": 1, "padding_mode": "reflect", "flip": "alternate", "dtype": ag.float16},
    {"dtype": ag.bfloat16, "num_replicas": 2, "rank": 1, "drop_last": True},
)


@pytest.mark.parametrize("look", LOOKS)
def test_as_on_the_cpu(gpu, look):
    here, there = both(**look)
    for _ in range(2):
        batches = list(zip(here, there, strict=True))
        assert len(batches) == len(here)
        for (x, y), (u, v) in batches:
            assert u.is_cuda
            assert u.dtype is x.dtype
            assert u._array.strides == x._array.strides
            got, want = u.cpu().float().numpy(), x.float().numpy()
            np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-6)
            assert v.tolist() == y.tolist()


def test_a_captured_step_fetches_its_own_batch(gpu):
    from allgrad.backend.cuda import device

    here, there = both(crop_padding=1, drop_last=True)
    there.begin_epoch()
    record, pool = device.Capture(), gpu.cuda.MemoryPool()
    with gpu.cuda.using_allocator(pool.malloc):
        device.begin_capture(record)
        device.stream().begin_capture()
        x, y = there.next_batch()
        graph = device.stream().end_capture()
        device.end_capture()
    for epoch in range(2):
        if epoch:
            assert there.begin_epoch() == 5
        for want, labels in here:
            graph.launch(device.stream())
            np.testing.assert_allclose(x.cpu().numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
            assert y.tolist() == labels.tolist()
