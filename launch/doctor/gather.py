"""From this process and its machine to `Facts`, in well under two seconds.

What may take long (programs, name servers) is asked side by side, each with a time limit, and a
question that is not answered in time is a fact as well. Nothing is started that could stay behind.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from allgrad.ddp import segments
from allgrad.launch.doctor import gather_host, gather_software, nvml
from allgrad.launch.doctor.facts import Facts, Host, Mpi, Slurm
from allgrad.launch.doctor.gather_links import stale_variables, twins

PATIENCE_S = 1.8  # for everything together
_RESOLVER_S = 1.2
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
    answers = _side_by_side(
        {
            "mpi": lambda: gather_software.mpi_library(environ, PATIENCE_S - 0.2),
            "mpiexec": lambda: gather_software.mpiexec(environ, mpiexec, PATIENCE_S - 0.2),
            "slurm": lambda: gather_software.slurm(environ, PATIENCE_S - 0.2),
            "gpus": nvml.gpus,
            "addresses": gather_host.addresses,
            "software": gather_software.software,
        }
    )
    facts = Facts(
        ranks=ranks,
        environ=relevant(environ),
        stale=stale_variables(environ),
        software=answers["software"] or gather_software.nothing_loaded(),
        mpi=_mpi(answers["mpi"], answers["mpiexec"]),
        host=_host(answers["addresses"]),
        shared_memory=gather_host.folder(str(segments.SHARED_MEMORY)),
        temporary=gather_host.temporary_folder(environ),
        current=gather_host.current_folder(),
        limits=gather_host.limits(),
        segments=gather_host.leftover_segments(segments.SHARED_MEMORY),
        interfaces=gather_host.interfaces(),
        rdma=gather_host.rdma_devices(),
        gpus=answers["gpus"] or nvml.Gpus(problem=f"no answer within {PATIENCE_S} s"),
        slurm=answers["slurm"] or Slurm(problem=f"no answer within {PATIENCE_S} s"),
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


def _side_by_side(questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Ask all at once; None for those that have not answered in time."""
    answers: dict[str, Any] = dict.fromkeys(questions)

    def ask(name: str) -> None:
        answers[name] = questions[name]()

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in questions]
    end = gather_host.now() + PATIENCE_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - gather_host.now(), 0.0))
    return dict(answers)


def _mpi(library: Mapping[str, str] | None, program: Mapping[str, str] | None) -> Mpi:
    late = f"no answer within {PATIENCE_S} s"
    found = {"problem": late} if library is None else library
    return Mpi(**found, **({"mpiexec_problem": late} if program is None else program))


def _host(found: tuple[tuple[str, ...], str] | None) -> Host:
    host = gather_host.host()
    known, problem = ((), "no name server answers") if found is None else found
    return replace(host, addresses=known, name_problem=problem)
