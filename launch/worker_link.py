"""The worker's way to its supervisor, and its place among the ranks.

Loaded by ``worker`` by path, in the ranks' processes: standard library only, nothing of allgrad.
The supervisor imports what both sides share.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

WELCOME = b"+"  # the supervisor's answer to the secret word
UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_CONNECT_S = 10.0
_SIZES = ("ALLGRAD_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def connect(address: str, host_timeout_s: float = 30.0) -> socket.socket:
    """Connect to the supervisor.

    Args:
        address: path of its Unix socket, or "tcp:WORD@HOST:PORT,HOST:PORT": the addresses of one
            host, of which one will be right from here.
        host_timeout_s: silence after which it is taken for lost.

    Raises:
        OSError: it cannot be reached.
    """
    if not address.startswith("tcp:"):
        link = socket.socket(socket.AF_UNIX)
        link.connect(address)
        return link
    word, _, places = address.removeprefix("tcp:").partition("@")
    errors = []
    for place in places.split(","):
        host, _, port = place.rpartition(":")
        try:
            link = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S)
            link.sendall(word.encode())
            if link.recv(1) == WELCOME:
                link.settimeout(None)
                keep_alive(link, host_timeout_s)
                return link
            errors.append(f"{place}: somebody else answers there")
        except OSError as error:
            errors.append(f"{place}: {error}")
    raise OSError(
        f"{socket.gethostname()} does not reach the supervisor of `allgrad run` "
        f"({'; '.join(errors)}); is there a firewall between the hosts?"
    )


def keep_alive(link: socket.socket, host_timeout_s: float) -> None:
    """Let the kernel end a connection whose other host has been silent for so many seconds."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = max(1, round(host_timeout_s))
    settings = {
        "TCP_NODELAY": 1,
        "TCP_KEEPIDLE": 1,  # seconds of silence before the first question
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": seconds,
        "TCP_USER_TIMEOUT": 1000 * seconds,  # for what was sent and not confirmed
    }
    for name, value in settings.items():
        if hasattr(socket, name):  # other systems have some of them
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Place(NamedTuple):
    """This rank's place."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    nodes: int


def rank_of(environ: Mapping[str, str]) -> int:
    """The rank, by the variable that the launcher fills; 0 where there is none."""
    return int(environ.get(environ.get("ALLGRAD_RANK_VARIABLE", "ALLGRAD_RANK"), "0"))


def place_of(environ: Mapping[str, str]) -> Place | None:
    """Where this rank is: ranks lie in blocks, the first host's first.

    Example:
        >>> e = {"ALLGRAD_RANK_VARIABLE": "PMI_RANK", "ALLGRAD_RANKS_PER_HOST": "2,3"}
        >>> place_of(e | {"PMI_RANK": "3"})
        Place(rank=3, size=5, local_rank=1, local_size=3, node=1, nodes=2)
    """
    if environ.get("ALLGRAD_RANK_VARIABLE", "ALLGRAD_RANK") not in environ:
        return None
    counts = _ranks_per_host(environ)
    rank, first = rank_of(environ), 0
    for node, count in enumerate(counts):
        if rank < first + count:
            return Place(rank, sum(counts), rank - first, count, node, len(counts))
        first += count
    return None


def _ranks_per_host(environ: Mapping[str, str]) -> list[int]:
    if environ.get("ALLGRAD_RANKS_PER_HOST"):
        return [int(count) for count in environ["ALLGRAD_RANKS_PER_HOST"].split(",")]
    if environ.get("ALLGRAD_RANK_VARIABLE") == "SLURM_PROCID":  # srun that made its allocation
        parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        return [int(count) for count, times in parts for _ in range(int(times or 1))]
    return [int(environ[name]) for name in _SIZES if name in environ][:1]


def name_as_torchrun(environ: MutableMapping[str, str]) -> None:
    """Scripts written for torchrun read their place from these variables."""
    place = place_of(environ)
    if place is None:
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    for name, number in zip((*names, "GROUP_WORLD_SIZE"), place, strict=True):
        environ[name] = str(number)
    environ.setdefault("MASTER_ADDR", "127.0.0.1")
    environ.setdefault("MASTER_PORT", "29500")


def divide_cores(environ: MutableMapping[str, str]) -> None:
    """Give this rank its share of its host's cores, where the launcher left that to the host."""
    place = place_of(environ)
    slurm = environ.get("ALLGRAD_RANK_VARIABLE") == "SLURM_PROCID"
    if place is None or not (slurm or environ.get("ALLGRAD_RANKS_PER_HOST")):
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(cores) or os.cpu_count() or 1
    threads = max(1, count // place.local_size)
    if slurm:
        # Slurm may have bound this task to its own cores: what the mask shows is not the host's.
        on_node = environ.get("SLURM_CPUS_ON_NODE", "")
        per_task = environ.get("SLURM_CPUS_PER_TASK", "")
        if on_node.isdigit():
            threads = max(1, int(on_node) // place.local_size)
        if per_task.isdigit():
            threads = int(per_task)
    for name in THREAD_VARIABLES:
        environ.setdefault(name, str(threads))
    if environ.get("ALLGRAD_BIND_CORES") == "1" and cores:
        width = min(int(environ["OMP_NUM_THREADS"]), count)
        begin = place.local_rank * width
        os.sched_setaffinity(0, {cores[(begin + i) % count] for i in range(width)})


def bind(environ: Mapping[str, str]) -> None:
    """Keep this rank on its cores: ``ALLGRAD_BIND`` is "0,1;2,3" for two ranks of two cores."""
    sets = environ.get("ALLGRAD_BIND", "")
    if sets:
        places = sets.split(";")
        cores = places[rank_of(environ) % len(places)]
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def restore_tmpdir(environ: MutableMapping[str, str]) -> None:
    """The launcher's temporary files go to a private folder, the script's do not."""
    if "ALLGRAD_TMPDIR" in environ:
        original = environ.pop("ALLGRAD_TMPDIR")
        if original:
            environ["TMPDIR"] = original
        else:
            environ.pop("TMPDIR", None)


def shared_memory_of(pid: int) -> set[str]:
    """MPICH's files in /dev/shm that a process has mapped: those of its job."""
    try:
        with open(f"/proc/{pid}/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps}
    except OSError:
        return set()  # it has ended, or this is no Linux
    return {path for path in paths if path.startswith("/dev/shm/mpich_shm_")}


def unlink_all(paths: set[str]) -> None:
    """Remove shared memory of a job that has failed; other ranks of it may be faster."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def event_pipe(environ: MutableMapping[str, str], variable: str) -> int | None:
    """Let the script's file of events be a pipe of ours; return the end to read, or None.

    The launcher's file is on another host. A path into /proc leads every process of the rank to the
    pipe, and nothing is left when this process ends.
    """
    if sys.platform != "linux" or variable not in environ:
        environ.pop(variable, None)
        return None
    read, write = os.pipe()
    environ[variable] = f"/proc/{os.getpid()}/fd/{write}"
    return read
