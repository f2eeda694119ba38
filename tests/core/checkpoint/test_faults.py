"""Crashes, full disks and flipped bits: a good checkpoint always loads, a bad one never does."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from allgrad import nn
from allgrad.checkpoint import CheckpointManager, load_checkpoint, save_checkpoint
from allgrad.errors import CheckpointError

SAVER = """
import sys
from allgrad import nn
from allgrad.checkpoint import CheckpointManager
manager = CheckpointManager(sys.argv[1], keep=2)
model = nn.Linear(400, 100)
start = (manager.steps() or [0])[-1]
print("ready", flush=True)
for step in range(start + 1, start + 100000):
    model.weight.data.fill_(step)
    model.bias.data.fill_(step)
    manager.save(step=step, model=model)
"""


def model_with(value):
    model = nn.Linear(3, 2)
    model.weight.data.fill_(value)
    model.bias.data.fill_(value)
    return model


def value_of(path):
    model = model_with(-1)
    step = load_checkpoint(path, model=model).step
    found = {float(v) for p in model.parameters() for v in p.detach().numpy().ravel()}
    assert len(found) == 1
    return step, found.pop()


@pytest.mark.parametrize("which", ["tensors", "manifest"])
def test_truncated_at_any_byte(tmp_path, which):
    save_checkpoint(tmp_path / "last", step=7, model=model_with(5))
    (tensors,) = tmp_path.glob("*.safetensors")
    file = tensors if which == "tensors" else tmp_path / "last.json"
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for stop in {0, 1, 8, len(whole) - 1, *map(int, rng.integers(0, len(whole), 60))}:
        file.write_bytes(whole[:stop])
        with pytest.raises(CheckpointError, match="last"):
            value_of(tmp_path / "last")


@pytest.mark.parametrize("which", ["tensors", "manifest"])
def test_flipped_at_any_bit(tmp_path, which):
    save_checkpoint(tmp_path / "last", step=7, values={"a": [1, 2]}, model=model_with(5))
    (tensors,) = tmp_path.glob("*.safetensors")
    file = tensors if which == "tensors" else tmp_path / "last.json"
    whole = file.read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            assert value_of(tmp_path / "last") == (7, 5.0)  # a blank of the JSON was hit
        except CheckpointError:
            refused += 1
    assert refused == 300 if which == "tensors" else refused > 200


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after_writes", [0, 1, 2])
def test_disk_full(tmp_path, monkeypatch, code, after_writes):
    path = save_checkpoint(tmp_path / "last", step=1, model=model_with(1))
    count = 0
    real = os.write

    def write(descriptor, data):
        nonlocal count
        count += 1
        if count > after_writes:
            raise OSError(code, os.strerror(code))
        return real(descriptor, bytes(data)[:100] if after_writes == 1 else data)

    monkeypatch.setattr(os, "write", write)
    if after_writes == 2:  # both files fit
        save_checkpoint(path, step=2, model=model_with(2))
    else:
        with pytest.raises(CheckpointError, match=r"no space to write .*last.*bytes are needed"):
            save_checkpoint(path, step=2, model=model_with(2))
    monkeypatch.undo()
    assert not list(tmp_path.glob(".partial-*"))
    assert value_of(path) == ((2, 2.0) if after_writes == 2 else (1, 1.0))


def test_disk_full_between_tensors_and_manifest(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "last", step=1, model=model_with(1))
    real = os.replace

    def replace(source, target):
        if str(target).endswith(".json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError, match="what it held before is intact"):
        save_checkpoint(path, step=2, model=model_with(2))
    monkeypatch.undo()
    assert value_of(path) == (1, 1.0)
    save_checkpoint(path, step=3, model=model_with(3))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_size_limit_of_the_kernel(tmp_path):
    """The real thing: the kernel cuts the write short, then refuses it."""
    path = save_checkpoint(tmp_path / "last", step=1, model=model_with(1))
    big = nn.Linear(300, 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(CheckpointError, match="no space to write"):
            save_checkpoint(path, step=2, model=big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert value_of(path) == (1, 1.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"cannot write .*last"):
        save_checkpoint(tmp_path / "file" / "last", model=model_with(1))


def test_a_writer_killed_at_any_moment(tmp_path):
    rng = np.random.default_rng(3)
    newest = 0
    for _ in range(6):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert saver.stdout.readline() == "ready\n"
            time.sleep(float(rng.uniform(0.02, 0.15)))
        finally:
            saver.send_signal(signal.SIGKILL)
            saver.wait(10)
            saver.stdout.close()
        model = nn.Linear(400, 100)
        manager = CheckpointManager(tmp_path, keep=2)
        checkpoint = manager.load_latest(model=model)
        if checkpoint is None:
            assert newest == 0  # killed before the first save was done
            continue
        values = {float(v) for p in model.parameters() for v in np.unique(p.detach().numpy())}
        assert values == {float(checkpoint.step)}
        assert checkpoint.step >= newest
        newest = checkpoint.step
    assert newest > 0
    manager.save(step=newest + 1, model=model)
    assert len(list(tmp_path.iterdir())) == 4
