"""Where the ranks' workers reach the supervisor: a Unix socket here, TCP from other hosts.

Over TCP a worker first says a secret word that only the ranks of this job are told, so that nobody
else can talk to the supervisor; nothing is encrypted, as MPI's own traffic is not. The kernel asks
after a silent connection every second (keep-alive), on both sides: a host that has gone is noticed
within `HOST_TIMEOUT_S` seconds, while a rank that is stopped or busy is not taken for one.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from allgrad.errors import LaunchError
from allgrad.launch import worker_link

HOST_TIMEOUT_S = 30.0
_UNACKED = 24  # tcpi_unacked in struct tcp_info, see linux/tcp.h
_ANYWHERE = ("0.0.0.0", "::")


@dataclass
class Door:
    """A bound socket and what opens it.

    Attributes:
        listener: listens.
        address: for ``ALLGRAD_SUPERVISOR``.
        token: what a worker says first; "" on this host's own socket.
        host_timeout_s: silence after which a host is taken for lost.
    """

    listener: socket.socket
    address: str
    token: str = ""
    host_timeout_s: float = HOST_TIMEOUT_S
    _heard: dict[socket.socket, bytes] = field(default_factory=dict)

    @property
    def to_other_hosts(self) -> bool:
        """Whether it listens on TCP."""
        return bool(self.token)

    def accept(self) -> socket.socket:
        """Take the next connection, which has not said its word yet."""
        link, _ = self.listener.accept()
        if self.token:
            worker_link.keep_alive(link, self.host_timeout_s)
            link.setblocking(False)
        return link

    def admits(self, link: socket.socket) -> bool | None:
        """Whether a new connection has said the word; None: it is still speaking."""
        heard = self._heard.get(link, b"")
        if self.token:
            try:
                data = link.recv(len(self.token) - len(heard))
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            heard += data
            if data and len(heard) < len(self.token):
                self._heard[link] = heard
                return None
        self._heard.pop(link, None)
        good = hmac.compare_digest(heard, self.token.encode())
        if good and self.token:
            link.setblocking(True)
            with contextlib.suppress(OSError):  # if it has gone already, reading will tell
                link.sendall(worker_link.WELCOME)
        return good


@contextmanager
def unix_door(folder: Path, backlog: int) -> Iterator[Door]:
    """Listen to the workers of this host."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        address = str(folder / "socket")
        listener.bind(address)
        listener.listen(backlog)
        yield Door(listener, address)


@contextmanager
def tcp_door(
    hosts: Iterable[str], backlog: int, *, strict: bool, host_timeout_s: float = HOST_TIMEOUT_S
) -> Iterator[Door]:
    """Listen to the workers of other hosts.

    Args:
        hosts: their names.
        backlog: number of workers.
        strict: whether each name must be known here; Slurm may know nodes by other names.
        host_timeout_s: see `Door`.

    Raises:
        LaunchError: a host's name is not known, or there is no way to it.
    """
    ours = own_addresses(hosts, strict=strict)
    if not strict:
        ours += [a for a in (*_addresses_of(socket.gethostname()), "127.0.0.1") if a not in ours]
    several = len(ours) > 1
    v6 = any(":" in address for address in ours)
    bound = _ANYWHERE[v6] if several else ours[0]
    with contextlib.closing(socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)) as listener:
        if v6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((bound, 0))
        listener.listen(backlog)
        port = listener.getsockname()[1]
        token = secrets.token_hex(16)
        listed = ",".join(f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in ours)
        yield Door(listener, f"tcp:{token}@{listed}", token, host_timeout_s)


def own_addresses(hosts: Iterable[str], *, strict: bool) -> list[str]:
    """Return this host's addresses as the given hosts see them, each once.

    Args:
        hosts: names or addresses.
        strict: whether a name that is not known is an error.

    Raises:
        LaunchError: it is not known, or there is no way to it.

    Example:
        >>> own_addresses(["127.0.0.1"], strict=True)
        ['127.0.0.1']
    """
    found: dict[str, None] = {}
    for host in hosts:
        try:
            found[_address_towards(host)] = None
        except OSError as error:
            if strict:
                raise LaunchError(
                    f"host {host}: {error.strerror or error}; check its name, DNS or /etc/hosts, "
                    f"and that `ssh {host} true` works"
                ) from error
    return [*found]


def _address_towards(host: str) -> str:
    family, kind, protocol, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
        probe.connect(there)  # sends nothing: it only asks for the way
        return str(probe.getsockname()[0])


def _addresses_of(name: str) -> list[str]:
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)]
    except OSError:
        return []  # a host that does not know its own name; the other ways remain


def is_lost(error: OSError) -> bool:
    """Whether an error of a connection means that the other host has gone."""
    return isinstance(error, TimeoutError) or error.errno in worker_link.UNREACHABLE


def is_silent(link: socket.socket) -> bool:
    """Whether the other host's kernel has left something of ours unconfirmed (Linux only)."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    try:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:
        return False  # closed: it has ended
    return struct.unpack_from("=I", info, _UNACKED)[0] > 0


def host_timeout(environ: Mapping[str, str]) -> float:
    """Seconds of silence after which a host is lost: ``ALLGRAD_HOST_TIMEOUT``, else the default.

    Raises:
        LaunchError: it is not a number of at least 1.
    """
    text = environ.get("ALLGRAD_HOST_TIMEOUT", "")
    try:
        value = float(text or HOST_TIMEOUT_S)
    except ValueError:
        value = 0.0
    if not value >= 1:
        raise LaunchError(f"ALLGRAD_HOST_TIMEOUT={text!r}: expected seconds, at least 1")
    return value
