"""Checkpoints of all ranks: saved together, resumed from the newest generation that all have."""

from __future__ import annotations

import logging
import shutil
import threading
from itertools import chain

import numpy as np
import pytest
from support.checkpoints import files, latest, model_with, on_ranks, save_some, value_of

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import ddp, nn, optim
from allgrad.checkpoint import CheckpointManager
from allgrad.ddp import checkpoint as module
from allgrad.errors import CheckpointError
from allgrad.utils.data import DataLoader, TensorDataset

# ---- resuming --------------------------------------------------------------------------------


def samples_of_epoch(folder, plan, shuffle=True, pad=False, drop_last=False):
    """Train one epoch in stretches of (ranks, batch size, steps); indices by global step."""
    data = TensorDataset(ag.arange(61))
    seen = []

    def stretch(batch_size, steps):
        def train(rank):
            sampler = ddp.DistributedSampler(
                data, shuffle=shuffle, seed=5, pad=pad, drop_last=drop_last
            )
            loader = DataLoader(data, batch_size, sampler=sampler)
            manager = ddp.CheckpointManager(folder)
            manager.load_latest(loader=loader)
            batches = []
            for (batch,) in loader:
                batches.append(batch.tolist())
                if len(batches) == steps:
                    manager.save(step=len(seen) + steps, loader=loader)
                    break
            return batches

        return train

    for ranks, batch_size, steps in plan:
        per_rank = on_ranks(ranks, stretch(batch_size, steps))
        for step in range(max(map(len, per_rank))):
            batches = [rows[step] if step < len(rows) else [] for rows in per_rank]
            # sample k of a rank comes before sample k + 1 of any other
            width = max(map(len, batches))
            seen.append([b[i] for i in range(width) for b in batches if i < len(b)])
    return seen


@pytest.mark.parametrize("shuffle", [True, False])
def test_resume_at_other_numbers_of_ranks_keeps_the_order(tmp_path, shuffle):
    whole = samples_of_epoch(tmp_path / "a", [(4, 3, None)], shuffle)
    parts = samples_of_epoch(tmp_path / "b", [(4, 3, 2), (2, 6, 1), (3, 4, None)], shuffle)
    assert parts == whole  # the same samples in the same steps
    assert sorted(chain(*parts)) == list(range(61))


def test_another_number_of_ranks_sees_every_sample_once(tmp_path):
    plan = [(4, 2, 3), (2, 5, 2), (3, 1, 1), (1, 3, None)]
    parts = samples_of_epoch(tmp_path, plan)
    assert sorted(chain(*parts)) == list(range(61))
    whole = samples_of_epoch(tmp_path / "whole", [(1, 4, None)])
    assert list(chain(*parts)) == list(chain(*whole))


def train(folder, steps, size, stop=None, **saving):
    """Four epochs of a network with dropout; what every rank ends with."""
    rng = np.random.default_rng(0)
    data = TensorDataset(
        ag.from_numpy(rng.standard_normal((40, 6)).astype(np.float32)),
        ag.from_numpy(rng.integers(0, 3, 40)),
    )

    def run(rank):
        ag.manual_seed(3)
        loader = DataLoader(data, 5, sampler=ddp.DistributedSampler(data, seed=1))
        network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
        model = ddp.DistributedDataParallel(network)
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        scheduler = optim.lr_scheduler.StepLR(optimizer, 3)
        ag.manual_seed(10 + rank)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
        with ddp.CheckpointManager(folder) as manager:
            found = manager.load_latest(**parts)
            epoch, step = (found.epoch, found.step) if found else (0, 0)
            while step < steps:
                for x, y in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    scheduler.step()
                    step += 1
                    if step == stop:
                        manager.save(step=step, epoch=epoch, **parts, **saving)
                    if step in (stop, steps):
                        break
                else:
                    epoch += 1
                if step == stop:
                    break
        weights = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
        return weights, ag.rand(3).tolist()

    return on_ranks(size, run)


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("stop", [2, 4, 7])
def test_resumed_job_ends_with_the_same_bits(tmp_path, stop, async_save):
    whole = train(tmp_path / "whole", 14, 2)
    train(tmp_path / "cut", 14, 2, stop=stop, async_save=async_save)
    resumed = train(tmp_path / "cut", 14, 2)
    assert resumed == whole
    assert resumed[0][1] != resumed[1][1]  # random numbers of their own


def test_what_a_program_of_one_rank_wrote_is_read_by_several(tmp_path):
    data = TensorDataset(ag.arange(10))
    CheckpointManager(tmp_path).save(step=4, model=model_with(4), loader=DataLoader(data))

    def load(rank):
        model, loader = model_with(0), DataLoader(data)
        return ddp.CheckpointManager(tmp_path).load_latest(model=model, loader=loader).step

    assert on_ranks(2, load) == [4, 4]


def test_per_rank_parts(tmp_path):
    def save(rank):
        noise = ag.Generator().manual_seed(rank)
        own = model_with(rank)
        manager = ddp.CheckpointManager(tmp_path)
        manager.save(step=1, noise=noise, per_rank={"own": own}, model=model_with(9))
        expected = ag.rand(3, generator=noise).tolist()
        again, own, model = ag.Generator(), model_with(-1), model_with(-1)
        manager.load_latest(noise=again, per_rank={"own": own}, model=model)
        assert ag.rand(3, generator=again).tolist() == expected
        return value_of(own), value_of(model)

    assert on_ranks(2, save) == [(0.0, 9.0), (1.0, 9.0)]


