"""Is there an MPI that mpi4py loads, and is it the one whose mpiexec starts the ranks?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, broken, warning

NAMES = {"mpich": "MPICH", "openmpi": "Open MPI", "": "an unknown MPI"}


def _install(facts: Facts) -> str:
    return f"{facts.software.executable or 'python'} -m pip install 'mpi4py>=4' mpich"


def mpi4py_missing(facts: Facts) -> Iterator[Finding]:
    """Several ranks need mpi4py; one rank does not."""
    if "mpi4py" not in facts.software.packages:
        yield broken(
            "mpi4py_missing",
            f"{facts.software.executable} has no mpi4py: only one rank can run",
            _install(facts),
        )


def library_missing(facts: Facts) -> Iterator[Finding]:
    """mpi4py is there, but no MPI library loads."""
    named = facts.environ.get("MPI4PY_LIBMPI")
    if facts.mpi.problem and "mpi4py" in facts.software.packages and not named:
        yield broken(
            "mpi_library_missing",
            f"mpi4py is installed, but it loads no MPI library: {facts.mpi.problem}",
            f"{_install(facts)}; or put the folder of the cluster's libmpi.so on LD_LIBRARY_PATH "
            "(often `module load mpich`)",
        )


def wrong_path(facts: Facts) -> Iterator[Finding]:
    """MPI4PY_LIBMPI names a file that does not load."""
    named = facts.environ.get("MPI4PY_LIBMPI")
    if named and facts.mpi.problem and "mpi4py" in facts.software.packages:
        yield broken(
            "mpi4py_libmpi_wrong",
            f"MPI4PY_LIBMPI={named} does not load: {facts.mpi.problem}",
            "unset MPI4PY_LIBMPI, or set it to an existing libmpi.so.12 (MPICH) or libmpi.so.40 "
            "(Open MPI)",
        )


def mpiexec_missing(facts: Facts) -> Iterator[Finding]:
    """`allgrad run` starts several ranks by mpiexec, outside of Slurm."""
    problem = facts.mpi.mpiexec_problem
    if problem and not facts.in_job and "SLURM_JOB_ID" not in facts.environ:
        yield broken(
            "mpiexec_missing",
            f"no usable mpiexec: {problem}; `allgrad run -n 2` cannot start ranks",
            _install(facts),
        )


def mpiexec_of_another_mpi(facts: Facts) -> Iterator[Finding]:
    """Ranks started by one MPI's mpiexec that load another's library never meet."""
    mpi = facts.mpi
    known = mpi.flavour and mpi.mpiexec_flavour and not facts.in_job
    if not known or mpi.flavour == mpi.mpiexec_flavour:
        return
    ours, theirs = NAMES[mpi.flavour], NAMES[mpi.mpiexec_flavour]
    yield broken(
        "wrong_mpi_for_mpi4py",
        f"mpi4py loads {ours} ({mpi.path}), but ranks would be started by {theirs} "
        f"({mpi.mpiexec}): each would be rank 0 of 1",
        f"put {ours}'s own mpiexec first on PATH, or set MPI4PY_LIBMPI to {theirs}'s libmpi.so, or "
        f"install both from one hand: {_install(facts)}",
    )


def library_from_elsewhere(facts: Facts) -> Iterator[Finding]:
    """The environment has an MPI of its own, and mpi4py loads another file of the same kind."""
    mpi, prefix = facts.mpi, facts.software.prefix
    beside = mpi.mpiexec.startswith(f"{prefix}{os.sep}")
    if not (mpi.path and prefix and beside and mpi.flavour == mpi.mpiexec_flavour):
        return
    if not mpi.path.startswith(f"{prefix}{os.sep}"):
        yield warning(
            "mpi_library_from_elsewhere",
            f"mpi4py loads {mpi.path}, but mpiexec is {mpi.mpiexec}: two installations of "
            f"{NAMES[mpi.flavour]}, maybe of different versions",
            "unset MPI4PY_LIBMPI and take the other MPI off LD_LIBRARY_PATH, or set PATH and "
            "MPI4PY_LIBMPI to the same installation",
        )


def onednn_missing(facts: Facts) -> Iterator[Finding]:
    """Without oneDNN the slow reference kernels compute."""
    problem, named = facts.software.onednn_problem, facts.environ.get("ALLGRAD_ONEDNN")
    if problem:
        fix = "unset ALLGRAD_ONEDNN, or set it to a libdnnl.so.3" if named else ""
        yield warning(
            "onednn_missing",
            f"oneDNN does not load, so convolutions and products run several times slower: "
            f"{problem}",
            fix or f"{facts.software.executable or 'python'} -m pip install onednn-cpu-gomp",
        )
