"""The speed run's recipe on a handful of made-up images, by both optimizers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import allgrad as ag

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10" / "speedrun.py"
SHORT = "--device cpu --synthetic --train-size 32 --batch-size 8 --epochs 1 --seed 1".split()


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
    assert losses[-1] < 2.7  # it does not diverge; what it learns in 4 steps is little


def test_batches_cover_an_epoch_and_flip_every_other_time(speedrun):
    """Each image comes once an epoch, shifted by 2 pixels at most, and in both ways in two."""
    options = speedrun.parse_options(SHORT)
    images = speedrun.load_images(options, train=True)
    numbered = speedrun.Images(images.pixels, ag.arange(32))
    (plain, _), *_ = speedrun.plain_batches(numbered, 32, "cpu")
    plain = np.pad(plain.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), "reflect")
    batches = speedrun.make_batches(numbered, options, seed=3)
    mirrored = np.zeros((2, 32), bool)
    for epoch in mirrored:
        seen = []
        for x, numbers in batches:
            assert x.shape == (8, 3, 32, 32)
            seen += numbers.tolist()
            for image, number in zip(x.numpy(), numbers.tolist(), strict=True):
                windows = [plain[number, :, r : r + 32, c : c + 32]
                           for r in range(5) for c in range(5)]  # fmt: skip
                straight = any((image == w).all() for w in windows)
                assert straight != any((image == w[..., ::-1]).all() for w in windows)
                epoch[number] = not straight
        assert sorted(seen) == list(range(32))
    assert (mirrored[0] != mirrored[1]).all()
    assert 6 < mirrored[0].sum() < 26


def test_too_few_images_are_refused(speedrun):
    with pytest.raises(SystemExit, match="at least one batch of 500"):
        speedrun.main(
            ["--device", "cpu", "--synthetic", "--train-size", "100", "--batch-size", "500"]
        )
