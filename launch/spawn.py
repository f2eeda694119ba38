"""``spawn(function, args, nprocs)``: ranks of a job, started from a program that is none.

The name of ``torch.multiprocessing.spawn``. A job of ``allgrad run`` runs `spawned.py` in every
rank, which imports the caller's main module under another name, as `multiprocessing` does, and
calls the function. So the main module needs its ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.spawn import get_preparation_data
from typing import Any

from allgrad.ddp import environment
from allgrad.errors import LaunchError, OptionError
from allgrad.launch.hosts import without_allocation


class SpawnContext:
    """A running job.

    Attributes:
        process: of ``allgrad run``.
    """

    def __init__(self, process: subprocess.Popen[bytes], file: str) -> None:
        self.process, self._file = process, file

    def pids(self) -> list[int]:
        """The number of the process that supervises the ranks."""
        return [self.process.pid]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for the end of all ranks; False if the time-out passed first.

        Raises:
            LaunchError: a rank has failed; its traceback is on stderr.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file)
        if code != 0:
            raise LaunchError(
                f"spawn: the job ended with exit code {code}; the output above names the rank that "
                "failed first, with its traceback"
            )
        return True


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> SpawnContext | None:
    """Call ``fn(rank, *args)`` in `nprocs` new processes, which are the ranks of one job.

    Inside, ``init_process_group`` finds the other ranks, whatever MASTER_ADDR says.

    Args:
        fn: a function of a module, so that it can be pickled.
        args: picklable.
        nprocs: number of ranks.
        join: wait for their end; False: return a `SpawnContext` at once.
        daemon: accepted for PyTorch scripts; the ranks end with this process anyway.
        start_method: "spawn".

    Raises:
        LaunchError: this process is a rank itself; a rank has failed; or no MPI is installed.
        OptionError: another start_method.
    """
    if start_method != "spawn":
        raise OptionError.unknown("start_method", start_method, ("spawn",))
    place = environment.discover()
    if place.launcher != "none":
        raise LaunchError(
            f"spawn: this process is rank {place.rank} of {place.size} already, started by "
            f"{place.launcher!r}. Start the script as `python script.py`, or call the function "
            f"with the rank instead of spawn"
        )
    preparation = get_preparation_data("rank")
    preparation.pop("authkey", None)  # cannot be written to files, and is for pipes only
    handle, file = tempfile.mkstemp(prefix="allgrad-spawn-", suffix=".pickle")
    with os.fdopen(handle, "wb") as out:
        pickle.dump(preparation, out)
        pickle.dump((fn, args), out)
    run = ["run", "-n", str(nprocs), "--no-prefix", "-m", "allgrad.launch.spawned", file]
    command = [sys.executable, "-m", "allgrad.launch.cli", *run]
    process = subprocess.Popen(command, env=without_allocation(os.environ))
    context = SpawnContext(process, file)
    if not join:
        return context
    try:
        context.join()
    finally:
        if process.poll() is None:  # Ctrl-C: the job has got it, too
            process.wait()
    return None
