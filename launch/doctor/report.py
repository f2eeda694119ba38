"""The doctor's report: lines for people, or one object of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from allgrad.launch.doctor.checks.cores import by_host, threads_of
from allgrad.launch.doctor.facts import MIB, Facts, Folder
from allgrad.launch.doctor.finding import BROKEN, Finding
from allgrad.launch.doctor.self_test import Row

FINE, BROKEN_CODE, WARNING_CODE = 0, 2, 1
_GIB = 1 << 30


@dataclass(frozen=True)
class Report:
    """What the doctor has to say.

    Attributes:
        job: facts of all ranks, or of one process that speaks for all.
        findings: the broken things first.
        rows: measurements of the self test; ``communicator`` by which; ``not_run`` why there are
            none.
        seconds: that gathering and checking took, without the self test.
    """

    job: tuple[Facts, ...]
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...] = ()
    ranks: int = 0
    communicator: str = ""
    not_run: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """The last line."""
        bad = sum(finding.severity == BROKEN for finding in self.findings)
        rest = len(self.findings) - bad
        warnings = f"{rest} warning{'s' if rest != 1 else ''}"
        if bad:
            things = "1 thing has" if bad == 1 else f"{bad} things have"
            return f"broken: {things} to be mended" + (f", and {warnings}" if rest else "")
        tested = "" if self.rows else " (as far as can be seen without the self test)"
        return (f"works, with {warnings}" if rest else "everything is fine") + tested

    def exit_code(self, strict: bool) -> int:
        """0: ranks can run; 2: something is broken; with `strict`, 1: there are warnings."""
        if any(finding.severity == BROKEN for finding in self.findings):
            return BROKEN_CODE
        return WARNING_CODE if strict and self.findings else FINE

    def to_json(self) -> str:
        """Everything, for programs."""
        rows = [asdict(row) | {"gigabytes_per_s": row.gigabytes_per_s} for row in self.rows]
        test = {"ranks": self.ranks, "communicator": self.communicator, "all_reduce": rows}
        return json.dumps(
            {
                "verdict": self.verdict,
                "findings": [asdict(finding) for finding in self.findings],
                "self_test": test | {"not_run": self.not_run},
                "seconds": round(self.seconds, 3),
                "ranks": [asdict(facts) for facts in self.job],
            },
            indent=1,
        )

    def lines(self) -> Iterator[str]:
        """Everything, for people."""
        for name, text in self._sections():
            yield f"{name:<10} {text}"
        for finding in self.findings:
            where = f" ({finding.where})" if finding.where else ""
            yield ""
            yield f"{finding.severity}: {finding.name}{where}"
            yield f"  cause: {finding.cause}"
            yield f"  fix:   {finding.fix}"
        yield ""
        yield f"verdict: {self.verdict}"

    def _sections(self) -> Iterator[tuple[str, str]]:
        facts = self.job[0]
        yield from _software(facts)
        yield "launcher", _launcher(facts)
        for group in by_host(self.job):
            yield "host", _host(group[0], facts.ranks_here if len(self.job) == 1 else len(group))
        yield (
            "memory",
            f"{_room(facts.shared_memory)}; temporary folder {_room(facts.temporary)}",
        )
        yield "GPU", _gpus(facts)
        yield "network", _network(facts)
        yield "Slurm", _slurm(facts)
        if not self.rows:
            yield "self test", f"not run: {self.not_run}"
        for row in self.rows:
            yield "self test", f"{self.ranks} ranks ({self.communicator}), {_row(row)}"


def _software(facts: Facts) -> Iterator[tuple[str, str]]:
    software, mpi = facts.software, facts.mpi
    packages = software.packages
    numpy = f"NumPy {packages.get('numpy', '?')}"
    yield (
        "allgrad",
        f"{packages.get('allgrad', '?')}, Python {software.version} ({software.executable}), "
        f"{numpy}",
    )
    library = f"{mpi.library} ({mpi.path})" if mpi.library else "no library"
    binding = f"mpi4py {packages['mpi4py']}" if "mpi4py" in packages else "no mpi4py"
    starter = f"{mpi.mpiexec} ({mpi.mpiexec_version})" if mpi.mpiexec else "no mpiexec"
    yield "MPI", f"{library}, {binding}" + ("" if facts.in_job else f"; {starter}")
    version = f"oneDNN {software.onednn_version} ({software.onednn})"
    yield "kernels", version if software.onednn else "NumPy; oneDNN does not load"


def _launcher(facts: Facts) -> str:
    place = facts.place
    threads = threads_of(facts)
    if place is None:
        return "unclear: its variables contradict each other"
    if not facts.in_job:
        return (
            f"none around this process; `allgrad run -n {facts.ranks}` starts {facts.ranks} ranks "
            f"here, {_count(threads, 'thread')} each"
        )
    local = "?" if place.local_size is None else place.local_size
    nodes = "" if place.node_count is None else f" on {_count(place.node_count, 'host')}"
    return (
        f"{place.launcher}: {place.size} ranks{nodes}, {local} on this host, "
        f"{_count(threads, 'thread')} each"
    )


def _host(facts: Facts, ranks: int) -> str:
    host = facts.host
    usable = len(host.affinity)
    some = "" if usable == host.cores else f" ({usable} usable by this process)"
    limit = f", limited to {host.quota:g}" if host.quota else ""
    return (
        f"{host.name}: {_count(ranks, 'rank')}, {_count(host.cores, 'core')}{some}{limit}, "
        f"{host.memory_bytes / _GIB:.0f} GiB, load {host.load:.1f}, "
        f"{_limit(facts.limits.open_files)} open files"
    )


def _gpus(facts: Facts) -> str:
    wheels = [
        f"{name} {version}"
        for name, version in sorted(facts.software.packages.items())
        if name.startswith(("cupy", "nvidia"))
    ]
    libraries = "; " + ", ".join(wheels) if wheels else ""
    if not facts.gpus.names:
        driver = f"driver {facts.gpus.driver}" if facts.gpus.driver else "no NVIDIA driver"
        return f"none ({driver}){libraries}"
    kinds = {name: facts.gpus.names.count(name) for name in facts.gpus.names}
    listed = ", ".join(f"{count} x {name}" for name, count in kinds.items())
    return f"{listed}, driver {facts.gpus.driver}{libraries}"


def _network(facts: Facts) -> str:
    up = [
        f"{interface.name} {interface.addresses[0] if interface.addresses else '(no address)'}"
        for interface in facts.interfaces
        if interface.up and not interface.is_loopback
    ]
    rdma = f"; InfiniBand {', '.join(facts.rdma)}" if facts.rdma else ""
    known = ", ".join(facts.host.addresses) or "nothing"
    return f"{', '.join(up) or 'loopback only'}{rdma}; {facts.host.name} stands for {known}"


def _slurm(facts: Facts) -> str:
    slurm = facts.slurm
    if not slurm.version:
        return slurm.problem or "not installed"
    job = facts.environ.get("SLURM_JOB_ID")
    inside = f"; inside of job {job}" if job else ""
    if slurm.problem:
        return f"installed, but no cluster answers (`scontrol show config` says why){inside}"
    kinds = f"--mpi={'|'.join(slurm.plugins)}" if slurm.plugins else "kinds of --mpi not known"
    return f"{slurm.version}, {kinds}, default {slurm.default}{inside}"


def _room(folder: Folder) -> str:
    if folder.problem:
        return f"{folder.path} unusable"
    return f"{folder.path} {_size(folder.free_bytes)} free of {_size(folder.total_bytes)}"


def _row(row: Row) -> str:
    time = f"{row.median_us:.1f} us" if row.median_us < 1e4 else f"{row.median_us / 1e3:.1f} ms"
    rate = f", {row.gigabytes_per_s:.2f} GB/s" if row.size_bytes > 1024 else " (latency)"
    return f"all-reduce of {_size(row.size_bytes)}: {time}{rate}, median of {row.rounds}"


def _size(count: float) -> str:
    for unit, name in ((_GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return (
                f"{count / unit:.0f} {name}" if count >= 10 * unit else f"{count / unit:.3g} {name}"
            )
    return f"{count:.0f} bytes"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _limit(number: int) -> str:
    return "any number of" if number < 0 else str(number)
