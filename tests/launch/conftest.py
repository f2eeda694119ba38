"""Starting real jobs: with a time-out, and with a look at what they leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from allgrad.launch import leftovers

JOB_TIMEOUT_S = 100
ALLGRAD_RUN = (sys.executable, "-m", "allgrad.launch.cli", "run")


@dataclass(frozen=True)
class Job:
    """A finished job."""

    code: int
    out: str
    err: str
    ended_at: float

    @property
    def last(self) -> str:
        """The last line of stderr."""
        return self.err.splitlines()[-1] if self.err else ""


@dataclass
class Scene:
    """A folder with a script; starts jobs there."""

    folder: Path

    def script(self, text: str, name: str = "script.py") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def start(
        self, *argv: str, environ: dict[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        environ = environ or {
            k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "ALLGRAD_"))
        }
        options = {"stdin": subprocess.DEVNULL} | options
        return subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )

    def finish(self, process: subprocess.Popen[str]) -> Job:
        try:
            out, err = process.communicate(timeout=JOB_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"did not end within {JOB_TIMEOUT_S} s: {process.args}\n{out}\n{err}")
        return Job(process.returncode, out, err, time.time())

    def run(self, *argv: str) -> Job:
        """Start a command and wait for its end."""
        return self.finish(self.start(*argv))

    def allgrad(self, *arguments: str) -> Job:
        """`allgrad run` with arguments."""
        return self.run(*ALLGRAD_RUN, *arguments)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command of `allgrad run` with arguments."""
        return (*ALLGRAD_RUN, *arguments)

    def talk(self, words: str, *arguments: str) -> Job:
        """`allgrad run` with arguments, which reads these words from its input."""
        read, write = os.pipe()
        os.write(write, words.encode())
        os.close(write)
        try:
            process = self.start(*ALLGRAD_RUN, *arguments, stdin=read)
        finally:
            os.close(read)
        return self.finish(process)

    def wait_for(self, *names: str, process: subprocess.Popen[str]) -> None:
        """Wait until the script has made these files."""
        end = time.monotonic() + JOB_TIMEOUT_S
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < end, f"{names} did not appear"
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    def seconds_since_fault(self, job: Job) -> float:
        """Seconds from the time that the script wrote into the file `fault` to the job's end."""
        return job.ended_at - float((self.folder / "fault").read_text())

    def processes(self) -> list[str]:
        """Command lines of the living processes that have to do with this folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.folder) in line and state != "Z":
                found.append(line)
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A folder to start jobs in."""
    return Scene(tmp_path)


@pytest.fixture
def leaves_nothing(scene: Scene) -> Callable[[], None]:
    """Check, when called, that the job left no process and no shared memory."""
    before = leftovers.segments()

    def check() -> None:
        end = time.monotonic() + 3
        while scene.processes() and time.monotonic() < end:
            time.sleep(0.02)
        assert scene.processes() == []
        # Segments that are in use belong to another job of this machine.
        assert leftovers.abandoned(leftovers.segments() - before) == []

    return check


@pytest.fixture(scope="session")
def mpiexec() -> str:
    """The path of mpiexec; skips where there is no MPI."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    path = str(beside) if beside.exists() else shutil.which("mpiexec")
    if path is None:
        pytest.skip("no mpiexec")
    return path
