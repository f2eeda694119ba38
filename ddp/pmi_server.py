"""Lets processes that no MPI launcher started become one MPI job: the server's side.

Started by rank 0 (`torchrun`) as a process of its own, because it must answer until the last rank
has left MPI; it ends when nobody is connected any more. Standard library only; run by path.

Each rank opens two connections. The first is ours: the rank says who it is, learns when all have
come, and is told if another one dies. The second is opened by MPI itself (MPICH and its relatives)
and speaks PMI-1, in lines of words "name=value".

Sources: "PMI v1 wire protocol" of the MPICH wiki, and src/pmi/simple of MPICH 4.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16
_KVS = "allgrad"
_LIMITS = {"kvsname_max": 256, "keylen_max": 64, "vallen_max": 1024}
_NOBODY_S = 30.0  # after which a server without connections ends


@dataclass
class Link:
    """One connection.

    Attributes:
        end: its socket.
        rank: who is there; -1 until it is known.
        life: whether it is a rank's own connection, not MPI's.
    """

    end: socket.socket
    rank: int = -1
    life: bool = False
    heard: bytes = b""

    def say(self, command: str, **values: object) -> None:
        """Send one line; whoever has gone is noticed when it is read from."""
        words = [f"cmd={command}", *(f"{name}={value}" for name, value in values.items())]
        try:
            self.end.sendall((" ".join(words) + "\n").encode())
        except OSError:
            return


def parse(line: str) -> dict[str, str]:
    """Cut a line of PMI into its words; the value of "value=" and "what=" is the rest of the line.

    Example:
        >>> parse("cmd=put kvsname=a key=b value=c d=e")
        {'cmd': 'put', 'kvsname': 'a', 'key': 'b', 'value': 'c d=e'}
    """
    words: dict[str, str] = {}
    rest = line.strip()
    while rest:
        name, _, rest = rest.partition("=")
        if name in ("value", "what"):
            words[name] = rest
            break
        words[name], _, rest = rest.partition(" ")
        rest = rest.lstrip()
    return words


def process_mapping(hosts: list[str]) -> str:
    """Say by which host each rank is, as MPICH reads it: (first node, nodes, ranks each) blocks.

    Example:
        >>> process_mapping(["a", "a", "b", "a"])
        '(vector,(0,1,2),(1,1,1),(0,1,1))'
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(hosts))}
    blocks: list[list[int]] = []
    for host in hosts:
        if blocks and blocks[-1][0] == numbers[host]:
            blocks[-1][2] += 1
        else:
            blocks.append([numbers[host], 1, 1])
    return "(vector," + ",".join(f"({','.join(map(str, block))})" for block in blocks) + ")"


@dataclass
class Server:
    """The job's meeting point.

    Attributes:
        listener: bound and listening.
        size: number of ranks.
        job: what tells this job from one that met here before.
    """

    listener: socket.socket
    size: int
    job: str
    values: dict[str, str] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    finalized: set[int] = field(default_factory=set)
    links: list[Link] = field(default_factory=list)
    waiting: list[Link] = field(default_factory=list)  # in MPI's barrier
    gone: bool = False  # whether the others have been told of a death

    def run(self) -> None:
        """Serve until nobody is connected any more."""
        empty_since = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            while self.links or time.monotonic() < empty_since + _NOBODY_S:
                for key, _ in selector.select(1.0):
                    if key.fileobj is self.listener:
                        link = Link(self.listener.accept()[0])
                        self.links.append(link)
                        selector.register(link.end, selectors.EVENT_READ, link)
                    elif not self._read(key.data):
                        selector.unregister(key.fileobj)
                        self._close(key.data)
                if self.links:
                    empty_since = time.monotonic()
                elif self.hosts:
                    return

    def _read(self, link: Link) -> bool:
        try:
            data = link.end.recv(_CHUNK_BYTES)
        except OSError:
            return False
        *lines, link.heard = (link.heard + data).split(b"\n")
        for line in lines:
            words = parse(line.decode(errors="replace"))
            answer = _ANSWERS.get(words.get("cmd", ""))
            if answer is None:
                link.say("error", rc=-1, msg=f"unknown_command_{words.get('cmd')}")
            else:
                answer(self, link, words)
        return bool(data)

    def _close(self, link: Link) -> None:
        link.end.close()
        self.links.remove(link)
        if link.life and link.rank not in self.finalized:
            self.tell_death(link.rank, 1, "it ended without leaving MPI")

    def tell_death(self, rank: int, code: int, what: str) -> None:
        """Tell all others, once, that a rank is gone."""
        if self.gone:
            return
        self.gone = True
        for other in self.links:
            if other.life and other.rank != rank:
                other.say("gone", rank=rank, code=code, what=what)


