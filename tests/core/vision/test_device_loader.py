"""Batches from a data set in the memory of the device: on the CPU, where its twin makes them."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp import ShardedBatchSampler
from allgrad.errors import DatasetError, OptionError, ShapeError
from allgrad.utils.data import DataLoader, DistributedSampler, RandomSampler, WeightedRandomSampler
from allgrad.utils.data.progress import take_hand_outs
from allgrad.vision import DeviceLoader

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23)
LOOK = {"crop_padding": 2, "flip": "random", "cutout": 2, "mean": (0.5,) * 3}


def loader(**settings):
    return DeviceLoader((PIXELS, LABELS), 4, device="cpu", **settings)


def labels_of(batches):
    return [y.tolist() for _, y in batches]


def test_plain_images_are_normalised_and_padded():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain = loader(shuffle=False, mean=mean, std=std, pad_channels=True)
    x, y = next(iter(plain))
    assert tuple(x.shape) == (4, 8, 6, 5)
    assert x.is_contiguous(memory_format=ag.channels_last)
    want = (PIXELS[:4].transpose(0, 3, 1, 2) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(
        std, (3, 1, 1)
    )
    np.testing.assert_allclose(x.numpy()[:, :3], want, atol=1e-5)
    assert not x.numpy()[:, 3:].any()
    assert y.tolist() == [0, 1, 2, 3]
    assert y.dtype is ag.int64


@pytest.mark.parametrize("ranks", [1, 3])
def test_samples_are_those_of_the_sampler(ranks):
    for rank in range(ranks):
        mine = loader(num_replicas=ranks, rank=rank, seed=5)
        sampler = DistributedSampler(range(23), ranks, rank, seed=5)
        for _ in range(2):
            want = list(sampler)
            assert len(mine) == -(-len(want) // 4)
            assert [label for batch in labels_of(mine) for label in batch] == want
    mine = loader(drop_last=True, seed=5)
    assert len(mine) == 5
    mine.set_epoch(1)
    again = labels_of(mine)
    state = mine.state_dict()
    mine.set_epoch(1)
    assert labels_of(mine) == again
    following = labels_of(mine)
    other = loader(drop_last=True, seed=9)
    other.load_state_dict(state)
    assert labels_of(other) == following


def shifts_of(x, image, pad, mode):
    """(row, column, mirrored) of every crop of the padded image that is `x`."""
    width = ((pad, pad), (pad, pad), (0, 0))
    padded = np.pad(image, width, "reflect" if mode == "reflect" else "constant")
    found = []
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[row : row + 6, column : column + 5]
            views = (crop, crop[:, ::-1])
            found += [(row, column, m) for m in (0, 1) if np.array_equal(x, views[m])]
    return found


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crops_and_flips(mode):
    augmented = loader(shuffle=False, crop_padding=2, padding_mode=mode, flip="random")
    seen = set()
    for epoch in range(4):
        for number, (x, _) in enumerate(augmented):
            pictures = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
            for k, picture in enumerate(pictures):
                places = shifts_of(picture, PIXELS[4 * number + k], 2, mode)
                assert places, (epoch, number, k)
                seen.add(places[0])
    assert {p[2] for p in seen} == {0, 1}
    assert {p[0] for p in seen} == {p[1] for p in seen} == {0, 1, 2, 3, 4}


def test_alternate_flips_and_cutout():
    flips = []
    alternating = loader(shuffle=False, flip="alternate")
    for _ in range(2):
        x = np.concatenate([x.numpy() for x, _ in alternating])
        flips.append([np.allclose(a, b) for a, b in zip(x, PIXELS.transpose(0, 3, 1, 2) / 255)])  # noqa: B905
    assert 4 < sum(flips[0]) < 19
    assert [a != b for a, b in zip(*flips, strict=True)] == [True] * 23
    holes = loader(shuffle=False, cutout=2, mean=(2.0,) * 3)
    for x, _ in holes:
        counts = (x.numpy() == 0).all(axis=1).sum(axis=(1, 2))
        assert ((counts >= 1) & (counts <= 4)).all()


SAMPLERS = {
    "own": lambda: loader(seed=5, **LOOK),
    "random": lambda: DeviceLoader(
        (PIXELS, LABELS), 4, device="cpu", sampler=RandomSampler(PIXELS), drop_last=True, **LOOK
    ),
    "replacement": lambda: DeviceLoader(
        (PIXELS, LABELS),
        4,
        device="cpu",
        sampler=WeightedRandomSampler([1.0] * 23, 24),
        **LOOK,
    ),
    "distributed": lambda: loader(sampler=DistributedSampler(PIXELS, 2, 1, seed=4), **LOOK),
    "shards": lambda: DeviceLoader(
        (PIXELS, LABELS),
        device="cpu",
        batch_sampler=ShardedBatchSampler(PIXELS, 8, 4, 2, 1),
        **LOOK,
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_resuming_loses_nothing(name):
    """Each batch of two epochs is what is left after a state is loaded, by either way to ask."""
    ag.manual_seed(1)
    whole, states, want = SAMPLERS[name](), [], []
    for _ in range(2):
        for x, y in whole:
            want.append((x.numpy(), y.tolist()))
            states.append(json.loads(json.dumps(whole.state_dict())))
    assert len(want) % 2 == 0
    for done in (1, len(want) // 2 - 1, len(want) // 2 + 1):
        for ask in ("iter", "next_batch"):
            resumed = SAMPLERS[name]()
            resumed.load_state_dict(states[done - 1])
            assert resumed.state_dict() == states[done - 1]
            count = (len(want) - done) % (len(want) // 2)
            rest = list(resumed) if ask == "iter" else [resumed.next_batch() for _ in range(count)]
            assert len(rest) == count
            for (x, y), (u, v) in zip(rest, want[done:], strict=False):
                np.testing.assert_array_equal(x.numpy(), u)
                assert y.tolist() == v


def test_resuming_on_other_ranks():
    """One rank's place is taken up by two: every sample once, each looking as it would have."""
    alone = loader(seed=5, shuffle=True, **LOOK)
    shown = {y: x for batch in alone for x, y in zip(batch[0].numpy(), batch[1].tolist())}  # noqa: B905
    alone = loader(seed=5, **LOOK)
    started = iter(alone)
    seen = [y for _ in range(3) for y in next(started)[1].tolist()]
    for rank in range(2):
        part = loader(num_replicas=2, rank=rank, seed=5, pad=False, **LOOK)
        part.load_state_dict(alone.state_dict())
        for x, y in part:
            seen += y.tolist()
            for image, label in zip(x.numpy(), y.tolist(), strict=True):
                np.testing.assert_array_equal(image, shown[label])
    assert sorted(seen) == list(range(23))