def test_a_sharded_optimizer_is_brought_together(tmp_path):
    def steps(ranks, first, last):
        def run(rank):
            ag.manual_seed(4)
            model = ddp.DistributedDataParallel(nn.Linear(5, 3))
            optimizer = ddp.ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
            manager = ddp.CheckpointManager(tmp_path)
            found = manager.load_latest(model=model, optimizer=optimizer)
            assert (found.step if found else 0) == first
            for step in range(first, last):
                optimizer.zero_grad()
                model(ag.full((2, 5), step + 1.0)).square().sum().backward()
                optimizer.step()
            manager.save(step=last, model=model, optimizer=optimizer)
            return [parameter.tolist() for parameter in model.parameters()]

        return on_ranks(ranks, run)

    steps(2, 0, 3)
    resumed = steps(2, 3, 5)
    for path in tmp_path.iterdir():
        path.unlink()
    assert steps(2, 0, 5) == resumed
    steps(3, 5, 6)


# ---- generations -----------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "extended": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("which", ["manifest", "tensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_generation_is_named_and_the_one_before_is_used(tmp_path, caplog, damage, which):
    save_some(tmp_path)
    manifest, tensors = sorted(files(tmp_path, 3), key=lambda path: path.suffix)
    DAMAGES[damage]({"manifest": manifest, "tensors": tensors}[which])
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == (2, 2.0)
    if (damage, which) != ("removed", "manifest"):  # of that nothing is left to be named
        messages = [r.getMessage() for r in caplog.records if "00000003" in r.getMessage()]
        assert len(messages) == 1  # by one rank, not by all
        assert "taking that of step 2" in messages[0]


def test_a_manifest_under_another_name_or_of_other_tensors_is_refused(tmp_path, caplog):
    save_some(tmp_path, (1, 2, 3, 4), keep=4)
    manifests = {step: tmp_path / f"checkpoint-{step:08d}.json" for step in (1, 2, 3, 4)}
    shutil.copy(manifests[1], manifests[4])  # an old one under the newest name
    (third,) = tmp_path.glob("checkpoint-00000003-*.safetensors")
    (second,) = tmp_path.glob("checkpoint-00000002-*.safetensors")
    data = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(data)  # swapped
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == (1, 1.0)
    text = caplog.text
    assert "which was written as checkpoint-00000001.json" in text
    assert str(second) in text
    assert str(third) in text


def test_all_damaged_is_an_error_on_all_ranks(tmp_path):
    save_some(tmp_path, (1, 2))
    for path in tmp_path.glob("*.safetensors"):
        flip(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole on all ranks"):
        latest(tmp_path)


def test_nothing_there(tmp_path):
    assert latest(tmp_path / "none") is None


def test_damaged_ones_do_not_count_among_those_kept(tmp_path):
    save_some(tmp_path, (1, 2, 3), keep=2)
    flip(*tmp_path.glob("checkpoint-00000003-*.safetensors"))

    def go_on(rank):
        manager = ddp.CheckpointManager(tmp_path, keep=2)
        assert manager.load_latest(model=model_with(0)).step == 2
        manager.save(step=4, model=model_with(4))
        return manager.steps()

    assert on_ranks(2, go_on) == [[2, 4], [2, 4]]


@pytest.fixture
def own_disks(tmp_path, monkeypatch):
    """Each rank has a folder of its own, as on hosts with disks of their own."""
    monkeypatch.setattr(module, "identity_of", lambda folder: (folder.mkdir(exist_ok=True), folder))
    return lambda rank: tmp_path / f"host{rank}"


def test_hosts_with_disks_of_their_own_agree(own_disks, caplog):
    save_some(own_disks, size=3)
    assert all(len(files(own_disks(rank), 3)) == 2 for rank in range(3))
    assert not list(own_disks(0).glob(".rank*"))
    assert latest(own_disks, 3) == (3, 3.0)
    flip(*own_disks(1).glob("checkpoint-00000003-*.safetensors"))
    for path in files(own_disks(2), 2):
        path.unlink()
    assert latest(own_disks, 3) == (1, 1.0)
    assert "rank 2/3] has no checkpoint of step 2" in caplog.text


def test_a_replaced_host_gets_the_checkpoint_from_another(own_disks, caplog):
    save_some(own_disks, size=3)
    shutil.rmtree(own_disks(1))
    assert latest(own_disks, 3) == (3, 3.0)
    assert "holds no checkpoint; taken from rank 0" in caplog.text


def test_hosts_that_share_a_folder_have_one_writer(tmp_path, monkeypatch):
    host = threading.local()
    monkeypatch.setattr(module, "identity_of", lambda folder: host.name)

    def writers(rank):
        host.name = f"host{rank // 2}"
        return ddp.CheckpointManager(tmp_path)._find_writers()

    assert on_ranks(4, writers) == [[0]] * 4
    assert not list(tmp_path.iterdir())
