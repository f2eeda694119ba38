"""One rank on this host, without MPI."""

from __future__ import annotations

from collections.abc import Mapping

from allgrad.launch.launchers.environment import rank_environment, stale_variables
from allgrad.launch.spec import Command, LaunchSpec


def command(spec: LaunchSpec, environ: Mapping[str, str]) -> Command:
    """Return the command that starts the only rank.

    Args:
        spec: what to start; its ``nproc`` is 1.
        environ: environment of the user.
    """
    # Said explicitly: inside a step of srun the inherited variables would tell otherwise.
    place = {"ALLGRAD_RANK": "0", "ALLGRAD_WORLD_SIZE": "1"}
    place |= {"ALLGRAD_LOCAL_RANK": "0", "ALLGRAD_LOCAL_WORLD_SIZE": "1"}
    env = rank_environment(spec, environ, "ALLGRAD_RANK")
    return Command(spec.rank_argv(), place | env, stale_variables(environ), "ALLGRAD_RANK")
