"""From this process and its machine to `Facts`, usually in well under two seconds.

What may take long (programs, name servers) is asked side by side, each with a time limit, and a
question that is not answered in time is a fact as well. Nothing is started that could stay behind.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from allgrad.ddp import segments
from allgrad.launch.doctor import gather_host, gather_software, nvml
from allgrad.launch.doctor.facts import Facts, Host, Mpi, Slurm
from allgrad.launch.doctor.gather_links import stale_variables, twins

# Most answers take milliseconds. A library on a cold network disk may take seconds: no fault.
LIBRARY_S, PROGRAM_S = 15.0, 10.0
SLURM_S, NAMES_S, GPUS_S = 1.5, 1.5, 5.0
_MOMENT_S = 0.5
_T = TypeVar("_T")
_FAMILIES = re.compile(
    r"(ALLGRAD|OMP|KMP|OPENBLAS|MKL|BLIS|CUDA|NCCL|GLOO|UCX|FI|MPICH|MPIR|HYDRA|HYDI|I_MPI|MV2|PMI"
    r"|PMIX|OMPI|PRTE|SLURM|MPI4PY|MASTER|TORCHELASTIC)_\w+"
)
_NAMES = frozenset(
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE MPI_LOCALRANKID "
    "MPI_LOCALNRANKS PATH LD_LIBRARY_PATH PYTHONPATH TMPDIR VIRTUAL_ENV".split()
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|_KEY")


def gather(
    environ: Mapping[str, str] = os.environ, ranks: int = 1, mpiexec: str | None = None
) -> Facts:
    """Write down what this process sees.

    Args:
        environ: its environment variables.
        ranks: how many ranks are asked for, where no launcher has started this process.
        mpiexec: to start ranks with; None: the one that `allgrad run` finds.
    """
    environ = dict(environ)
    answers, software = _side_by_side(
        {
            "library": (lambda: gather_software.mpi_library(environ, LIBRARY_S), LIBRARY_S),
            "program": (lambda: gather_software.mpiexec(environ, mpiexec, PROGRAM_S), PROGRAM_S),
            "slurm": (lambda: gather_software.slurm(environ, SLURM_S), SLURM_S),
            "gpus": (nvml.gpus, GPUS_S),
            "addresses": (gather_host.addresses, NAMES_S),
        },
        gather_software.software,
    )
    facts = Facts(
        ranks=ranks,
        environ=relevant(environ),
        stale=stale_variables(environ),
        software=software,
        mpi=_mpi(answers["library"], answers["program"]),
        host=_host(answers["addresses"]),
        shared_memory=gather_host.folder(str(segments.SHARED_MEMORY)),
        temporary=gather_host.temporary_folder(environ),
        current=gather_host.current_folder(),
        limits=gather_host.limits(),
        segments=gather_host.leftover_segments(segments.SHARED_MEMORY),
        interfaces=gather_host.interfaces(),
        rdma=gather_host.rdma_devices(),
        gpus=answers["gpus"] or nvml.Gpus(problem=f"no answer within {GPUS_S} s"),
        slurm=answers["slurm"] or Slurm(problem=f"no answer within {SLURM_S} s"),
    )
    # Last: those that were started together with this process have come by now.
    return facts if facts.in_job else replace(facts, twins=twins())


def relevant(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that decide about ranks, threads, GPUs and networks, without secrets.

    Example:
        >>> relevant({"PMI_RANK": "0", "HOME": "/root", "NCCL_TOKEN": "x"})
        {'PMI_RANK': '0'}
    """
    kept = {}
    for name, value in environ.items():
        known = name in _NAMES or _FAMILIES.fullmatch(name)
        if known and not _SECRET.search(name):
            # The address holds the word by which workers are known to their supervisor.
            kept[name] = "..." if name == "ALLGRAD_SUPERVISOR" else value
    return kept


def _side_by_side(
    questions: Mapping[str, tuple[Callable[[], Any], float]], meanwhile: Callable[[], _T]
) -> tuple[dict[str, Any], _T]:
    """Ask all at once; None for those that have not answered within their seconds."""
    answers: dict[str, Any] = dict.fromkeys(questions)

    def ask(name: str) -> None:
        answers[name] = questions[name][0]()

    threads = {name: threading.Thread(target=ask, args=(name,), daemon=True) for name in questions}
    begin = time.monotonic()
    for thread in threads.values():
        thread.start()
    own = meanwhile()
    for name, thread in threads.items():
        # What has a limit of its own gets a moment more, to say that it was reached.
        thread.join(max(begin + questions[name][1] + _MOMENT_S - time.monotonic(), 0.0))
    return dict(answers), own


def _mpi(library: Mapping[str, str] | None, program: Mapping[str, str] | None) -> Mpi:
    late = "no answer in time"
    found = {"problem": late} if library is None else library
    return Mpi(**found, **({"mpiexec_problem": late} if program is None else program))


def _host(found: tuple[tuple[str, ...], str] | None) -> Host:
    host = gather_host.host()
    late = f"no name server answers within {NAMES_S} s"
    known, problem = ((), late) if found is None else found
    return replace(host, addresses=known, name_problem=problem)
