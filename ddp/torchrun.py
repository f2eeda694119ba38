"""Processes that torchrun started become one MPI job; also those that were given its variables.

Stage of the flow: inside `connecting`, before MPI starts. MPI learns the ranks from a process
manager; torchrun is none. So rank 0 starts `pmi_server`, all ranks meet there, and MPI (MPICH and
its relatives) finds it by PMI_PORT. Open MPI has another protocol, so there `check_world` explains.
Standard library only. May import: `environment`, ``allgrad.errors``.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from allgrad.ddp.environment import RankEnvironment
from allgrad.errors import DistributedError

_PORTS = 8  # that are tried, from MASTER_PORT on
_PAUSE_S = 0.05
_ANSWER_S = 5.0  # for somebody who is there


class _Lines:
    """A connection, read line by line."""

    def __init__(self, link: socket.socket) -> None:
        self.link, self._heard = link, b""

    def read(self, timeout_s: float | None) -> str:
        """The next line; "" if the other side has gone.

        Raises:
            TimeoutError: it says nothing for so long.
        """
        self.link.settimeout(timeout_s)
        while b"\n" not in self._heard:
            data = self.link.recv(4096)
            if not data:
                return ""
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode(errors="replace")


def _watch(lines: _Lines, place: RankEnvironment) -> None:
    """End this process if the meeting point tells that another rank is gone."""
    try:
        line = lines.read(None)
    except OSError:
        return
    match = re.match(r"cmd=gone rank=(\d+) code=(\d+) what=(.*)", line)
    if match is None:
        return  # the meeting point has ended, as it does when all ranks have
    where = f"[rank {place.rank}/{place.size}]"
    sys.stderr.write(f"{where} ends because rank {match[1]} is gone: {match[3]}\n")
    sys.stderr.flush()
    os._exit(int(match[2]) or 1)


_servers: list[subprocess.Popen[bytes]] = []  # it ends by itself, after the last rank
_met: list[RankEnvironment] = []  # where this process has met the others; MPI starts once


@contextmanager
def meeting(
    place: RankEnvironment, environ: MutableMapping[str, str], timeout_s: float
) -> Iterator[None]:
    """MPI is to be started inside: the ranks of torchrun have met, and it knows where to ask.

    Does nothing where another launcher has started the ranks, or MPI runs already.

    Args:
        place: of this rank.
        environ: of this process; has PMI_PORT and what belongs to it meanwhile, which programs that
            the script starts must not inherit.
        timeout_s: how long to wait for the other ranks.

    Raises:
        DistributedError: they do not come, or no port is free.
    """
    if not _applies(place, environ):
        yield
        return
    address, port = environ["MASTER_ADDR"], _first_port(environ)
    names = ("MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    job = re.sub(r"\s", "_", "-".join(environ.get(name, "") for name in names))
    if place.rank == 0:
        port = _serve(address, port, place, job)
        address = "127.0.0.1"  # the server is here, whatever others call this host
    lines, port = _join(address, port, place, job, time.monotonic() + timeout_s)
    _met.append(place)
    threading.Thread(target=_watch, args=(lines, place), name="meeting", daemon=True).start()
    told = {"PMI_PORT": f"{socket.gethostbyname(address)}:{port}", "PMI_SIZE": str(place.size)}
    told |= dict.fromkeys(("PMI_ID", "PMI_RANK"), str(place.rank))
    environ.update(told)
    try:
        yield
    finally:
        for name in told:
            environ.pop(name, None)


def _applies(place: RankEnvironment, environ: Mapping[str, str]) -> bool:
    """Whether these ranks were started by nobody whom MPI knows."""
    named = "MASTER_ADDR" in environ and "MASTER_PORT" in environ
    runs = bool(_met) or "mpi4py.MPI" in sys.modules
    return place.launcher == "torchrun" and place.size > 1 and named and not runs


def _first_port(environ: Mapping[str, str]) -> int:
    text = environ["MASTER_PORT"]
    if not text.isdigit() or not 0 < int(text) < 65536 - _PORTS:
        raise DistributedError(f"MASTER_PORT={text!r}: expected a port, 1 to {65535 - _PORTS}")
    # torchrun's agent listens at MASTER_PORT itself.
    return int(text) + (environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _serve(address: str, port: int, place: RankEnvironment, job: str) -> int:
    """Start the server; return its port."""
    here = address == "localhost" or address.startswith("127.")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for candidate in range(port, port + _PORTS):
        try:
            listener.bind(("127.0.0.1" if here else "0.0.0.0", candidate))
            break
        except OSError:
            continue
    else:
        raise DistributedError(
            f"[rank 0/{place.size}] no free port from MASTER_PORT {port} to {port + _PORTS - 1}; "
            "choose another MASTER_PORT"
        )
    listener.listen(2 * place.size)
    program = Path(__file__).with_name("pmi_server.py")
    with listener:
        server = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(program),
                str(listener.fileno()),
                str(place.size),
                job,
            ],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    _servers.append(server)
    return candidate


def _join(
    address: str, port: int, place: RankEnvironment, job: str, end: float
) -> tuple[_Lines, int]:
    """Find the port where this job meets, and wait there for the others."""
    hello = f"cmd=hello rank={place.rank} job={job} host={socket.gethostname()}\n"
    ports = (port,) if place.rank == 0 else tuple(range(port, port + _PORTS))
    while time.monotonic() < end:
        for candidate in ports:
            lines = _greet(address, candidate, hello)
            if lines is not None:
                _await_all(lines, f"{address}:{candidate}", place, end)
                return lines, candidate
        time.sleep(_PAUSE_S)
    raise DistributedError(
        f"[rank {place.rank}/{place.size}] nobody meets at MASTER_ADDR {address}, MASTER_PORT "
        f"{port}: start rank 0, too, with the same two variables; or start all ranks with "
        "`allgrad run -n N script.py` or mpiexec, which need none"
    )


def _greet(address: str, port: int, hello: str) -> _Lines | None:
    """Connect and say hello; None if there is nobody, or somebody else."""
    try:
        link = socket.create_connection((address, port), timeout=_ANSWER_S)
    except OSError:
        return None
    lines = _Lines(link)
    try:
        link.sendall(hello.encode())
        if lines.read(_ANSWER_S) == "cmd=welcome":
            return lines
    except OSError:
        pass  # torchrun's own store, which does not understand us
    link.close()
    return None


def _await_all(lines: _Lines, where: str, place: RankEnvironment, end: float) -> None:
    try:
        if lines.read(max(end - time.monotonic(), 0.1)) == "cmd=all_here":
            return
        here = "rank 0 has ended meanwhile"
    except TimeoutError:
        lines.link.sendall(b"cmd=who\n")
        ranks = set(map(int, lines.read(_ANSWER_S).rpartition("=")[2].split(",")))
        missing = sorted(set(range(place.size)) - ranks)
        here = f"missing: rank {', '.join(map(str, missing))}"
    lines.link.close()
    raise DistributedError(
        f"[rank {place.rank}/{place.size}] not all ranks have come to {where}; {here}. Were all "
        "started, with the same WORLD_SIZE?"
    )
