"""Slurm's own programs, called with a time-out and with errors that say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess

from allgrad.errors import LaunchError

_TIMEOUT_S = 60.0  # a busy controller takes its time
_NO_CLUSTER = re.compile(
    "Could not establish a configuration source|Unable to contact slurm controller"
)


def call(
    *argv: str, stdin: str | None = None, timeout_s: float | None = _TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs.

    Args:
        argv: program and arguments.
        stdin: its input.
        timeout_s: seconds until it must have answered; None: it may take its time.

    Raises:
        LaunchError: it is not there, or no cluster answers.
    """
    if shutil.which(argv[0]) is None:
        raise LaunchError(
            f"there is no {argv[0]} on PATH; call this on a login node of a cluster with Slurm, or "
            "start the ranks by `allgrad run`"
        )
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(
            f"`{' '.join(argv)}` failed: {error}; does `sinfo` answer? If not, Slurm's controller "
            "is down"
        ) from error
    if done.returncode != 0 and (said := _NO_CLUSTER.search(done.stderr)):
        raise LaunchError(
            f"{argv[0]} is installed here, but no cluster answers ({said[0]}); call this on a "
            "login node, or let SLURM_CONF name the cluster's slurm.conf"
        )
    return done


def fields(line: str) -> dict[str, str]:
    """Read one line of ``scontrol --oneliner show job``.

    Example:
        >>> fields("JobId=7 JobName=my job UserId=me(1) Restarts=0")["JobName"]
        'my job'
    """
    found: dict[str, str] = {}
    for part in re.split(r" (?=[A-Za-z][A-Za-z/:]*=)", line.strip()):
        name, _, value = part.partition("=")
        found.setdefault(name, value)  # a command line at the end may hold anything
    return found
