"""Which MPI starts the ranks: the one installed beside this Python, or else the first on PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from allgrad.errors import LaunchError
from allgrad.launch.spec import MpiRuntime

_INSTALL = f'"{sys.executable}" -m pip install mpi4py mpich'
_VERSION_TIMEOUT_S = 20


def find_mpi(environ: Mapping[str, str] = os.environ, asked: str | None = None) -> MpiRuntime:
    """Return the MPI to start ranks with.

    Args:
        environ: environment whose PATH is searched.
        asked: the mpiexec that the user names; None: the one beside this Python, else on PATH.

    Raises:
        LaunchError: mpi4py or mpiexec is not installed, or mpiexec is of an unknown kind.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise LaunchError(
            f"several ranks need mpi4py, which {sys.executable} does not have; install it and an "
            f"MPI by: {_INSTALL}"
        )
    if asked is not None:
        path = shutil.which(asked, path=environ.get("PATH"))
        if path is None:
            raise LaunchError(f"--mpiexec {asked}: no such program")
    else:
        path = mpiexec_path(environ)
    if path is None:
        raise LaunchError(
            f"several ranks need mpiexec, which is neither in {Path(sys.executable).parent} nor on "
            f"PATH; install an MPI by: {_INSTALL}"
        )
    return identify(path)


def pmi_of(mpi: MpiRuntime | None, asked: str) -> str:
    """Return the value of ``srun --mpi=`` that connects the ranks of an MPI.

    Args:
        mpi: what the ranks are started with.
        asked: by the user; "auto": what fits the MPI.

    Example:
        >>> pmi_of(MpiRuntime("/usr/bin/mpiexec", "openmpi"), "auto")
        'pmix'
    """
    if asked != "auto":
        return asked
    return "pmix" if mpi is not None and mpi.flavour == "openmpi" else "pmi2"


def mpiexec_path(environ: Mapping[str, str]) -> str | None:
    """The path of ``mpiexec``: the one beside this Python, else the first on PATH; None: none."""
    beside = Path(sys.executable).parent / "mpiexec"
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("mpiexec", path=environ.get("PATH"))


def identify(path: str, timeout_s: float = _VERSION_TIMEOUT_S) -> MpiRuntime:
    """Ask an ``mpiexec`` what it is.

    Args:
        path: absolute path of the program.
        timeout_s: for its answer.

    Raises:
        LaunchError: it does not answer, or as nothing that we know.
    """
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"`{path} --version` failed: {error}") from error
    text = done.stdout + done.stderr
    return MpiRuntime(path, _flavour(path, text), _version(text))


def _flavour(path: str, text: str) -> str:
    known = {"Open MPI": "openmpi", "PRRTE": "openmpi", "HYDRA": "mpich", "Intel(R) MPI": "mpich"}
    for mark, flavour in known.items():
        if mark in text:
            return flavour
    first = text.strip().splitlines()[:1]
    raise LaunchError(
        f"{path} is of an unknown kind (its --version says {first}); expected MPICH, Intel MPI or "
        f"Open MPI; install MPICH beside this Python by: {_INSTALL}"
    )


def _version(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "Version" in line and any(c.isdigit() for c in line)]
    return " ".join((named or lines or [""])[0].split())
