"""The ranks of one contestant of the scaling benchmarks, started by any launcher."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netns import Hosts, environment

HERE = Path(__file__).resolve().parent
LAUNCHERS = ("local", "mpiexec", "srun", "hosts")
_PATIENCE_S = 180


@dataclass
class Place:
    """How ranks are started.

    Attributes:
        launcher: "local" (`allgrad run` here), "mpiexec", "srun", or "hosts" (emulated ones).
        hosts: of the launcher "hosts".
        options: of mpiexec or srun, such as --mpi=pmi2 or -hosts a,b.
        cores: to which ranks are pinned one by one; empty: not.
        priority: ranks go before all other processes, once they are ready.
    """

    launcher: str
    hosts: Hosts | None = None
    options: tuple[str, ...] = ()
    cores: list[int] = field(default_factory=list)
    priority: bool = False

    def command(self, argv: list[str], ranks: int) -> list[str]:
        """That runs `argv` as so many ranks."""
        bin_folder = Path(sys.executable).parent
        if self.launcher == "hosts":
            assert self.hosts is not None
            return self.hosts.mpiexec(argv, count=ranks)
        if self.launcher == "mpiexec":
            found = shutil.which("mpiexec", path=f"{bin_folder}:{os.environ['PATH']}")
            return [found or "mpiexec", *self.options, "-n", str(ranks), *argv]
        if self.launcher == "srun":
            return ["srun", *self.options, "-n", str(ranks), *argv]
        run = [str(bin_folder / "allgrad"), "run", "--no-prefix", "-n", str(ranks)]
        return [*run, *self.options, *argv[1:]]  # it chooses the interpreter itself

    def environ(self) -> dict[str, str]:
        """For the command."""
        if self.launcher == "hosts":
            return environment()
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        return os.environ | dict.fromkeys(threads, "1")

    def about_ranks(self) -> dict[str, Any]:
        """What a worker needs to know."""
        common = {"cores": self.cores, "priority": self.priority}
        if self.launcher == "hosts":
            return common | {"meet": "10.77.0.1", "interface": "eth0"}
        meet = None if self.launcher == "srun" else "127.0.0.1"
        return common | {"by_local_rank": True, "meet": meet}


class Job:
    """Ranks that run until `close`, and make steps when told to.

    Args:
        place: how they are started.
        name: "allgrad", "torch" or "torch channels_last".
        workload: of `workloads.py`, or "paced".
        ranks: how many.
        options: for the worker: batch, paced.

    Raises:
        RuntimeError: a rank ended early.
    """

    def __init__(self, place: Place, name: str, workload: str, ranks: int, **options: Any) -> None:
        self.name, self.ranks = name, ranks
        framework, _, layout = name.partition(" ")
        options |= place.about_ranks() | {"channels_last": layout == "channels_last"}
        self._folder = tempfile.TemporaryDirectory(prefix="allgrad-scaling-")
        self.folder = Path(self._folder.name)
        self._token = secrets.token_hex(16)
        self._streams: dict[int, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        with self._listen(place) as server:
            worker = [sys.executable, str(HERE / "scaling_worker.py"), self._address, framework]
            command = place.command([*worker, workload, json.dumps(options)], ranks)
            self._process = subprocess.Popen(
                command, env=place.environ(), stdin=subprocess.DEVNULL, start_new_session=True
            )
            try:
                self._accept(server)
            except BaseException:
                self.close()
                raise

    def _listen(self, place: Place) -> socket.socket:
        if place.launcher == "srun":
            server = socket.create_server(("", 0))
            port = server.getsockname()[1]
            self._address = f"tcp:{socket.gethostname()}:{port}:{self._token}"
        else:  # also from inside of emulated hosts, which share the files
            server = socket.socket(socket.AF_UNIX)
            server.bind(f"{self._folder.name}/socket")
            self._address = f"unix:{self._folder.name}/socket"
            server.listen(64)
        server.settimeout(_PATIENCE_S)
        return server

    def _accept(self, server: socket.socket) -> None:
        first: dict[str, Any] = {}
        while len(self._streams) < self.ranks:
            with server.accept()[0] as link:  # the stream keeps it open
                stream = link.makefile("rw")
            if self._address.startswith("tcp:") and stream.readline().strip() != self._token:
                stream.close()
                continue
            told = self._read(stream)
            if told["size"] != self.ranks:
                raise RuntimeError(
                    f"asked for {self.ranks} ranks, the launcher made {told['size']}"
                )
            self._streams[told["rank"]] = stream
            if told["rank"] == 0:
                first = told
        self._say({"host": first["host"], "port": first["port"]})
        for stream in self._streams.values():
            self._read(stream)

    def _say(self, words: dict[str, Any]) -> None:
        for stream in self._streams.values():
            stream.write(json.dumps(words) + "\n")
            stream.flush()

    @staticmethod
    def _read(stream: Any) -> Any:
        line = stream.readline()
        if not line:
            raise RuntimeError("a rank ended early; its error is above")
        return json.loads(line)

    def ask(self, **order: Any) -> list[Any]:
        """Give an order to all ranks; their answers, rank after rank."""
        self._say(order)
        return [self._read(self._streams[rank]) for rank in range(self.ranks)]

    def steps(self, count: int) -> list[list[float]]:
        """Seconds of so many steps, rank after rank."""
        return [answer["times_s"] for answer in self.ask(steps=count)]

    def close(self) -> None:
        """End the ranks. Idempotent."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        if self._process is not None:
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()