def test_batches_and_epochs_of_samplers_are_those_of_a_data_loader():
    for given in (
        {"batch_size": 4, "sampler": DistributedSampler(PIXELS, 2, 1, seed=4)},
        {"batch_sampler": ShardedBatchSampler(PIXELS, 8, 4, 2, 0)},
    ):
        ours, plain = DeviceLoader((PIXELS, LABELS), device="cpu", **given), DataLoader(
            LABELS, **copy.deepcopy(given)
        )  # fmt: skip
        assert len(ours) == len(plain)
        for _ in range(2):
            assert labels_of(ours) == [y.tolist() for y in plain]


def test_data_parallelism_hears_when_an_epoch_ends():
    take_hand_outs()
    short = loader(num_replicas=2, rank=0)
    batches = short.begin_epoch()
    for _ in range(batches):
        short.next_batch()
    (epoch,) = take_hand_outs()
    assert (epoch.finished, epoch.batches) == (False, batches)
    short.next_batch()
    assert epoch.finished
    list(short)
    assert [e.finished for e in take_hand_outs()] == [False, True]
    empty = loader(sampler=[])
    assert list(empty) == []
    assert [(e.finished, e.batches) for e in take_hand_outs()] == [(True, 0)]


def test_what_does_not_fit():
    with pytest.raises(DatasetError, match="`data` and `targets`"):
        DeviceLoader([1, 2], 2, device="cpu")
    with pytest.raises(DatasetError, match="uint8"):
        DeviceLoader((PIXELS.astype(float), LABELS), 2, device="cpu")
    with pytest.raises(OptionError, match="known"):
        loader(flip="sometimes")
    with pytest.raises(ShapeError, match="reflecting 5 pixels"):
        loader(crop_padding=5, padding_mode="reflect")
    with pytest.raises(ShapeError, match="one mean, or 3"):
        loader(mean=(0.5, 0.5))
    with pytest.raises(OptionError, match="float32, float16 or bfloat16"):
        loader(dtype=ag.float64)
    with pytest.raises(OptionError, match="batch_size or a batch_sampler"):
        DeviceLoader((PIXELS, LABELS), device="cpu")
    with pytest.raises(OptionError, match="replaces shuffle"):
        loader(sampler=range(3), shuffle=True)
    with pytest.raises(OptionError, match="list has no set_epoch"):
        loader(sampler=[3, 4]).set_epoch(1)
    with pytest.raises(DatasetError, match="epoch of 0 batches"):
        loader(sampler=[]).next_batch()
    other = loader()
    first = iter(other)
    next(first)
    iter(other)
    with pytest.raises(DatasetError, match="another epoch has begun"):
        next(first)
