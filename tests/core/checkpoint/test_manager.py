"""A folder of checkpoints: the last few stay, the newest good one is loaded."""

import logging

import pytest

from allgrad import nn
from allgrad.checkpoint import CheckpointManager, load_latest, save_checkpoint
from allgrad.errors import CheckpointError


def model_with(value):
    model = nn.Linear(2, 1)
    model.weight.data.fill_(value)
    return model


def loaded_value(manager):
    model = model_with(-1)
    checkpoint = manager.load_latest(model=model)
    return None if checkpoint is None else (checkpoint.step, model.weight.tolist()[0][0])


def tensor_file(manager, step):
    (file,) = manager.folder.glob(f"checkpoint-{step:08d}-*.safetensors")
    return file


def test_keeps_the_last_ones(tmp_path):
    manager = CheckpointManager(tmp_path / "runs", keep=2)
    assert manager.steps() == []
    assert loaded_value(manager) is None
    for step in (1, 2, 3, 4):
        path = manager.save(step=step, model=model_with(step))
        assert path == manager.path(step)
    assert manager.steps() == [3, 4]
    assert len(list(manager.folder.iterdir())) == 4
    assert loaded_value(manager) == (4, 4.0)
    model = model_with(0)
    manager.load(3, model=model)
    assert model.weight.tolist()[0][0] == 3.0


def test_equal_tensors_under_two_steps_are_two_files(tmp_path):
    manager = CheckpointManager(tmp_path, keep=1)
    for step in (1, 2):
        manager.save(step=step, model=model_with(7), random_state=False)
    assert loaded_value(manager) == (2, 7.0)


def test_saving_a_step_twice(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(step=1, model=model_with(1))
    manager.save(step=1, model=model_with(2))
    assert manager.steps() == [1]
    assert loaded_value(manager) == (1, 2.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_newest_is_the_last_written_not_the_highest_step(tmp_path):
    manager = CheckpointManager(tmp_path, keep=2)
    for step in (100, 200, 150):
        manager.save(step=step, model=model_with(step))
    assert manager.steps() == [200, 150]
    assert loaded_value(manager) == (150, 150.0)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "manifest"])
def test_falls_back_to_the_newest_good_one_and_says_so(tmp_path, damage, caplog):
    manager = CheckpointManager(tmp_path, keep=3)
    for step in (1, 2, 3):
        manager.save(step=step, model=model_with(step))
    file = manager.path(3) if damage == "manifest" else tensor_file(manager, 3)
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    else:
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    with caplog.at_level(logging.WARNING, "allgrad.checkpoint"):
        assert loaded_value(manager) == (2, 2.0)
    assert str(file) in caplog.text
    assert f"taking {manager.path(2)} instead" in caplog.text
    manager.save(step=4, model=model_with(4))
    assert loaded_value(manager) == (4, 4.0)


def test_all_are_damaged(tmp_path):
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        manager.save(step=step, model=model_with(step))
    tensor_file(manager, 1).write_bytes(b"")
    manager.path(2).write_bytes(b"{")
    with pytest.raises(CheckpointError, match="all are damaged") as caught:
        loaded_value(manager)
    assert "00000001" in str(caught.value)
    assert "00000002" in str(caught.value)


def test_another_model_is_not_a_reason_to_fall_back(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(step=1, model=nn.Linear(2, 1))
    manager.save(step=2, model=nn.Linear(5, 5))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        manager.load_latest(model=nn.Linear(2, 1))


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    manager = CheckpointManager(tmp_path, keep=1)
    manager.save(step=1, model=model_with(1))
    left = [
        tmp_path / ".partial-checkpoint-00000002-0123456789ab.safetensors-77-abcd",
        tmp_path / ".partial-checkpoint-00000002.json-77-abcd",
        tmp_path / "checkpoint-00000002-0123456789ab.safetensors",
    ]
    others = [
        tmp_path / "model.safetensors",
        tmp_path / "notes.json",
        tmp_path / ".partial-other-1.json-77-abcd",
    ]
    for file in (*left, *others):
        file.write_bytes(b"x")
    assert loaded_value(manager) == (1, 1.0)
    manager.save(step=3, model=model_with(3))
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)


def test_two_names_in_one_folder(tmp_path):
    a, b = CheckpointManager(tmp_path, keep=1), CheckpointManager(tmp_path, keep=1, name="best")
    for step in (1, 2, 3):
        a.save(step=step, model=model_with(step))
        if step == 2:
            b.save(step=step, model=model_with(20))
    save_checkpoint(tmp_path / "last", model=model_with(99))
    assert loaded_value(a) == (3, 3.0)
    assert loaded_value(b) == (2, 20.0)
    model = model_with(0)
    assert load_latest(tmp_path, name="best", model=model).step == 2
    assert load_latest(tmp_path / "absent", model=model) is None


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="at least 1, came 0"):
        CheckpointManager(tmp_path, keep=0)
