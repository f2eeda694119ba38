"""A real Slurm of two nodes for tests: `start` opens it, `Cluster` runs its commands.

By hand, a shell in which srun, sbatch, squeue and `allgrad sbatch` work on it:

    python tests/support/slurm_cluster.py bash
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import slurm_keeper
from support.dies_with_parent import dying

COMMAND_S = 150  # of one command or state; a busy machine takes its time
_OVER = re.compile(r"COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY|DEADLINE")
_OURS = ("SLURM_", "SBATCH_", "OMP_", "ALLGRAD_", "PMI", "OMPI_")
_PMIX = "/usr/lib/*/pmix2/lib/libpmix.so"


class Unavailable(Exception):  # noqa: N818 - no error: the machine has no Slurm
    """Why there can be no cluster here."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        environ: the environment in which Slurm's commands find it.
    """

    environ: Mapping[str, str]

    def run(
        self, *argv: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            dying(argv),
            cwd=cwd,
            env=self.environ | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` knows."""
        done = self.run("scontrol", "-o", "show", "job", number)
        assert done.returncode == 0, done
        return dict(re.findall(r"(\S+?)=(\S*)", done.stdout))

    def wait(
        self, number: str, until: Callable[[dict[str, str]], object], what: str
    ) -> dict[str, str]:
        """Wait until a job is as `until` wants it."""
        end = time.monotonic() + COMMAND_S
        while not until(job := self.job(number)):
            assert time.monotonic() < end, f"job {number} is not {what}: {job}\n{_output_of(job)}"
            time.sleep(0.1)
        return job

    def finish(self, number: str) -> dict[str, str]:
        """Wait for the end of a job, until its nodes are free."""
        return self.wait(
            number,
            lambda job: (
                _OVER.fullmatch(job["JobState"])
                and not self.run("squeue", "-h", "-j", number).stdout
            ),
            "over",
        )

    def cancel_all(self) -> None:
        """End all jobs and wait until the nodes are free, so that the next test finds them so."""
        self.run("scancel", "--user=root")
        end = time.monotonic() + COMMAND_S
        while self.run("squeue", "-h").stdout:
            assert time.monotonic() < end, self.run("squeue").stdout
            time.sleep(0.1)

    @property
    def has_pmix(self) -> bool:
        """Whether srun connects ranks by PMIx, as Open MPI wants it."""
        kinds = self.run("srun", "--mpi=list")
        there = [*Path("/").glob(_PMIX.lstrip("/"))]
        return "pmix" in kinds.stdout + kinds.stderr and bool(there)


def _output_of(job: Mapping[str, str]) -> str:
    path = Path(job.get("StdOut", ""))
    return path.read_text(errors="replace")[-3000:] if path.is_file() else ""


@contextmanager
def start() -> Iterator[Cluster]:
    """Start a cluster; end it with all that it runs.

    Raises:
        Unavailable: there is no Slurm here, or no right to start it.
        RuntimeError: it should start and does not.
    """
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin:/sbin"
    missing = [name for name in slurm_keeper.PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise Unavailable(f"no Slurm here ({', '.join(missing)} missing); see .ci/run")
    if os.geteuid() != 0:
        raise Unavailable("slurmd wants to be started by root")
    folder = Path(tempfile.mkdtemp(prefix="allgrad-slurm-"))
    folder.chmod(0o755)
    keeper = subprocess.Popen(
        [sys.executable, slurm_keeper.__file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the tests, and with them it
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        answer = keeper.stdout.readline().strip()
        if answer != "ready":
            raise RuntimeError(f"Slurm does not start: {answer}")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
        conf = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        yield Cluster(environ | conf)
    finally:
        keeper.stdin.close()
        keeper.wait(timeout=COMMAND_S)
        keeper.stdout.close()


if __name__ == "__main__":
    with start() as cluster:
        sys.exit(subprocess.run(sys.argv[1:], env=dict(cluster.environ), check=False).returncode)
