"""Every example runs, learns what it shows, and can be interrupted and resumed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from allgrad import ddp
from allgrad.checkpoint import CheckpointManager
from allgrad.errors import NonFiniteError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALL = ["linear_regression.py", "digits/train.py", "mnist/train.py", "cifar10/train.py"]


def load(path):
    name = "example_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(path, *options, ranks=0):
    launcher = (
        [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", str(ranks)] if ranks else []
    )
    return [*(launcher or [sys.executable]), str(EXAMPLES / path), *map(str, options)]


def run(path, *options, ranks=0, cwd):
    return subprocess.run(
        command(path, *options, ranks=ranks),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def final_state(folder):
    checkpoint = CheckpointManager(folder).load_latest(random_state=False)
    tensors = {k: v.numpy() for k, v in checkpoint.state["model"].items()}
    return checkpoint, tensors


@pytest.mark.parametrize("path", ALL)
def test_unknown_option_and_help(path, capsys):
    example = load(path)
    with pytest.raises(SystemExit) as caught:
        example.main(["--epoch-count", "3"])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert "--epochs" in text  # the usage lists the known ones
    assert "unrecognized arguments: --epoch-count" in text
    with pytest.raises(SystemExit):
        example.main(["--help"])
    text = capsys.readouterr().out
    assert f"allgrad run -n 2 examples/{path}" in text or f"-n 4 examples/{path}" in text
    assert f"python examples/{path}" in text
    assert "mpiexec -n" in text


def test_linear_regression_finds_the_line(capsys):
    found = load("linear_regression.py").main([])
    assert found["slope"] == pytest.approx(2, abs=0.03)
    assert found["offset"] == pytest.approx(-1, abs=0.03)
    assert "y = " in capsys.readouterr().out


def test_digits_learns_real_digits_on_one_rank(tmp_path, capsys):
    pytest.importorskip("sklearn")
    folder = tmp_path / "runs"
    options = ["--epochs", "5", "--no-progress", "--no-plot", "--checkpoint-dir", str(folder)]
    summary = load("digits/train.py").main(options)
    assert summary["accuracy"] >= 0.96
    text = capsys.readouterr().out
    assert "held-out accuracy" in text.splitlines()[-1]
    assert "on 364 images" in text


def test_digits_writes_a_picture_and_says_synthetic(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "runs"
    options = ["--synthetic", "--epochs", "2", "--checkpoint-dir", str(folder)]
    summary = load("digits/train.py").main([*options, "--check-finite"])
    assert summary["accuracy"] > 0.9
    assert "on 364 synthetic images" in capsys.readouterr().out.splitlines()[-1]
    picture = (folder / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_digits_without_the_extras(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--synthetic", "--epochs", "1", "--checkpoint-dir", str(tmp_path)]
    load("digits/train.py").main(options)
    text = capsys.readouterr().out
    assert "tqdm is missing; pip install 'allgrad[demo]'" in text
    assert "matplotlib is missing; pip install 'allgrad[demo]'" in text


def test_digits_refuses_to_resume_a_run_of_another_length(tmp_path):
    digits = load("digits/train.py")
    common = ["--synthetic", "--no-progress", "--no-plot", "--checkpoint-dir", str(tmp_path)]
    digits.main(["--epochs", "1", *common])
    with pytest.raises(SystemExit, match="of a run with --epochs 1"):
        digits.main(["--epochs", "3", "--resume", *common])
    ddp.destroy_process_group()


def test_digits_stops_at_a_loss_that_is_not_finite(tmp_path):
    options = "--synthetic --epochs 1 --no-plot --no-progress --lr 1e30 --check-finite".split()
    with pytest.raises(NonFiniteError, match=r"loss is not finite at step \d+: .* on rank 0"):
        load("digits/train.py").main([*options, "--checkpoint-dir", str(tmp_path)])
    ddp.destroy_process_group()


@pytest.mark.mpi
def test_digits_on_two_ranks(tmp_path):
    pytest.importorskip("mpi4py")
    pytest.importorskip("sklearn")
    folder = tmp_path / "runs"
    done = run("digits/train.py", "--checkpoint-dir", folder, ranks=2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert "2 rank(s), 15 epochs" in last
    assert "of the communication hidden behind backward" in last
    accuracy = float(last.split("held-out accuracy ")[1].split(" %")[0])
    assert accuracy >= 97
    assert "[1] epoch" not in done.stdout  # rank 0 alone speaks
    checkpoint, _ = final_state(folder)
    assert sorted(checkpoint.per_rank) == ["0", "1"]


def stop_after_a_checkpoint(arguments, folder, cwd, how=signal.SIGKILL):
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        limit = time.monotonic() + 60
        while not list(Path(folder).glob("checkpoint-*.json")):
            assert time.monotonic() < limit, "no checkpoint was written"
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.005)
    finally:
        process.send_signal(how)
        process.wait(20)
        process.stderr.close()


RESUMED = {
    "digits": ("digits/train.py", "--synthetic --epochs 4 --no-plot --no-progress".split()),
    "mnist in mid-epoch": (
        "mnist/train.py",
        "--synthetic --synthetic-size 3000 --epochs 3 --save-every 7".split(),
    ),
    "cifar10 in mid-epoch": (
        "cifar10/train.py",
        "--synthetic --synthetic-size 160 --epochs 2 --batch-size 16 --save-every 3".split(),
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_killed_and_resumed_ends_with_the_same_bits(name, tmp_path):
    path, options = RESUMED[name]
    whole = run(path, *options, "--checkpoint-dir", tmp_path / "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    stop_after_a_checkpoint(command(path, *options, "--checkpoint-dir", broken), broken, tmp_path)
    stopped_at = CheckpointManager(broken).steps()[-1]
    resumed = run(path, *options, "--checkpoint-dir", broken, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stdout
    first, expected = final_state(tmp_path / "whole")
    second, found = final_state(broken)
    assert second.step == first.step > stopped_at
    for tensor, value in expected.items():
        np.testing.assert_array_equal(found[tensor], value, err_msg=tensor)


@pytest.mark.mpi
def test_two_ranks_stopped_and_resumed_end_with_the_same_bits(tmp_path):
    pytest.importorskip("mpi4py")
    path, options = RESUMED["mnist in mid-epoch"]
    whole = run(path, *options, "--checkpoint-dir", tmp_path / "whole", ranks=2, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    arguments = command(path, *options, "--checkpoint-dir", broken, ranks=2)
    arguments[4:4] = ["--grace", "0.1"]  # the launcher then kills the ranks wherever they are
    stop_after_a_checkpoint(arguments, broken, tmp_path, signal.SIGTERM)
    stopped_at = CheckpointManager(broken).steps()[-1]
    resumed = run(path, *options, "--checkpoint-dir", broken, "--resume", ranks=2, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    first, expected = final_state(tmp_path / "whole")
    second, found = final_state(broken)
    assert second.step == first.step > stopped_at
    for tensor, value in expected.items():
        np.testing.assert_array_equal(found[tensor], value, err_msg=tensor)


@pytest.mark.mpi
def test_mnist_saved_by_one_rank_goes_on_with_two(tmp_path):
    pytest.importorskip("mpi4py")
    options = ["--synthetic", "--synthetic-size", "2000", "--checkpoint-dir", tmp_path / "runs"]
    first = run("mnist/train.py", *options, "--epochs", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = run("mnist/train.py", *options, "--epochs", "2", "--resume", ranks=2, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "resumed at step 32, epoch 2" in second.stdout
    assert "saved by 1 ranks, this job has 2" in second.stdout + second.stderr


@pytest.mark.parametrize("path", ["mnist/train.py", "cifar10/train.py"])
def test_missing_data_is_named(path, tmp_path):
    done = run(path, "--data", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip()
    assert "DatasetError" in last
    assert str(tmp_path / "nowhere") in last


def test_resnet18_takes_a_step(tmp_path):
    options = "--model resnet18 --synthetic --synthetic-size 8 --batch-size 4 --epochs 1".split()
    found = load("cifar10/train.py").main([*options, "--checkpoint-dir", str(tmp_path)])
    assert found["steps"] == 2


def test_logical_shards_give_the_same_bits_for_any_number_of_ranks(tmp_path, capsys):
    for path, options in (
        ("digits/train.py", ["--synthetic", "--no-plot", "--no-progress", "--epochs", "1"]),
        ("cifar10/train.py", ["--synthetic", "--synthetic-size", "40", "--epochs", "1"]),
    ):
        prints = set()
        for ranks in (1, 3):
            argv = [*options, "--batch-size", "4", "--logical-shards", "4", "--fingerprint"]
            argv += ["--checkpoint-dir", str(tmp_path / f"{path}{ranks}")]
            ddp.run_ranks(lambda path=path, argv=argv: load(path).main(argv), ranks)
            lines = capsys.readouterr().out.splitlines()
            prints |= {line for line in lines if "SHA-256" in line}
        assert len(prints) == 1
