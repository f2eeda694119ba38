"""The speed run's recipe on a handful of made-up images, by both optimizers."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10" / "speedrun.py"
SHORT = "--device cpu --synthetic --train-size 64 --batch-size 8 --epochs 1 --seed 1".split()


@pytest.fixture(scope="module")
def speedrun():
    spec = importlib.util.spec_from_file_location("example_speedrun", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_it_trains(speedrun, capsys, optimizer):
    found = speedrun.main([*SHORT, "--optimizer", optimizer])
    said = capsys.readouterr().out
    assert "warm-up, not counted" in said
    assert "run 1:" in said
    assert 0 <= found["accuracy"] <= 1
    losses = [
        float(line.split("loss")[1].split()[0]) for line in said.splitlines() if "loss" in line
    ]
    assert losses[-1] < 2.7  # it does not diverge; what it learns in 8 steps is little


def test_batches_cover_an_epoch_and_flip_every_other_time(speedrun):
    import allgrad as ag

    options = speedrun.parse_options(SHORT)
    images = speedrun.load_images(options, train=True)
    batches = speedrun.Batches(images, 8, seed=3)
    batches.padded = ag.nn.functional.pad(images.pixels, (2,) * 4, mode="reflect")
    first = [y for _, y in batches]
    assert sum(len(y) for y in first) == 64
    assert sorted(v for y in first for v in y.tolist()) == sorted(images.classes.tolist())
    assert batches.epoch == 1


def test_too_few_images_are_refused(speedrun):
    with pytest.raises(SystemExit, match="at least one batch of 500"):
        speedrun.main(
            ["--device", "cpu", "--synthetic", "--train-size", "100", "--batch-size", "500"]
        )
