"""PyTorch's words for backends and meeting points, and what they mean here.

Stage of the flow: before `process_group` opens a communicator. Pure functions. May import:
`environment`, ``allgrad.errors``.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from allgrad.ddp.environment import RankEnvironment
from allgrad.errors import DistributedError, OptionError

BACKENDS = ("gloo", "mpi", "nccl", "thread", "local")
_POLICIES = {"nccl": "nccl", "gloo": "staged", "mpi": "staged"}
_METHODS = ("env://", "tcp://", "file://")


class Backend(str):
    """The name of a backend, in lower case; the known names are its attributes.

    Raises:
        OptionError: unknown name.

    Example:
        >>> Backend("GLOO") == Backend.GLOO == "gloo"
        True
    """

    UNDEFINED = "undefined"
    GLOO, MPI, NCCL, THREAD, LOCAL = BACKENDS
    backend_list = (UNDEFINED, *BACKENDS)

    def __new__(cls, name: str) -> Backend:
        lower = str(name).lower()
        if lower not in cls.backend_list:
            raise OptionError.unknown("backend", name, BACKENDS)
        return super().__new__(cls, lower)


def backend_of(spelling: str | None) -> str | None:
    """The backend that a spelling names, of the CPU where it names one for each device.

    Args:
        spelling: a backend, or "cpu:gloo,cuda:nccl" with one for each device.

    Returns:
        None where none is named.

    Raises:
        OptionError: unknown.

    Example:
        >>> backend_of("cpu:gloo,cuda:nccl"), backend_of("NCCL")
        ('gloo', 'nccl')
    """
    parts = _parts(spelling)
    return parts.get("cpu", parts.get("", parts.get("cuda")))


def gpu_policy_of(spelling: str | None) -> str | None:
    """How tensors of GPUs are to travel: by "nccl", "staged" through main memory, or as it fits.

    Example:
        >>> gpu_policy_of("cpu:gloo,cuda:nccl"), gpu_policy_of("mpi"), gpu_policy_of(None)
        ('nccl', 'staged', None)
    """
    parts = _parts(spelling)
    return _POLICIES.get(parts.get("cuda", parts.get("", "")))


def cpu_backend_of(spelling: str | None) -> str | None:
    """The backend for arrays of main memory, which every group has.

    Example:
        >>> cpu_backend_of("nccl"), cpu_backend_of("cpu:gloo,cuda:nccl")
        (None, 'gloo')
    """
    name = backend_of(spelling)
    return None if name == "nccl" else name


def _parts(spelling: str | None) -> dict[str, str]:
    """The backend for each device; for all of them by the key ""."""
    if spelling is None:
        return {}
    parts = {}
    for part in spelling.lower().split(","):
        device, _, backend = part.rpartition(":")
        if device not in ("", "cpu", "cuda") or backend not in BACKENDS:
            raise OptionError.unknown("backend", spelling, (*BACKENDS, "cpu:gloo,cuda:nccl"))
        parts[device] = backend
    if parts.get("cpu") == "nccl":
        raise OptionError(f"backend {spelling!r}: 'nccl' moves tensors of GPUs; use cpu:gloo")
    return parts


def expected_place(
    init_method: str | None, world_size: int, rank: int, store: object
) -> tuple[int, int]:
    """The (world_size, rank) that the arguments of `init_process_group` name; -1: any.

    Raises:
        OptionError: unknown init_method. DistributedError: `tcp://` or a store without a rank.

    Example:
        >>> expected_place("tcp://10.0.0.1:29500?rank=1&world_size=4", -1, -1, None)
        (4, 1)
    """
    if init_method is None and store is None:
        return world_size, rank
    method = init_method or ""
    if init_method is not None and not method.startswith(_METHODS):
        raise OptionError.unknown(
            "init_method", init_method, (None, *(f"{m}..." for m in _METHODS))
        )
    query = parse_qs(urlsplit(method).query)
    if world_size == -1 and "world_size" in query:
        world_size = int(query["world_size"][0])
    if rank == -1 and "rank" in query:
        rank = int(query["rank"][0])
    if not method.startswith("env://") and (world_size == -1 or rank == -1):
        raise DistributedError(
            f"init_method {init_method!r} or a store needs rank and world_size, as in PyTorch; "
            "or leave both out: the launcher says who this process is"
        )
    return world_size, rank


def no_launcher(place: RankEnvironment, rank: int, world_size: int) -> str:
    """The message for a process that was told its place but that no launcher started."""
    return (
        f"init_process_group was told rank={rank}, world_size={world_size}, but the launcher "
        f"{place.launcher!r} started rank {place.rank} of {place.size}. "
        + (
            "Processes do not find each other by tcp://, MASTER_ADDR or a store here: start the "
            "script with `allgrad run -n N script.py` (or mpiexec, srun), or the ranks with "
            "allgrad.multiprocessing.spawn(function, args, nprocs=N)"
            if place.launcher == "none"
            else "Leave rank and world_size out, or start as many ranks"
        )
    )


def wrong_launcher(place: RankEnvironment, rank: int, size: int, library: str) -> str:
    """The message for an MPI that sees another job than the launcher announced."""
    seen = (
        f"the launcher {place.launcher!r} announced rank {place.rank} of {place.size}, but "
        f"{library} sees rank {rank} of {size}: "
    )
    if place.launcher == "torchrun":
        return seen + (
            "torchrun (or RANK and WORLD_SIZE, set by hand) starts processes that MPI does not "
            f"connect. Start the same script with `allgrad run -n {place.size} script.py`, which "
            "sets RANK, WORLD_SIZE and LOCAL_RANK, too; over several hosts with mpiexec or srun"
        )
    return seen + (
        "launcher and MPI library do not belong together. "
        "Start with `allgrad run -n N script.py`, with the mpiexec of this MPI library, or under "
        "Slurm with `srun --mpi=pmi2` (MPICH) or `srun --mpi=pmix` (Open MPI); inside of `allgrad "
        "run` it is --mpi that says so"
    )
