"""The GAN with a gradient penalty: the penalty falls, and the distributions come together."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import allgrad as ag

PATH = Path(__file__).resolve().parents[2] / "examples" / "gradient_penalty.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("example_gradient_penalty", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread():
    """Threads cost more than they gain with such small matrices."""
    before = ag.get_num_threads()
    ag.set_num_threads(1)
    yield
    ag.set_num_threads(before)


def test_the_distribution_is_matched(example, capsys, one_thread):
    summary = example.main(["--steps", "300"])
    assert summary["first_penalty"] > 0.5  # a critic fresh from its start is too flat
    assert summary["penalty"] < 0.15
    assert summary["distance"] < 0.2 * summary["first_distance"]
    assert summary["found"] == example.CLOUDS
    assert summary["share"] > 0.4
    assert f"8 of {example.CLOUDS} found" in capsys.readouterr().out


def test_points_that_were_not_learned_are_not_taken_for_good_ones(example):
    ag.manual_seed(0)
    share, _ = example.quality(ag.randn(1000, 2))
    assert share < 0.4
    share, found = example.quality(example.real_points(1000))
    assert share > 0.99
    assert found == example.CLOUDS


def test_steepness_is_the_length_of_the_slope(example):
    flat = ag.nn.Linear(2, 1)
    with ag.no_grad():
        flat.weight.copy_(ag.tensor([[3.0, 4.0]]))
    length = example.steepness(flat, ag.zeros(5, 2), ag.ones(5, 2))
    assert length.tolist() == pytest.approx([5.0] * 5)
    length.sum().backward()
    assert flat.weight.grad.flatten().tolist() == pytest.approx([3.0, 4.0])  # 5 * (3, 4) / 5
