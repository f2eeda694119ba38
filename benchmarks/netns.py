"""Hosts on one machine: network namespaces on a bridge, with links of a given rate.

    python benchmarks/netns.py --rate 1gbit -- mpiexec-arguments...   # run ranks, one per host

Each host has a hostname, an address, System V memory and a /dev/shm of its own, so MPI libraries
take it for a separate machine and talk TCP. A link is full duplex and shaped in both directions by
a token bucket; kernels without netem cannot add latency, so there is only the stack's own, about
10 us per round. Needs root and iproute2. Names carry the number of the process that made them, and
`Hosts` is a context manager that takes everything away again, processes included.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_BURST = "256k"
# own user-visible host: name, addresses of the others, shared memory, System V memory
_ENTER = (
    'hostname "$1"; mount --bind "$2" /etc/hosts; mount -t tmpfs shm /dev/shm; shift 2; exec "$@"'
)
# a connection that is refused has arrived; after a cable was out, the first ones may not
_REACH = """
import errno, socket, sys, time
end = time.monotonic() + 10
while True:
    with socket.socket() as end_point:
        end_point.settimeout(0.2)
        if end_point.connect_ex((sys.argv[1], 9)) in (0, errno.ECONNREFUSED):
            break
    if time.monotonic() > end:
        sys.exit(f"{sys.argv[1]} cannot be reached")
"""
TCP_ONLY = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"}


class HostsError(RuntimeError):
    """Hosts cannot be made here; the message says why."""


class Hosts:
    """`count` hosts whose links run at `rate`; a context manager.

    Args:
        count: number of hosts, named node0, node1, ...; their addresses are 10.77.0.1, .2, ...
        rate: as tc writes it: "1gbit", "10gbit"; None for links that are not shaped.

    Raises:
        HostsError: on entry, where namespaces may not be made or iproute2 is missing.
    """

    def __init__(self, count: int, rate: str | None = None) -> None:
        self.count, self.rate = count, rate
        self._prefix = f"ag{os.getpid()}"
        self._made: list[str] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Hosts:
        if os.geteuid() != 0:
            raise HostsError("network namespaces need root")
        missing = [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool) is None]
        if missing:
            raise HostsError(f"not installed: {', '.join(missing)} (iproute2, util-linux)")
        _remove_abandoned()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _namespace(self, host: int) -> str:
        return f"{self._prefix}h{host}"

    def _build(self) -> None:
        switch = f"{self._prefix}s"
        self._make(switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host in range(self.count):
            name = self._namespace(host)
            self._make(name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{host}",
                "netns", switch)  # fmt: skip
            _ip("-n", switch, "link", "set", f"p{host}", "master", "br0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{host + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        self._write_files()
        self.shape(self.rate)

    def _make(self, name: str) -> None:
        done = subprocess.run(
            ["ip", "netns", "add", name], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise HostsError(f"`ip netns add` failed: {done.stderr.strip()}")
        self._made.append(name)

    def _write_files(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="allgrad-hosts-")
        folder = Path(self._folder.name)
        lines = ["127.0.0.1 localhost"]
        lines += [f"10.77.0.{host + 1} node{host}" for host in range(self.count)]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        shell = folder / "rsh"  # mpiexec's way to the other hosts: rsh [-options] nodeN command ...
        shell.write_text(
            "#!/bin/sh\n"
            'while true; do case "$1" in -l|-p|-o) shift 2;; -*) shift;; *) break;; esac; done\n'
            "host=$1; number=${host#node}; shift\n"
            f"exec ip netns exec \"{self._prefix}h$number\" unshare -u -m -i sh -c '{_ENTER}' "
            f'sh "$host" "{folder}/hosts" /bin/sh -c "$*"\n'
        )
        shell.chmod(0o755)

    def shape(self, rate: str | None) -> None:
        """Let all links run at another rate, both directions."""
        self.rate = rate
        switch = f"{self._prefix}s"
        for host in range(self.count):
            for name, device in ((self._namespace(host), "eth0"), (switch, f"p{host}")):
                tc = ["ip", "netns", "exec", name, "tc", "qdisc"]
                subprocess.run(
                    [*tc, "del", "dev", device, "root"], capture_output=True, check=False
                )
                if rate is not None:
                    _run(*tc, "add", "dev", device, "root", "tbf", "rate", rate, "burst", _BURST,
                         "latency", "20ms")  # fmt: skip

    def plug(self, host: int, connected: bool) -> None:
        """Take the cable of a host out, or put it in again and wait until others reach it."""
        state = "up" if connected else "down"
        _ip("-n", f"{self._prefix}s", "link", "set", f"p{host}", state)
        if connected:
            reach = [sys.executable, "-c", _REACH, f"10.77.0.{host + 1}"]
            _run(*self.command(0 if host else 1, reach))

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on a host."""
        assert self._folder is not None
        enter = ["ip", "netns", "exec", self._namespace(host), "unshare", "-u", "-m", "-i"]
        hosts = f"{self._folder.name}/hosts"
        return [*enter, "sh", "-c", _ENTER, "sh", f"node{host}", hosts, *argv]

    def mpiexec(
        self, argv: Sequence[str], ranks_per_host: int = 1, count: int | None = None
    ) -> list[str]:
        """The command that runs `argv` as ranks on all hosts, by MPICH's mpiexec over TCP.

        Give the process `TCP_ONLY` in its environment. `count`: only on so many of the hosts.
        """
        assert self._folder is not None
        mpiexec = shutil.which(
            "mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        )
        if mpiexec is None:
            raise HostsError("no mpiexec: pip install mpich")
        used = self.count if count is None else count
        names = ",".join(f"node{host}" for host in range(used))
        launcher = ["-launcher", "rsh", "-launcher-exec", f"{self._folder.name}/rsh"]
        ranks = ["-ppn", str(ranks_per_host), "-n", str(used * ranks_per_host)]
        return self.command(0, [mpiexec, *launcher, "-hosts", names, *ranks, *argv])

    def processes(self, host: int) -> list[int]:
        """The numbers of the processes on a host."""
        return _processes(self._namespace(host))

    def close(self) -> None:
        """End the processes on the hosts and remove the hosts. Idempotent."""
        for name in self._made:
            _end_processes(name)
        while self._made:
            name = self._made.pop()
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _processes(namespace: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in done.stdout.split()]


def _end_processes(namespace: str) -> None:
    for _ in range(50):
        pids = _processes(namespace)
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def _remove_abandoned() -> None:
    """Remove hosts whose maker was killed before it could."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    for name in (line.split()[0] for line in listed.stdout.splitlines() if line):
        ours = re.fullmatch(r"ag(\d+)(h\d+|s)", name)
        if ours is not None and not Path(f"/proc/{ours[1]}").exists():
            _end_processes(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostsError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment for ranks on hosts: TCP only, one thread each, no launcher's variables."""
    launchers = ("PMI_", "PMIX_", "MPI_", "OMPI_", "SLURM_", "HYDI_", "ALLGRAD_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launchers)}
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return kept | TCP_ONLY | one_thread | dict(extra or {})


def main() -> int:
    """Run a command as one rank per host."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("-n", "--hosts", type=int, default=2)
    parser.add_argument("--rate", default=None, help="1gbit, 10gbit, ...; default: not shaped")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        with Hosts(options.hosts, options.rate) as hosts:
            command = hosts.mpiexec(options.command)
            return subprocess.run(command, env=environment(), check=False).returncode
    except HostsError as error:
        print(f"no hosts: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
