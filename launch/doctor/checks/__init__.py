"""Checks: pure functions from facts to findings, one fault each, and the table of them all.

A check of ``CHECKS`` looks at one process, a check of ``JOB_CHECKS`` at all ranks of a job (or at
one process that stands for all where MPI does not connect them). A new one: a function here, its
name in a table, a row in docs/doctor.md, and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from allgrad.launch.doctor.checks import cores, gpu, hosts, mpi, network, places, ranks, slurm
from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, merged

CHECKS: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    mpi.mpi4py_missing,
    mpi.library_missing,
    mpi.wrong_path,
    mpi.mpiexec_missing,
    mpi.mpiexec_of_another_mpi,
    mpi.library_from_elsewhere,
    mpi.onednn_missing,
    ranks.contradicting_variables,
    ranks.stale_environment,
    ranks.no_launcher,
    ranks.launcher_of_another_mpi,
    ranks.separate_worlds,
    ranks.mpi_does_not_start,
    ranks.more_ranks_than_slots,
    slurm.srun_without_pmi,
    slurm.plugin_missing,
    slurm.default_without_pmi,
    cores.more_ranks_than_cores,
    cores.quota,
    cores.busy,
    places.shared_memory_small,
    places.leftover_segments,
    places.temporary_folder,
    places.current_folder,
    places.open_files,
    places.locked_memory,
    network.interface_missing,
    network.interface_down,
    network.hostname_unknown,
    network.hostname_loopback,
    network.virtual_interface,
    gpu.no_driver,
    gpu.hidden,
    gpu.not_there,
    gpu.more_ranks_than_gpus,
    gpu.old_driver,
    gpu.no_nccl,
    gpu.other_cuda,
)

JOB_CHECKS: tuple[Callable[[Sequence[Facts]], Iterable[Finding]], ...] = (
    cores.too_many_threads,
    cores.one_core_for_all,
    hosts.versions_differ,
    hosts.python_differs,
    hosts.mpi_differs,
    hosts.clocks_differ,
    network.same_address,
)


def check(job: Sequence[Facts]) -> list[Finding]:
    """All findings about a job, those that several ranks share said once.

    Args:
        job: facts of all ranks, in their order; or of one process that speaks for all.
    """
    found = [
        (rank, facts.host.name, finding)
        for rank, facts in enumerate(job)
        for function in CHECKS
        for finding in function(facts)
    ]
    everybody = [
        (rank, facts.host.name, finding)
        for function in JOB_CHECKS
        for finding in function(job)
        for rank, facts in enumerate(job)
    ]
    return merged(found + everybody, len(job))
