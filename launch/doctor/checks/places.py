"""Shared memory, folders and limits."""

from __future__ import annotations

from collections.abc import Iterator

from allgrad.launch.doctor.facts import MIB, Facts
from allgrad.launch.doctor.finding import Finding, broken, warning

_MPI_MIB = 8  # per rank, what MPI itself takes in /dev/shm
_SMALL_MIB = 128  # per rank: gradients of about 30 million float32 parameters
_FEW_FILES, _SOME_FILES = 64, 512
_FULL_MIB = 64
_LOCKED_MIB = 64


def shared_memory_small(facts: Facts) -> Iterator[Finding]:
    """Gradient buckets of the ranks of one host lie in /dev/shm; beyond its end is a SIGBUS."""
    folder, ranks = facts.shared_memory, facts.ranks_here
    if ranks < 2:
        return
    free_mib = folder.free_bytes / MIB
    fix = (
        "docker run --shm-size=2g (or --ipc=host); Kubernetes: an emptyDir with medium: Memory at "
        "/dev/shm; else mount -o remount,size=50% /dev/shm"
    )
    if folder.problem:
        yield broken("shm_unusable", f"{folder.path}: {folder.problem}", fix)
    elif free_mib < _MPI_MIB * ranks:
        yield broken(
            "shm_too_small",
            f"{folder.path} has {free_mib:.0f} MiB free, MPI alone needs about {_MPI_MIB} MiB for "
            f"each of {ranks} ranks: they end with SIGBUS (signal 7)",
            fix,
        )
    elif free_mib < _SMALL_MIB * ranks:
        room = (free_mib / ranks - _MPI_MIB) * MIB / 4e6
        yield warning(
            "shm_too_small",
            f"{folder.path} has {free_mib:.0f} MiB free: room for the gradients of {room:.0f} "
            f"million float32 parameters with {ranks} ranks; a larger model ends with SIGBUS",
            fix,
        )


def leftover_segments(facts: Facts) -> Iterator[Finding]:
    """Shared memory that nobody maps stays until the machine starts anew."""
    if facts.segments:
        few = " ".join(facts.segments[:3]) + (" ..." if len(facts.segments) > 3 else "")
        yield warning(
            "leftover_shared_memory",
            f"{len(facts.segments)} segments of killed jobs take up shared memory: {few}",
            "rm them; the next job removes those that are older than ten minutes",
        )


def temporary_folder(facts: Facts) -> Iterator[Finding]:
    """Launchers keep sockets and files there."""
    folder = facts.temporary
    named = "TMPDIR" in facts.environ
    fix = "unset TMPDIR, or export TMPDIR=" if named else "export TMPDIR="
    fix += "a folder on a local disk that can be written"
    if folder.problem:
        yield broken(
            "tmpdir_unusable",
            f"the temporary folder {folder.path} cannot be used: {folder.problem}",
            fix,
        )
    elif folder.free_bytes < _FULL_MIB * MIB:
        yield warning(
            "tmpdir_full",
            f"the temporary folder {folder.path} has {folder.free_bytes / MIB:.1f} MiB free",
            f"remove files there; or {fix}",
        )


def current_folder(facts: Facts) -> Iterator[Finding]:
    """Checkpoints, logs and traces go there unless told otherwise."""
    folder = facts.current
    if folder.problem:
        yield warning(
            "folder_not_writable",
            f"the current folder {folder.path} cannot be written: {folder.problem}; checkpoints, "
            "logs and traces with relative paths fail",
            "change to a folder of yours, or name absolute paths",
        )
    elif folder.free_bytes < _FULL_MIB * MIB:
        yield warning(
            "folder_full",
            f"the disk of {folder.path} has {folder.free_bytes / MIB:.1f} MiB free: checkpoints "
            "cannot be saved",
            "remove files, or write checkpoints elsewhere",
        )


def open_files(facts: Facts) -> Iterator[Finding]:
    """Each connection and each worker of a data loader takes descriptors."""
    limit = facts.limits.open_files
    if 0 <= limit < _SOME_FILES:
        make = broken if limit < _FEW_FILES else warning
        yield make(
            "few_open_files",
            f"a process may open {limit} files at once; connections between ranks and data loaders "
            "with workers need more: OSError 24, Too many open files",
            "ulimit -n 4096 before the start; for good: nofile in /etc/security/limits.conf",
        )


def locked_memory(facts: Facts) -> Iterator[Finding]:
    """InfiniBand registers buffers, and that locks memory."""
    limit = facts.limits.locked_bytes
    if facts.rdma and 0 <= limit < _LOCKED_MIB * MIB:
        yield warning(
            "locked_memory",
            f"there is InfiniBand ({', '.join(facts.rdma)}), but only {limit / MIB:.0f} MiB of "
            "memory may be locked: MPI and NCCL fail to register buffers, or fall back to TCP",
            "ulimit -l unlimited; for good: memlock in /etc/security/limits.conf, and for Slurm "
            "LimitMEMLOCK=infinity in slurmd's unit",
        )
