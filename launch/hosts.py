"""Hosts with their slots, as users, host files and Slurm write them; pure functions but one.

Sources: mpirun(1) of Open MPI ("host slots=N") and the Hydra wiki of MPICH ("host:N") for host
files; srun(1), "OUTPUT ENVIRONMENT VARIABLES", for Slurm's lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from allgrad.errors import LaunchError

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ENTRY = re.compile(rf"({_NAME})(?::(\d+))?")
_KEYWORD = re.compile(r"(slots|max[-_]slots)\s*=\s*(\d+)")


@dataclass(frozen=True)
class Host:
    """A host and how many ranks it takes.

    Attributes:
        name: by which the other hosts reach it.
        slots: number of ranks that it takes, at least 1.
    """

    name: str
    slots: int


def parse_hosts(text: str, slots: int = 1) -> tuple[Host, ...]:
    """Read hosts as ``-H`` takes them; a host that is named twice has the slots of both.

    Args:
        text: "a:2,b:2", or "a,b".
        slots: of a host without a number.

    Raises:
        LaunchError: an entry is not of that form, or has no slot.

    Example:
        >>> parse_hosts("a:2,b")
        (Host(name='a', slots=2), Host(name='b', slots=1))
    """
    return _merged(_entry(part.strip(), slots, "-H") for part in text.split(","))


def read_hostfile(path: str | Path, slots: int = 1) -> tuple[Host, ...]:
    """Read a host file: a host per line, "host", "host:N" or "host slots=N"; # begins a comment.

    Args:
        path: of the file.
        slots: of a host without a number.

    Raises:
        LaunchError: it cannot be read, a line is not of that form, or there is no host in it.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"--hostfile {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if content:
            found.append(_file_line(content, slots, f"--hostfile {path}, line {number}"))
    if not found:
        raise LaunchError(f"--hostfile {path}: no host in it; expected lines such as 'node1:4'")
    return _merged(found)


def _file_line(content: str, slots: int, where: str) -> Host:
    name, _, rest = content.partition(" ")
    keywords = {key.replace("-", "_"): int(n) for key, n in _KEYWORD.findall(rest)}
    if _KEYWORD.sub("", rest).strip():
        raise LaunchError(
            f"{where}: expected 'host', 'host:N' or 'host slots=N [max_slots=M]', got {content!r}"
        )
    slots = keywords.get("slots", keywords.get("max_slots", slots))
    return _entry(name, slots, where)


def _entry(text: str, slots: int, where: str) -> Host:
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise LaunchError(f"{where}: expected a host such as 'node1' or 'node1:4', got {text!r}")
    slots = slots if match[2] is None else int(match[2])
    if slots < 1:
        raise LaunchError(f"{where}: host {match[1]} has no slots; give it one, or leave it out")
    return Host(match[1], slots)


def _merged(hosts: Iterable[Host]) -> tuple[Host, ...]:
    slots: dict[str, int] = {}
    for host in hosts:
        slots[host.name] = slots.get(host.name, 0) + host.slots
    return tuple(Host(name, count) for name, count in slots.items())


