"""Images in the memory of the device on several ranks: checkpoints, and epochs that end apart."""

from __future__ import annotations

import numpy as np
import pytest
from support.checkpoints import on_ranks

from allgrad import ddp, nn, optim
from allgrad.vision import DeviceLoader

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (31, 4, 4, 3), np.uint8), np.arange(31)
LOOK = {"crop_padding": 1, "flip": "random", "device": "cpu", "seed": 5}


def loader(batch_size=3, sharded=False):
    """With the share of this rank."""
    if not sharded:
        return DeviceLoader((IMAGES, LABELS), batch_size, pad=False, **LOOK)
    batches = ddp.ShardedBatchSampler(IMAGES, 8, 4, seed=5)
    return DeviceLoader((IMAGES, LABELS), batch_sampler=batches, **LOOK)


def shown(batches):
    """{label: image} of all batches; each label once."""
    found = {}
    for x, y in batches:
        for image, label in zip(x.numpy(), y.tolist(), strict=True):
            assert label not in found
            found[label] = image.tobytes()
    return found


@pytest.mark.parametrize("sharded", [False, True])
def test_a_checkpoint_in_mid_epoch_is_taken_up_by_any_number_of_ranks(tmp_path, sharded):
    """No sample is lost or repeated, and each looks as it does in an epoch of one rank."""

    def begin(rank):
        batches = loader(sharded=sharded)
        with ddp.CheckpointManager(tmp_path) as manager:
            seen = [batches.next_batch() for _ in range(2)]
            manager.save(step=2, loader=batches)
        return shown(seen)

    def go_on(rank):
        batches = loader(sharded=sharded)
        assert ddp.CheckpointManager(tmp_path).load_latest(loader=batches).step == 2
        return shown(batches)

    whole = on_ranks(1, lambda rank: shown(loader(sharded=sharded)))[0]
    assert sorted(whole) == list(range(31))
    started = on_ranks(2, begin)
    for ranks in (1, 2, 3):
        parts = [*started, *on_ranks(ranks, go_on)]
        assert sum(map(len, parts)) == 31
        assert {label: image for part in parts for label, image in part.items()} == whole


@pytest.mark.parametrize("ask", ["iter", "next_batch"])
def test_ranks_with_a_batch_less_wait_for_the_others(ask):
    """31 images on 2 ranks in batches of 5 are 4 and 3 batches; replicas stay the same."""

    def body(rank):
        model = ddp.DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(48, 31)))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        batches, labels = loader(5), []
        assert len(batches) == 4 - rank
        for _ in range(2):
            source = iter(batches) if ask == "iter" else None
            for _ in range(4 - rank):
                x, y = batches.next_batch() if source is None else next(source)
                labels += y.tolist()
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            if source is not None:
                assert next(source, None) is None
        if source is None:
            batches.begin_epoch()
        ddp.barrier()
        return labels, ddp.fingerprint(model, optimizer, check=True)

    (first, a), (second, b) = on_ranks(2, body)
    assert a == b
    assert sorted(first + second) == sorted([*range(31)] * 2)
