"""The examples of adversarial training and transfer learning learn what they show."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALL = ["gan.py", "transfer_learning.py"]


def load(path):
    spec = importlib.util.spec_from_file_location("example_" + Path(path).stem, EXAMPLES / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ALL)
def test_unknown_option_and_help(path, capsys):
    example = load(path)
    with pytest.raises(SystemExit):
        example.main(["--epoch-count", "3"])
    assert "unrecognized arguments: --epoch-count" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        example.main(["--help"])
    assert f"allgrad run -n 2 examples/{path}" in capsys.readouterr().out


def test_frechet_distance_of_known_distributions():
    distance = load("gan.py").frechet_distance
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 3))
    assert distance(x, x) == pytest.approx(0, abs=1e-6)
    assert distance(x, x + 2) == pytest.approx(12)  # three means, each 2 away
    assert distance(x, 3 * x) == pytest.approx(12, rel=0.1)  # three deviations, 1 and 3


def test_the_drawings_come_near_the_scans(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    found = load("gan.py").main(["--out", str(tmp_path), "--epochs", "15"])
    assert found["before"] > 8
    assert found["after"] < 3
    assert found["scans"] < found["after"]
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "distance to held-out scans" in capsys.readouterr().out


def test_transferred_weights_beat_a_start_from_scratch(tmp_path, capsys):
    found = load("transfer_learning.py").main(["--out", str(tmp_path)])
    assert found["first"] > 0.95
    assert found["transferred"] > 0.68
    assert found["transferred"] > found["from_scratch"] + 0.03
    assert (tmp_path / "digits_0_to_4.safetensors").exists()
    assert "from scratch" in capsys.readouterr().out


@pytest.mark.mpi
@pytest.mark.parametrize("path", ALL)
def test_two_ranks(path, tmp_path):
    pytest.importorskip("mpi4py")
    options = ["--epochs", "1", "--out", str(tmp_path)]
    options += ["--no-plot"] if path == "gan.py" else ["--few-epochs", "1"]
    arguments = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2", EXAMPLES / path]
    done = subprocess.run(
        [*map(str, arguments), *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "[1] " not in done.stdout  # rank 0 alone speaks
