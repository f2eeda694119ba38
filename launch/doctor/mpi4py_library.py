"""Which MPI library mpi4py loads: run as a program, because a wrong one can end the process.

    python mpi4py_library.py       # one line of JSON

MPI is loaded, not started: that needs no launcher, and leaves the launcher's connection alone.
"""

from __future__ import annotations

import json
import sys


def look() -> dict[str, str]:
    """Load mpi4py and say what came with it."""
    try:
        import mpi4py  # noqa: PLC0415 - it may be missing

        mpi4py.rc.initialize = False
        from mpi4py import MPI  # noqa: PLC0415 - as above
    except (ImportError, RuntimeError) as error:
        return {"problem": " ".join(str(error).split())}
    line = " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())
    line = line.partition(",")[0]  # Open MPI goes on with who built it where
    return {"library": line, "flavour": flavour(line), "path": loaded_file()}


def flavour(library: str) -> str:
    """The family of an MPI library: libraries of one family understand each other's launchers.

    Example:
        >>> flavour("Open MPI v5.0.11, package: Open MPI"), flavour("MPICH Version: 5.0.2")
        ('openmpi', 'mpich')
    """
    if "Open MPI" in library:
        return "openmpi"
    known = ("MPICH", "Intel(R) MPI", "MVAPICH", "CRAY MPICH")
    return "mpich" if any(name in library for name in known) else ""


def loaded_file() -> str:
    """The file of the library, as this process has mapped it; "" where that cannot be seen."""
    try:
        with open("/proc/self/maps") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if "/libmpi" in line]
    except OSError:
        return ""
    return paths[0] if paths else ""


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
