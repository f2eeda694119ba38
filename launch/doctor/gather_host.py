"""Facts about the machine: name, cores, folders, limits, network interfaces."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import shutil
import socket
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

from allgrad.ddp import segments
from allgrad.launch.cores import available_cores
from allgrad.launch.doctor.facts import Folder, Host, Interface, Limits

_SIOCGIFFLAGS, _SIOCGIFADDR, _IFF_UP = 0x8913, 0x8915, 1  # linux/sockios.h, linux/if.h
_VIRTUAL = re.compile(
    r"(docker|br-|virbr|veth|cni|flannel|cali|vbox|vmnet|lxc|lxd|podman|tun|tap|ifb|dummy|kube)"
)
_TRIAL_BYTES = 1 << 16


def host() -> Host:
    """Cores, memory and load."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Host(
        name=socket.gethostname(),
        cores=os.cpu_count() or 1,
        affinity=available_cores(),
        quota=cpu_quota(),
        memory_bytes=pages * page,
        load=round(os.getloadavg()[0], 2),
    )


def addresses() -> tuple[tuple[str, ...], str]:
    """What our hostname stands for, and why it stands for nothing; may take long."""
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError as error:
        return (), f"{error.strerror or error}"
    return tuple(sorted(found)), ""


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: str | None = None) -> float:
    """Cores that the limits of the control groups around this process leave; 0.0: no limit.

    Args:
        root: where the control groups are.
        membership: text of /proc/self/cgroup.
    """
    if membership is None:
        try:
            membership = Path("/proc/self/cgroup").read_text()
        except OSError:
            return 0.0
    found: list[float] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        folder = top / path.lstrip("/")
        # Inside of a container the path may be the host's: what is mounted at the top is ours.
        for each in (folder, *folder.parents):
            if each == top or top in each.parents:
                found += _quota_of(each)
    return min(found, default=0.0)


def _quota_of(folder: Path) -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    with contextlib.suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    return []


def folder(path: str) -> Folder:
    """Room in a folder, found by writing a little."""
    try:
        usage = shutil.disk_usage(path)
        with tempfile.TemporaryFile(dir=path, prefix="allgrad-doctor-") as trial:
            trial.write(b"\1" * _TRIAL_BYTES)
            trial.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(path)
            return Folder(path, usage.free, usage.total, error.strerror or str(error))
        return Folder(path, problem=error.strerror or str(error))
    return Folder(path, usage.free, usage.total)


def temporary_folder(environ: Mapping[str, str]) -> Folder:
    """The folder of TMPDIR; where that is not set, the one that Python chooses."""
    named = environ.get("TMPDIR")
    if named:
        return folder(named)
    try:
        return folder(tempfile.gettempdir())
    except OSError as error:  # none of those that it tries can be written
        return Folder("/tmp", problem=error.strerror or str(error))


def current_folder() -> Folder:
    """The current folder, which may have been removed."""
    try:
        return folder(os.getcwd())
    except OSError as error:
        return Folder(".", problem=error.strerror or str(error))


def leftover_segments(folder: Path, older_than_s: float = 60.0) -> tuple[str, ...]:
    """Shared memory of this user's jobs of MPICH that no process maps; a young one may be new."""
    old = [path for path in segments.segments(folder) if segments.is_old(path, older_than_s)]
    return tuple(str(path) for path in segments.abandoned(old))


def limits() -> Limits:
    """Those in force (the soft ones)."""
    return Limits(open_files=_limit(resource.RLIMIT_NOFILE), locked_bytes=_limit(_memory_lock()))


def _memory_lock() -> int:
    return getattr(resource, "RLIMIT_MEMLOCK", resource.RLIMIT_NOFILE)


def _limit(which: int) -> int:
    soft = resource.getrlimit(which)[0]
    return -1 if soft == resource.RLIM_INFINITY else soft


def rdma_devices(folder: Path = Path("/sys/class/infiniband")) -> tuple[str, ...]:
    """Names of the InfiniBand devices."""
    return tuple(sorted(entry.name for entry in folder.iterdir())) if folder.is_dir() else ()


def interfaces(system: Path = Path("/sys/class/net")) -> tuple[Interface, ...]:
    """All network interfaces with their addresses."""
    six = _addresses_v6()
    found = []
    for _, name in socket.if_nameindex():
        four = _address_v4(name)
        known = ((four,) if four else ()) + tuple(six.get(name, ()))
        virtual = bool(_VIRTUAL.match(name)) or (system / name / "bridge").exists()
        found.append(Interface(name, _is_up(name), known, virtual))
    return tuple(found)


def _is_up(name: str) -> bool:
    answer = _ask(name, _SIOCGIFFLAGS)
    return answer is None or bool(struct.unpack_from("H", answer, 16)[0] & _IFF_UP)


def _address_v4(name: str) -> str:
    answer = _ask(name, _SIOCGIFADDR)
    return "" if answer is None else socket.inet_ntoa(answer[20:24])


def _ask(name: str, request: int) -> bytes | None:
    """The kernel's answer about an interface of our network namespace; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, request, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None


def _addresses_v6() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        digits, _, _, _, _, name = line.split()
        address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
        found.setdefault(name, []).append(address)
    return found
