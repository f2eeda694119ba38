"""Saving and loading one checkpoint: what goes in comes out, what does not fit is listed."""

import json
import logging
import re

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.checkpoint import (
    capture_state,
    load_checkpoint,
    read_checkpoint,
    restore_state,
    save_checkpoint,
)
from allgrad.errors import CheckpointError, DamagedCheckpointError


def make_run(seed=0, hidden=5):
    ag.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 2)
    )
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def train(run, steps):
    for _ in range(steps):
        run["optimizer"].zero_grad()
        run["model"](ag.randn(4, 3)).sum().backward()
        run["optimizer"].step()
        run["scheduler"].step()


def weights(run):
    return {k: v.numpy().copy() for k, v in run["model"].state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_everything_comes_back_and_training_goes_on_with_the_same_bits(tmp_path):
    run = make_run()
    train(run, 4)
    path = save_checkpoint(
        tmp_path / "last", step=4, epoch=1, values={"best": 0.5, "options": ["a"]}, **run
    )
    train(run, 4)
    again = make_run(seed=9)
    checkpoint = load_checkpoint(tmp_path / "last", **again)
    assert checkpoint.path == path == tmp_path / "last.json"
    assert (checkpoint.step, checkpoint.epoch) == (4, 1)
    assert checkpoint.values == {"best": 0.5, "options": ["a"]}
    assert checkpoint.per_rank == {}
    train(again, 4)
    assert_same(weights(run), weights(again))
    assert again["scheduler"].get_last_lr() == run["scheduler"].get_last_lr()


def test_the_tensor_file_is_safetensors_with_the_models_names(tmp_path):
    from safetensors.numpy import load_file

    run = make_run()
    save_checkpoint(tmp_path / "last", model=run["model"], random_state=False)
    (file,) = tmp_path.glob("last-*.safetensors")
    assert set(load_file(file)) == {f"model.{k}" for k in run["model"].state_dict()}
    manifest = json.loads((tmp_path / "last.json").read_text())
    assert manifest["tensor_file"] == file.name
    assert manifest["tensor_bytes"] == file.stat().st_size


def test_no_pickle_anywhere(tmp_path, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    run = make_run()
    train(run, 1)
    save_checkpoint(tmp_path / "last", **run)
    load_checkpoint(tmp_path / "last", **run)


def test_only_a_part_may_be_loaded(tmp_path):
    run = make_run()
    train(run, 1)
    save_checkpoint(tmp_path / "last", **run)
    other = make_run(seed=5)
    load_checkpoint(tmp_path / "last", model=other["model"])
    assert_same(weights(run), weights(other))


def test_a_part_that_was_not_saved(tmp_path):
    run = make_run()
    save_checkpoint(tmp_path / "last", model=run["model"])
    with pytest.raises(CheckpointError, match="has no part 'optimizer'; it holds: model"):
        load_checkpoint(tmp_path / "last", model=run["model"], optimizer=run["optimizer"])


def test_another_model_is_listed_and_nothing_is_loaded(tmp_path):
    saved = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    mine = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    before = {k: v.numpy().copy() for k, v in mine.state_dict().items()}
    save_checkpoint(tmp_path / "last", model=saved)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "last", model=mine)
    text = str(caught.value)
    assert "belongs to another model than 'model'; nothing was loaded" in text
    assert "missing in the checkpoint (2): 2.weight, 2.bias" in text
    assert "unexpected in the checkpoint (1): 1.bias" in text
    assert "wrong shape (3): 0.weight (expected (4, 3), came (5, 3))" in text
    assert_same(before, {k: v.numpy() for k, v in mine.state_dict().items()})


def test_optimizer_of_another_model_leaves_the_model_alone(tmp_path):
    run = make_run()
    save_checkpoint(tmp_path / "last", **run)
    other = make_run(seed=3)
    other["optimizer"] = optim.SGD(list(other["model"].parameters())[:2], lr=0.1)
    before = weights(other)
    with pytest.raises(ValueError, match="doesn't match the size"):
        load_checkpoint(tmp_path / "last", model=other["model"], optimizer=other["optimizer"])
    assert_same(before, weights(other))


def test_random_state(tmp_path):
    generator = ag.Generator(5)
    ag.manual_seed(3)
    save_checkpoint(tmp_path / "last", shuffling=generator)
    expected = ag.rand(3).tolist(), generator.numpy.random(3).tolist()
    ag.manual_seed(4)
    other = ag.Generator(6)
    load_checkpoint(tmp_path / "last", shuffling=other)
    assert (ag.rand(3).tolist(), other.numpy.random(3).tolist()) == expected
    ag.manual_seed(4)
    load_checkpoint(tmp_path / "last", random_state=False)
    ag_after = ag.rand(3).tolist()
    ag.manual_seed(4)
    assert ag.rand(3).tolist() == ag_after


class Position:
    """Stands for a loader."""

    def __init__(self, at=0):
        self.at = at

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_state_of_single_ranks(tmp_path, caplog):
    states = {}
    for rank in range(2):
        ag.manual_seed(rank)
        states[str(rank)] = capture_state(loader=Position(10 + rank))
    save_checkpoint(tmp_path / "last", per_rank=states, model=nn.Linear(1, 1))
    checkpoint = read_checkpoint(tmp_path / "last")
    for rank in range(2):
        loader = Position()
        checkpoint.restore_rank(rank, 2, loader=loader)
        assert loader.at == 10 + rank
        found = ag.rand(2).tolist()
        ag.manual_seed(rank)
        assert found == ag.rand(2).tolist()
    before = capture_state()["random_state"].tolist()
    loader = Position()
    with caplog.at_level(logging.WARNING, "allgrad.checkpoint"):
        checkpoint.restore_rank(2, 3, loader=loader)
    assert "was saved by 2 ranks, this job has 3" in caplog.text
    assert loader.at == 10
    assert capture_state()["random_state"].tolist() == before
    save_checkpoint(tmp_path / "other")
    with pytest.raises(CheckpointError, match="no state of rank 1 was saved; give per_rank"):
        read_checkpoint(tmp_path / "other").restore_rank(1, 2, loader=loader)


def test_parts_that_have_no_state_or_a_taken_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"part 'lr': expected an object with state_dict"):
        save_checkpoint(tmp_path / "last", lr=0.5)
    with pytest.raises(CheckpointError, match="'per_rank'; that name is taken"):
        capture_state(per_rank=Position())
    with pytest.raises(CheckpointError, match=r"values=\{...\} must be JSON"):
        save_checkpoint(tmp_path / "last", values={"a": object()})
    with pytest.raises(CheckpointError, match=r"checkpoint has no part 'x'; it holds: nothing"):
        restore_state({}, x=Position())


