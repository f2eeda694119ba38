"""Finding and identifying mpiexec, with recorded answers of real ones."""

from __future__ import annotations

import re

import pytest

from allgrad.errors import LaunchError
from allgrad.launch import mpi_runtime

ANSWERS = {
    "mpich": "HYDRA build details:\n    Version:                                 5.0.2\n",
    "openmpi": "mpiexec (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701\n",
}


def program(folder, answer, code=0):
    path = folder / "mpiexec"
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{answer}EOF\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("name", "flavour", "version"),
    [
        ("mpich", "mpich", "Version: 5.0.2"),
        ("openmpi", "openmpi", "mpiexec (Open MPI) 5.0.11"),
        ("intel", "mpich", "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701"),
    ],
)
def test_identify(tmp_path, name, flavour, version):
    found = mpi_runtime.identify(program(tmp_path, ANSWERS[name]))
    assert (found.flavour, found.version) == (flavour, version)


def test_unknown_kind(tmp_path):
    with pytest.raises(LaunchError, match=r"unknown kind \(its --version says \['LAM 7'\]\)"):
        mpi_runtime.identify(program(tmp_path, "LAM 7\n"))


def test_broken_program(tmp_path):
    path = tmp_path / "mpiexec"
    path.write_text("no program")
    path.chmod(0o755)
    with pytest.raises(LaunchError, match=re.escape(f"`{path} --version` failed")):
        mpi_runtime.identify(str(path))


def test_beside_python_before_path(tmp_path, monkeypatch):
    pytest.importorskip("mpi4py")
    beside, elsewhere = tmp_path / "venv", tmp_path / "usr"
    for folder in (beside, elsewhere):
        folder.mkdir()
        program(folder, ANSWERS["mpich"])
    monkeypatch.setattr(mpi_runtime.sys, "executable", str(beside / "python"))
    found = mpi_runtime.find_mpi({"PATH": str(elsewhere)})
    assert found.mpiexec == str(beside / "mpiexec")
    (beside / "mpiexec").unlink()
    assert mpi_runtime.find_mpi({"PATH": str(elsewhere)}).mpiexec == str(elsewhere / "mpiexec")
    with pytest.raises(LaunchError, match=r"need mpiexec, which is neither in .*venv nor on PATH"):
        mpi_runtime.find_mpi({"PATH": str(tmp_path)})
