"""The training script of the README runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def script(tmp_path):
    pytest.importorskip("sklearn")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    path = tmp_path / "train.py"
    path.write_text(code)
    return path


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_training_script(script, nproc):
    if nproc > 1:
        pytest.importorskip("mpi4py")
    command = [sys.executable, "-m", "allgrad.launch.cli", "run", "--no-prefix", "-n", str(nproc)]
    done = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=script.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(losses) == 5 * nproc
    assert min(losses[-nproc:]) < 0.5