def slurm_hosts(environ: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts of the Slurm allocation around this process, without asking Slurm.

    The slots are its tasks per node; where the allocation names none, its CPUs.

    Args:
        environ: environment of a batch script, or of the shell of ``salloc``.

    Returns:
        The hosts; none where there is no allocation.

    Raises:
        LaunchError: a variable is not as srun(1) describes it.

    Example:
        >>> slurm_hosts({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2(x2)"})
        (Host(name='n1', slots=2), Host(name='n2', slots=2))
    """
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if not nodes:
        return ()
    names = expand_nodelist(nodes)
    tasks, cpus = "SLURM_TASKS_PER_NODE", "SLURM_JOB_CPUS_PER_NODE"
    for variable in (cpus,) if in_step(environ) else (tasks, cpus):  # a step has tasks of its own
        text = environ.get(variable)
        if text:
            counts = expand_counts(text, variable)
            if len(counts) != len(names):
                raise LaunchError(
                    f"{variable}={text!r} is for {len(counts)} nodes, but the allocation {nodes!r} "
                    f"has {len(names)}: the environment mixes two jobs, unset the old one"
                )
            return tuple(map(Host, names, counts))
    return tuple(Host(name, 1) for name in names)


def without_allocation(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a job that is to stay on this host, whatever Slurm has given."""
    names = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")
    return {name: value for name, value in environ.items() if name not in names}


def in_step(environ: Mapping[str, str]) -> bool:
    """Whether srun has started this process; the shells of sbatch and salloc are no steps.

    Example:
        >>> in_step({"SLURM_STEP_ID": "0"}), in_step({"SLURM_STEP_ID": "4294967291"})
        (True, False)
    """
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < 0xFFFFFFF0


def expand_counts(text: str, variable: str = "SLURM_TASKS_PER_NODE") -> list[int]:
    """Expand Slurm's counts per node.

    Raises:
        LaunchError: they are not of that form.

    Example:
        >>> expand_counts("2(x3),1")
        [2, 2, 2, 1]
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if match is None:
            raise LaunchError(f"{variable}={text!r}: expected counts such as '2(x3),1'")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_nodelist(text: str) -> list[str]:
    """Expand Slurm's list of nodes.

    Raises:
        LaunchError: it is not of that form.

    Example:
        >>> expand_nodelist("n[1-2,5],gpu[08-10],r[1-2]c[1-2]")
        ['n1', 'n2', 'n5', 'gpu08', 'gpu09', 'gpu10', 'r1c1', 'r1c2', 'r2c1', 'r2c2']
    """
    names: list[str] = []
    for entry in re.findall(r"(?:[^,\[\]]|\[[^\]]*\]?|\])+", text):
        parts = re.split(r"\[([^\]]*)\]", entry.strip())
        if any(set(part) & set("[] ") for part in parts) or not parts:
            raise LaunchError(f"expected a list of nodes such as 'n[1-2,5],gpu07', got {text!r}")
        choices = [
            [part] if index % 2 == 0 else _numbers(part, text) for index, part in enumerate(parts)
        ]
        names += ["".join(choice) for choice in product(*choices)]
    return names


def _numbers(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise LaunchError(f"expected a list of nodes such as 'n[1-2,5],gpu07', got {whole!r}")
        width = len(match[1])  # n[08-10] keeps its zeros
        last = int(match[2] or match[1])
        numbers += [f"{number:0{width}d}" for number in range(int(match[1]), last + 1)]
    return numbers


def place(
    hosts: Sequence[Host], nproc: int | None = None, per_node: int | None = None
) -> tuple[int, ...]:
    """Decide how many ranks each host gets: in blocks, the first host's first.

    Args:
        hosts: with their slots.
        nproc: number of ranks; None: all slots, or ``per_node`` on each host.
        per_node: how many ranks a host gets at most; None: as many as it has slots.

    Returns:
        A number per host; those of hosts that are not needed are 0.

    Raises:
        LaunchError: there are more ranks than slots, with what to do about it.

    Example:
        >>> place((Host("a", 4), Host("b", 4)), nproc=6)
        (4, 2)
        >>> place((Host("a", 4), Host("b", 4)), per_node=2)
        (2, 2)
    """
    small = [host for host in hosts if per_node is not None and host.slots < per_node]
    if small:
        raise LaunchError(
            f"{per_node} ranks per node are asked for, but host {small[0].name} has "
            f"{_slots(small[0].slots)}; write {small[0].name}:{per_node} to give it as many"
        )
    takes = [host.slots if per_node is None else per_node for host in hosts]
    left = sum(takes) if nproc is None else nproc
    if left > sum(takes):
        listed = ", ".join(f"{host.name}:{take}" for host, take in zip(hosts, takes, strict=True))
        raise LaunchError(
            f"{left} ranks are asked for, but the {len(hosts)} hosts take {sum(takes)} ({listed}); "
            "ask for fewer, add hosts, or give them more slots: name:SLOTS"
        )
    ranks = []
    for take in takes:
        ranks.append(min(take, left))
        left -= ranks[-1]
    return tuple(ranks)


def _slots(count: int) -> str:
    return "1 slot" if count == 1 else f"{count} slots"
