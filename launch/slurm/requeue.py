"""Going on in the same job id: after a warning of Slurm the job has saved and left.

Note [Requeue]
A job that is preempted, or near its time limit, is warned by a signal (``--signal=B:USR1@120``).
``allgrad run`` passes it on, the ranks save and leave at the same step (`ddp.graceful_exit`), and
for Slurm the job has ended by itself: it would not start it again. So ``allgrad run --requeue``
puts it back into the queue. Only after SIGUSR1 or SIGUSR2: SIGTERM is what ``scancel`` sends, and
what Slurm sends to a job that it will put into the queue itself.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from allgrad.errors import LaunchError
from allgrad.launch.outcome import Outcome, signal_name
from allgrad.launch.slurm.commands import call, fields

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)


def check(environ: Mapping[str, str]) -> None:
    """Check that there is a batch job to put back.

    Raises:
        LaunchError: there is none.
    """
    if not environ.get("SLURM_JOB_ID"):
        raise LaunchError(
            "--requeue puts a batch job of Slurm back into its queue, and this is none; submit the "
            "script by `allgrad sbatch --requeue`, or leave the option out"
        )


def requeues(environ: Mapping[str, str]) -> int:
    """How often Slurm has put this job back into its queue.

    Example:
        >>> requeues({"SLURM_RESTART_COUNT": "2"}), requeues({})
        (2, 0)
    """
    text = environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdigit() else 0


def is_wanted(outcome: Outcome) -> bool:
    """Whether a job that ended so is to go on. See Note [Requeue]."""
    return outcome.in_good_order and outcome.signal in _WARNINGS


def put_back(outcome: Outcome, environ: Mapping[str, str]) -> str:
    """Put the job back into the queue; say what was done.

    Slurm ends what is left of the job next, this process included.

    Args:
        outcome: of which `is_wanted` is true.
        environ: of the batch job.
    """
    assert outcome.signal is not None
    job = environ["SLURM_JOB_ID"]
    state = fields(call("scontrol", "--oneliner", "show", "job", job).stdout).get("JobState")
    if state != "RUNNING":  # cancelled meanwhile, or Slurm is about to requeue it itself
        return f"job {job} is {state}: not put back into the queue"
    done = call("scontrol", "requeue", job)
    if done.returncode != 0:
        return f"job {job} was not put back into the queue: {done.stderr.strip()}"
    return f"job {job} goes on later: put back into the queue after {signal_name(outcome.signal)}"
