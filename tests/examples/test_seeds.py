"""The scripts of examples/seeds learn, and the same text runs on PyTorch with other imports."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import allgrad as ag

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "seeds"
SCRIPTS = sorted(p.stem for p in FOLDER.glob("document*.py"))
IMAGES = ["--synthetic", "--synthetic-size", "1200"]
MORE = ["--synthetic", "--synthetic-size", "4000"]


@pytest.fixture(autouse=True)
def _one_folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))  # as Python does for a script
    before = ag.get_num_threads()
    ag.set_num_threads(1)
    yield
    ag.set_num_threads(before)
    sys.modules.pop("image_data", None)


def load(path):
    spec = importlib.util.spec_from_file_location(f"seed_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(name, *options):
    return load(FOLDER / f"{name}.py").main([*map(str, options)])


def test_binary_classifier():
    found = train("document1_binary_classifier")
    assert found["first"] > 0.6
    assert found["loss"] < 0.1
    assert found["accuracy"] > 0.98


def test_convnet_with_channel_dropout(capsys):
    found = train("document1_convnet", *IMAGES, "--epochs", 3, "--lr", 0.05)
    assert found["accuracy"] > 0.95
    assert "of 200 synthetic images" in capsys.readouterr().out


def test_linear_regression():
    found = train("document2_linear_regression")
    assert found["slope"] == pytest.approx(3, abs=0.05)
    assert found["offset"] == pytest.approx(1, abs=0.05)
    assert found["loss"] < 0.02


def test_cnn_learns_an_image_by_heart():
    found = train("document2_cnn", "--epochs", 60)
    assert found["least"] <= found["loss"] + 1e-5
    assert found["loss"] - found["least"] < 1e-3


def test_image_classifier():
    found = train("document3_image_classifier", *IMAGES, "--epochs", 2)
    assert found["loss"] < 0.5
    assert found["accuracy"] > 0.9


def test_gru_predicts_a_wave():
    found = train("document3_rnn", "--steps", 60)
    assert found["first"] > 0.3
    assert found["loss"] < 0.03


def test_deep_q_learning_balances_the_pole():
    pytest.importorskip("gymnasium")
    found = train("document3_dqn", "--episodes", 150, "--goal", 100)
    assert found["first"] < 40
    assert found["last"] >= 100
    assert found["games"] < 150


def test_mnist_with_a_schedule():
    found = train("document3_mnist", *IMAGES, "--epochs", 6, "--lr", 0.05)
    assert found["loss"] < 0.5
    assert found["accuracy"] > 0.95


def test_dense_layers():
    found = train("document4_mlp", *IMAGES, "--epochs", 6)
    assert found["loss"] < 0.2
    assert found["accuracy"] > 0.95


@pytest.mark.parametrize("model", ["convnet", "mlp"])
def test_mnist_project(model):
    found = train("document5_mnist", *MORE, "--epochs", 3, "--model", model)
    assert found["loss"] < 0.5
    assert found["accuracy"] > 0.95


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_unknown_options(name, capsys):
    script = load(FOLDER / f"{name}.py")
    with pytest.raises(SystemExit) as caught:
        script.main(["--no-such-option"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert f"python examples/seeds/{name}.py" in capsys.readouterr().out


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("document1_binary_classifier", []),
        ("document2_linear_regression", []),
        ("document2_cnn", ["--epochs", "20"]),
        ("document3_rnn", ["--steps", "3"]),
    ],
)
def test_the_same_text_is_a_pytorch_script(name, options, tmp_path):
    """Those that need no images: with `torch` in the imports they train on PyTorch, too."""
    torch = pytest.importorskip("torch")
    text = (FOLDER / f"{name}.py").read_text()
    text = text.replace("import allgrad as torch", "import torch")
    text = re.sub(r"^from allgrad import", "from torch import", text, flags=re.MULTILINE)
    text = text.replace("import allgrad.nn.functional", "import torch.nn.functional")
    assert "import allgrad" not in text
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    script = load(path)
    assert script.torch is torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert script.main(options)["loss"] < 2.5
    finally:
        torch.set_num_threads(before)


def test_every_script_is_tested():
    text = Path(__file__).read_text()
    missing = [name for name in SCRIPTS if f'train("{name}"' not in text]
    assert not missing
