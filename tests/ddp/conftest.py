"""Fixtures that start ranks: as threads here, or as processes under mpiexec with a time-out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allgrad.launch import leftovers

LAUNCHER_NAMES = ("PMI_", "PMIX_", "MPI_", "OMPI_", "SLURM_", "HYDI_", "ALLGRAD_")


def clean_environment() -> dict[str, str]:
    """The environment without what a launcher around pytest may have left in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_NAMES)}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def abandoned_files(before: frozenset[Path], patience_s: float = 3.0) -> list[Path]:
    """Shared memory of MPI that appeared since `before` and is still there, used by nobody.

    Waits, `patience_s` seconds at most, for processes that are just ending.
    """
    deadline = time.monotonic() + patience_s
    while True:
        new = leftovers.segments() - before
        left = leftovers.abandoned(new)
        if len(left) == len(new) or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mpirun(tmp_path: Path) -> Iterator[Runner]:
    """``mpirun(n, script_text_or_argv)``: run it on n ranks; no process or file is left behind."""
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("no mpiexec")
    before = leftovers.segments()
    environment = clean_environment()

    def run(
        ranks: int, what: str | list[str], timeout_s: float = 90.0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [mpiexec, "-n", str(ranks), sys.executable]
        if isinstance(what, str):
            script = tmp_path / "ranks.py"
            script.write_text(textwrap.dedent(what))
            argv.append(str(script))
        else:
            argv += what
        return _run_group(argv, environment | variables, timeout_s)

    yield run
    for path in abandoned_files(before):  # of ranks that the test killed
        path.unlink(missing_ok=True)


def _run_group(
    argv: list[str], environment: dict[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run in a process group of its own, which is killed as a whole after the time-out."""
    process = subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{' '.join(argv)} did not end within {timeout_s} s\n{out}\n{err}")
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


@pytest.fixture
def shared_files() -> Callable[[], list[Path]]:
    """Shared-memory files of MPI that appeared during the test and that nobody uses."""
    before = leftovers.segments()
    return lambda: abandoned_files(before)
