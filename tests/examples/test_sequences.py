"""The examples on sequences learn: a wave, and the characters of Python's own sources."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from allgrad import ddp

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(path):
    name = "example_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gru_predicts_the_wave(capsys):
    found = load("sequence/gru.py").main(["--epochs", "4", "--hidden", "24"])
    ddp.destroy_process_group()
    assert found["loss"] < 0.05  # a wave has a mean square of 0.5
    assert found["alone"] < 0.4
    assert "20 steps on its own predictions" in capsys.readouterr().out


def test_transformer_learns_characters(capsys):
    options = "--epochs 2 --features 48 --layers 2 --context 32 --batch-size 16 --lr 0.01".split()
    found = load("char_transformer.py").main(options)
    ddp.destroy_process_group()
    assert found["first_loss"] > 4  # nothing is known yet: ln 96 = 4.6
    assert found["loss"] < 2.9
    sample = capsys.readouterr().out.split("sample:")[1]
    assert len(sample) > 200
    assert sample.startswith("\n    def ")


@pytest.mark.mpi
@pytest.mark.parametrize("path", ["sequence/gru.py", "char_transformer.py"])
def test_on_two_ranks(path, tmp_path):
    pytest.importorskip("mpi4py")
    options = ["--epochs", "1", "--batch-size", "2"]
    if path == "char_transformer.py":
        options += ["--features", "16", "--layers", "1", "--context", "16"]
    launcher = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2"]
    done = subprocess.run(
        [*launcher, str(EXAMPLES / path), *options],
        check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1:") == 1  # rank 0 alone speaks
