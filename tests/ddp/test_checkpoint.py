"""Checkpoints of all ranks: saved together, resumed from the newest generation that all have."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import ddp, nn, optim
from allgrad.checkpoint import CheckpointManager, capture_state
from allgrad.ddp import checkpoint as module
from allgrad.errors import CheckpointError, CheckpointWriteError, OptionError
from allgrad.utils.data import DataLoader, TensorDataset


def on_ranks(size, function):
    """Results of `function(rank)` on `size` ranks that are threads."""

    def rank():
        ddp.init_process_group()
        try:
            return function(ddp.get_rank())
        finally:
            if sys.exc_info()[0] is None:
                ddp.destroy_process_group()

    return ddp.run_ranks(rank, size)


def model_with(value):
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    return model


def value_of(model):
    (value,) = {float(v) for p in model.parameters() for v in p.detach().numpy().ravel()}
    return value


def save_some(folder, steps=(1, 2, 3), size=2, **options):
    def save(rank):
        with ddp.CheckpointManager(where(folder, rank), **options) as manager:
            for step in steps:
                assert manager.save(step=step, epoch=step // 2, model=model_with(step)).wait()

    on_ranks(size, save)


def where(folder, rank):
    """A folder for all ranks, or one for each."""
    return folder(rank) if callable(folder) else folder


def latest(folder, size=2):
    def load(rank):
        model = model_with(-1)
        found = ddp.CheckpointManager(where(folder, rank)).load_latest(model=model)
        return None if found is None else (found.step, value_of(model))

    (result,) = set(on_ranks(size, load))
    return result


def files(folder, step):
    return sorted(Path(folder).glob(f"checkpoint-{step:08d}*"))


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


# ---- asynchronous saves ----------------------------------------------------------------------


def test_the_state_is_that_of_the_call(tmp_path):
    def save(rank):
        manager = ddp.CheckpointManager(tmp_path, keep=10)
        model = model_with(0)
        for step in range(1, 6):
            for parameter in model.parameters():
                parameter.data.fill_(step)
            saving = manager.async_save(step=step, model=model)
            for parameter in model.parameters():
                parameter.data.fill_(-7)
        assert saving.wait()
        assert saving.done()
        for step in range(1, 6):
            manager._mine.load(step, model=model, random_state=False)
            assert value_of(model) == step
        manager.close()

    on_ranks(2, save)


def test_one_save_at_a_time_and_the_caller_does_not_wait(tmp_path, monkeypatch):
    gate, entered = threading.Event(), threading.Event()
    real = CheckpointManager.write

    def slow(self, *arguments, **named):
        entered.set()
        assert gate.wait(30)
        return real(self, *arguments, **named)

    monkeypatch.setattr(CheckpointManager, "write", slow)

    def save(rank):
        manager = ddp.CheckpointManager(tmp_path)
        first = manager.async_save(step=1, model=model_with(1))
        if rank == 0:
            assert entered.wait(30)
            assert not first.done()  # it is written while we are here
            threading.Timer(0.2, gate.set).start()
        manager.async_save(step=2, model=model_with(2))
        assert first.done()
        assert first.wait()
        manager.close()
        return manager.steps()

    assert on_ranks(2, save) == [[1, 2], [1, 2]]


PROGRAM = """
import sys
from allgrad import ddp, nn
ddp.init_process_group()
manager = ddp.CheckpointManager(sys.argv[1])
manager.save(step=1, model=nn.Linear(2000, 1000), async_save=True)
"""


def test_a_program_that_ends_finishes_its_save(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], check=True, timeout=60)
    assert CheckpointManager(tmp_path).load_latest().step == 1


# ---- disks that are full or read-only --------------------------------------------------------


@pytest.fixture
def broken_disk(monkeypatch):
    """`broken_disk.code` makes every write fail."""
    real = os.write

    class Disk:
        code = 0

    def write(descriptor, data):
        if Disk.code and threading.current_thread() is not threading.main_thread():
            raise OSError(Disk.code, os.strerror(Disk.code))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    return Disk


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_training_goes_on_when_a_save_fails(tmp_path, broken_disk, caplog, code, async_save):
    def save(rank):
        manager = ddp.CheckpointManager(tmp_path)
        assert manager.save(step=1, model=model_with(1), async_save=async_save).wait()
        ddp.barrier()
        broken_disk.code = code
        ddp.barrier()
        assert not manager.save(step=2, model=model_with(2), async_save=async_save).wait()
        assert manager.steps() == [1]
        ddp.barrier()
        broken_disk.code = 0
        ddp.barrier()
        assert manager.save(step=3, model=model_with(3), async_save=async_save).wait()
        manager.close()
        return manager.steps()

    assert on_ranks(2, save) == [[1, 3], [1, 3]]
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert message.startswith("checkpoint of step 2 was not written; the training goes on")
    assert os.strerror(code) in message


def test_the_last_save_must_succeed(tmp_path, broken_disk):
    def save(rank):
        with ddp.CheckpointManager(tmp_path) as manager:
            broken_disk.code = errno.ENOSPC
            manager.save(step=2, model=model_with(2), async_save=True)

    with pytest.raises(CheckpointWriteError, match="last checkpoint was not written"):
        on_ranks(2, save)


def test_raise_raises_on_all_ranks(tmp_path, broken_disk):
    def save(rank):
        manager = ddp.CheckpointManager(tmp_path, on_error="raise")
        broken_disk.code = errno.ENOSPC
        saving = manager.save(step=2, model=model_with(2), async_save=True)
        with pytest.raises(CheckpointWriteError, match="no space to write") as caught:
            saving.wait()
        manager.close()
        return "step 2" in str(caught.value)

    assert on_ranks(2, save) == [True, True]


SMALL_DISK = """
import subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", folder], check=True)
from allgrad import ddp, nn
from allgrad.checkpoint import CheckpointManager
ddp.init_process_group()
manager = ddp.CheckpointManager(folder, keep=1)
good = [manager.save(step=1, model=nn.Linear(100, 100)).wait()]
good += [manager.save(step=2, model=nn.Linear(100, 200), async_save=True).wait()]
good += [manager.save(step=3, model=nn.Linear(10, 10)).wait()]
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
good += [manager.save(step=4, model=nn.Linear(10, 10)).wait()]
print(good, manager.steps(), manager.load_latest(model=nn.Linear(10, 10)).step)
"""


def test_a_full_and_a_read_only_disk(tmp_path):
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    try:
        refused = subprocess.run(
            probe, capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except FileNotFoundError:
        refused = "there is no unshare"
    if refused:
        pytest.skip(f"cannot mount a small disk: {refused}")
    job = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", SMALL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert job.stdout == "[True, False, True, False] [3] 3\n", job
    assert "no space to write" in job.stderr
    assert "Read-only file system" in job.stderr


# ---- refusals --------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_refused_on_all_ranks(tmp_path):
    def refuse(rank):
        manager = ddp.CheckpointManager(tmp_path)
        with pytest.raises(CheckpointError, match=r"rank 0: part 'number'"):
            manager.save(step=1, number=3)
        with pytest.raises(CheckpointError, match=r"rank 0: values=.* must be JSON"):
            manager.save(step=1, values={"x": float("nan")} if rank == 0 else None)
        with pytest.raises(CheckpointError, match=r"rank 1: part 'own'"):
            manager.save(step=1, per_rank={"own": model_with(1) if rank == 0 else 3})
        with pytest.raises(CheckpointError, match="given twice"):
            manager.save(step=1, model=model_with(1), per_rank={"model": model_with(1)})

        class Odd:
            def state_dict(self):
                return {"x": object()}

        with pytest.raises(CheckpointError, match=r"step 1 was not written.*came object"):
            manager.save(step=1, odd=Odd())
        with pytest.raises(OptionError, match="unknown on_error 'ignore'"):
            ddp.CheckpointManager(tmp_path, on_error="ignore")
        return manager.steps()

    assert on_ranks(2, refuse) == [[], []]


def test_state_has_the_ranks_parts(tmp_path):
    def save(rank):
        ag.manual_seed(rank)
        ddp.CheckpointManager(tmp_path).save(step=1, model=model_with(1))
        return capture_state()["random_state"].tolist()

    states = on_ranks(2, save)
    found = CheckpointManager(tmp_path).load_latest().per_rank
    assert [found[str(r)]["random_state"].tolist() for r in (0, 1)] == states