def _hello(server: Server, link: Link, words: dict[str, str]) -> None:
    """A rank's own connection: it waits for all others."""
    if words.get("job") != server.job or words.get("rank", "") in map(str, server.hosts):
        link.say("other_job")
        return
    link.rank, link.life = int(words["rank"]), True
    server.hosts[link.rank] = words["host"]
    link.say("welcome")
    lives = [other for other in server.links if other.life]
    if len(server.hosts) < server.size:
        return
    hosts = [server.hosts[rank] for rank in range(server.size)]
    server.values["PMI_process_mapping"] = process_mapping(hosts)
    for other in lives:
        other.say("all_here")


def _who(server: Server, link: Link, words: dict[str, str]) -> None:
    here = ",".join(map(str, sorted(server.hosts)))
    link.say("here", ranks=here)


def _initack(server: Server, link: Link, words: dict[str, str]) -> None:
    link.rank = int(words["pmiid"])
    link.say("initack")
    for name, value in (("size", server.size), ("rank", link.rank), ("debug", 0)):
        link.say("set", **{name: value})


def _init(server: Server, link: Link, words: dict[str, str]) -> None:
    link.say("response_to_init", pmi_version=1, pmi_subversion=1, rc=0)


def _put(server: Server, link: Link, words: dict[str, str]) -> None:
    server.values[words["key"]] = words["value"]
    link.say("put_result", rc=0, msg="success")


def _get(server: Server, link: Link, words: dict[str, str]) -> None:
    value = server.values.get(words["key"])
    if value is None:
        link.say("get_result", rc=-1, msg="key_not_found", value="unknown")
    else:
        link.say("get_result", rc=0, msg="success", value=value)


def _barrier(server: Server, link: Link, words: dict[str, str]) -> None:
    server.waiting.append(link)
    if len(server.waiting) == server.size:
        for other in server.waiting:
            other.say("barrier_out", rc=0)
        server.waiting.clear()


def _finalize(server: Server, link: Link, words: dict[str, str]) -> None:
    server.finalized.add(link.rank)
    link.say("finalize_ack", rc=0)


def _abort(server: Server, link: Link, words: dict[str, str]) -> None:
    code = words.get("exitcode", "1")
    server.tell_death(link.rank, int(code) if code.isdigit() else 1, "it called MPI_Abort")
    server.finalized.add(link.rank)


_ANSWERS: dict[str, Callable[[Server, Link, dict[str, str]], None]] = {
    "hello": _hello,
    "who": _who,
    "initack": _initack,
    "init": _init,
    "get_maxes": lambda server, link, words: link.say("maxes", rc=0, **_LIMITS),
    "get_appnum": lambda server, link, words: link.say("appnum", rc=0, appnum=0),
    "get_my_kvsname": lambda server, link, words: link.say("my_kvsname", rc=0, kvsname=_KVS),
    "get_universe_size": lambda s, link, words: link.say("universe_size", rc=0, size=s.size),
    "put": _put,
    "get": _get,
    "barrier_in": _barrier,
    "finalize": _finalize,
    "abort": _abort,
}


def main(argv: list[str]) -> None:
    """Serve at an inherited socket: descriptor, size, job."""
    descriptor, size, job = argv
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when the ranks have
    Server(socket.socket(fileno=int(descriptor)), int(size), job).run()


if __name__ == "__main__":
    main(sys.argv[1:])