def test_a_failed_save_keeps_the_checkpoint_before(tmp_path):
    run = make_run()
    before = weights(run)
    save_checkpoint(tmp_path / "last", step=1, **run)
    train(run, 1)
    with pytest.raises(CheckpointError, match="must be JSON"):
        save_checkpoint(tmp_path / "last", step=2, values={"a": float("nan")}, **run)
    assert load_checkpoint(tmp_path / "last", **run).step == 1
    assert_same(before, weights(run))


def test_saving_again_replaces_and_leaves_no_other_file(tmp_path):
    run = make_run()
    for step in range(3):
        save_checkpoint(tmp_path / "last", step=step, **run)
        train(run, 1)
    assert load_checkpoint(tmp_path / "last", **run).step == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_there_is_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*last\.json"):
        load_checkpoint(tmp_path / "last")


def test_a_later_version(tmp_path):
    from allgrad.checkpoint import manifest

    save_checkpoint(tmp_path / "last")
    content = json.loads((tmp_path / "last.json").read_text())
    content.pop("sha256")
    content["version"] = 2
    content["sha256"] = manifest._digest(content)
    (tmp_path / "last.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="expected version 1 of the format, came 2"):
        load_checkpoint(tmp_path / "last")


def test_damage_names_the_file_both_values_and_the_good_one(tmp_path):
    run = make_run()
    good = save_checkpoint(tmp_path / "a", step=1, **run)
    save_checkpoint(tmp_path / "b", step=2, **run)
    (file,) = tmp_path.glob("b-*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    text = rf"tensor file {re.escape(str(file))} is damaged: expected {len(whole)} bytes, found "
    text += rf"{len(whole) - 5}; the newest good checkpoint there is {re.escape(str(good))}"
    with pytest.raises(DamagedCheckpointError, match=text):
        load_checkpoint(tmp_path / "b", **run)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        DamagedCheckpointError, match=r"expected SHA-256 [0-9a-f]{64}, found [0-9a-f]"
    ):
        load_checkpoint(tmp_path / "b", **run)
    file.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"cannot be read: expected .* bytes"):
        load_checkpoint(tmp_path / "b", **run)
    good.unlink()
    with pytest.raises(DamagedCheckpointError, match="there is no other"):
        load_checkpoint(tmp_path / "b", **run)
