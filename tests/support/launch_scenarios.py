"""One script under any launcher: start, exception, kill -9, Ctrl-C; and nobody is left.

A `Launch` says how ranks are started; `start`, `exception`, `killed` and `interrupted` run the same
unchanged script and check what came of it. Used by the tables of tests of all launchers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.dies_with_parent import dying

TIMEOUT_S = 100  # of one job; a busy machine takes its time
PROMISED_S = 40  # from a fault to the end of the job: far below every time-out of the script
SCRIPT = """
import json, os, pathlib, signal, sys, time
import allgrad as ag
from allgrad import ddp

what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
ddp.init_process_group(timeout=90)
rank, size = ddp.get_rank(), ddp.get_world_size()
place = {"rank": rank, "size": size, "local_rank": ddp.get_local_rank(),
         "node": ddp.get_node_rank(), "nodes": ddp.get_node_count(), "pid": os.getpid()}
x = ag.ones(1000)
ddp.all_reduce(x)
assert x.numpy()[0] == size, x
place["segments"] = sorted({line.split()[-1] for line in open("/proc/self/maps")
                            if "/dev/shm/" in line})
(folder / f"place{rank}.part").write_text(json.dumps(place))
(folder / f"place{rank}.part").rename(folder / f"place{rank}")
if what == "start":
    ddp.barrier()
    ddp.destroy_process_group()
    sys.exit(0)
if rank == size - 1 and what != "wait":
    time.sleep(0.1)
    (folder / "fault").write_text(repr(time.time()))
    if what == "exception":
        raise ValueError("boom")
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    ddp.all_reduce(ag.ones(1000))
    time.sleep(0.01)
"""


@dataclass(frozen=True)
class Launch:
    """How the ranks are started.

    Attributes:
        argv: what stands before "script.py what folder".
        environ: additional variables.
        nproc: number of ranks.
        nodes: number of hosts, with as many ranks each.
        exception: exit codes that an exception may have.
        killed: exit codes that a rank's death by SIGKILL may have.
        interrupted: exit codes that Ctrl-C may have.
        drop: variables to remove.
        leaves_segments: whether a job that fails may leave shared memory: MPICH's own mpiexec does.
    """

    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    nproc: int = 2
    nodes: int = 1
    exception: Collection[int] = (1,)
    killed: Collection[int] = (137,)
    interrupted: Collection[int] = (130,)
    drop: Collection[str] = ()
    leaves_segments: bool = False


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    code: int
    out: str
    err: str


class Running:
    """A job; a context manager that leaves no process of it."""

    def __init__(self, launch: Launch, what: str, folder: Path) -> None:
        self._launch, self._folder = launch, folder
        script = folder / "unchanged_script.py"
        script.write_text(SCRIPT)
        launchers = ("OMP_", "ALLGRAD_", *launch.drop)
        environ = {k: v for k, v in os.environ.items() if not k.startswith(launchers)}
        self.process = subprocess.Popen(
            dying([*launch.argv, str(script), what, str(folder)]),
            env=environ | {"OMP_NUM_THREADS": "1"} | dict(launch.environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
        for pid in self.alive():  # only where a check has failed already
            os.kill(pid, signal.SIGKILL)

    def end(self) -> Ended:
        """Wait for the end."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            pytest.fail(f"did not end within {TIMEOUT_S} s: {self._launch.argv}\n{out}\n{err}")
        return Ended(self.process.returncode, out, err)

    def wait_for_places(self) -> list[dict[str, int]]:
        """Wait until all ranks have said where they are; return it, by rank."""
        files = [self._folder / f"place{rank}" for rank in range(self._launch.nproc)]
        end = time.monotonic() + TIMEOUT_S
        while not all(file.exists() for file in files):
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < end, f"only {os.listdir(self._folder)} after {TIMEOUT_S} s"
            time.sleep(0.02)
        return [json.loads(file.read_text()) for file in files]

    def alive(self) -> list[int]:
        """The processes of this job that live: their command line has its folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"{self._folder}\0" in line and state != "Z":
                found.append(int(entry.name))
        return found

    def leaves_nothing(self) -> None:
        """Check that no process and no shared memory is left."""
        end = time.monotonic() + 15
        while self.alive() and time.monotonic() < end:
            time.sleep(0.02)
        assert self.alive() == []
        left = [path for path in self._segments() if path.exists()]
        if self._launch.leaves_segments:
            for path in left:
                path.unlink(missing_ok=True)  # the next job of ours removes it, too
        else:
            assert left == []

    def _segments(self) -> set[Path]:
        """The shared memory that the ranks have said to use."""
        places = [json.loads(file.read_text()) for file in self._folder.glob("place?")]
        return {Path(path) for place in places for path in place["segments"]}

    def seconds_since_fault(self) -> float:
        """Seconds since a rank has failed."""
        return time.time() - float((self._folder / "fault").read_text())


def start(launch: Launch, folder: Path) -> None:
    """Every rank knows where it is, all sum up, and the job ends well."""
    with Running(launch, "start", folder) as job:
        ended = job.end()
        assert ended.code == 0, ended
        each = launch.nproc // launch.nodes
        for rank, place in enumerate(job.wait_for_places()):
            del place["pid"], place["segments"]
            assert place == {
                "rank": rank,
                "size": launch.nproc,
                "local_rank": rank % each,
                "node": rank // each,
                "nodes": launch.nodes,
            }
        job.leaves_nothing()


def exception(launch: Launch, folder: Path) -> None:
    """The last rank raises: all end, with its traceback and a code that says so."""
    with Running(launch, "exception", folder) as job:
        ended = job.end()
        assert ended.code in launch.exception, ended
        assert "ValueError: boom" in ended.err, ended
        assert job.seconds_since_fault() < PROMISED_S
        job.leaves_nothing()


def killed(launch: Launch, folder: Path) -> None:
    """The last rank is killed: all end, and the code says so."""
    with Running(launch, "kill", folder) as job:
        ended = job.end()
        assert ended.code in launch.killed, ended
        assert job.seconds_since_fault() < PROMISED_S
        job.leaves_nothing()


def interrupted(launch: Launch, folder: Path) -> None:
    """Ctrl-C, which a terminal sends to the whole group, ends all."""
    with Running(launch, "wait", folder) as job:
        job.wait_for_places()
        os.killpg(job.process.pid, signal.SIGINT)
        begin = time.monotonic()
        ended = job.end()
        assert ended.code in launch.interrupted, ended
        assert time.monotonic() - begin < PROMISED_S
        job.leaves_nothing()


SCENARIOS = {
    "start": start,
    "exception": exception,
    "kill -9": killed,
    "Ctrl-C": interrupted,
}
