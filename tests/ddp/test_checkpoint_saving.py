"""Saving beside the training: what a save holds, disks that fail, and what is refused."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading

import pytest
from support.checkpoints import model_with, on_ranks, value_of

import allgrad as ag
from allgrad import ddp
from allgrad.checkpoint import CheckpointManager, capture_state
from allgrad.errors import CheckpointError, CheckpointWriteError, OptionError

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
