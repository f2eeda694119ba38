# ruff: noqa: N999 - PyTorch's name
"""Post-local SGD: gradients are averaged over all ranks at first, then within subgroups only.

May import: `bucket`, `default_hooks`, `hook_marks`, `futures`, `groups`, ``allgrad``. Names and
arguments as ``torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook``; `model_averaging`
has the other half, which brings the parameters of all ranks together every few steps.

Source: Lin, Stich, Patel, Jaggi, "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020.
"""

from __future__ import annotations

import logging

from allgrad import Tensor
from allgrad.ddp.comm_hooks.bucket import GradBucket
from allgrad.ddp.comm_hooks.debugging_hooks import noop_hook
from allgrad.ddp.comm_hooks.default_hooks import allreduce_hook
from allgrad.ddp.futures import Future
from allgrad.ddp.groups import new_subgroups
from allgrad.ddp.hook_marks import lets_replicas_differ
from allgrad.ddp.process_group import ProcessGroup
from allgrad.errors import OptionError

_log = logging.getLogger("allgrad.ddp")


class PostLocalSGDState:
    """What `post_localSGD_hook` goes by; one per wrapped model.

    Args:
        process_group: over which gradients are averaged at first; None: the default group.
        subgroup: over which they are averaged afterwards; None: the ranks of this host. Then the
            construction is collective over all ranks (PyTorch makes the groups in the first local
            step).
        start_localSGD_iter: steps that average over `process_group`.
        post_local_gradient_allreduce: False averages nothing afterwards; every rank is alone.

    Attributes:
        iter: synchronised steps so far, up to `start_localSGD_iter`.

    Raises:
        OptionError: `start_localSGD_iter` is negative.
        DistributedError: hosts have different numbers of ranks, and no subgroup is given.
    """

    def __init__(
        self,
        process_group: ProcessGroup | None,
        subgroup: ProcessGroup | None,
        start_localSGD_iter: int,  # noqa: N803 - PyTorch's name
        post_local_gradient_allreduce: bool = True,
    ) -> None:
        if start_localSGD_iter < 0:
            raise OptionError(
                f"PostLocalSGDState: start_localSGD_iter={start_localSGD_iter}, expected 0 or more"
            )
        if subgroup is None and post_local_gradient_allreduce:
            subgroup, _ = new_subgroups()
        self.process_group, self.subgroup = process_group, subgroup
        self.start_localSGD_iter = start_localSGD_iter
        self.post_local_gradient_allreduce = post_local_gradient_allreduce
        self.iter = 0

    def maybe_increase_iter(self, bucket: GradBucket) -> None:
        """Count the step, if this is its last bucket."""
        if bucket.is_last():
            self.iter += 1
            if self.iter == self.start_localSGD_iter:
                _log.info("local SGD starts after %d steps", self.iter)


@lets_replicas_differ
def post_localSGD_hook(  # noqa: N802 - PyTorch's name
    state: PostLocalSGDState, bucket: GradBucket
) -> Future[Tensor]:
    """Average the bucket over all ranks, or from `start_localSGD_iter` on over the subgroup.

    From then on the replicas differ until a `PeriodicModelAverager` brings them together, so they
    are no longer compared. All ranks need the same number of steps. Where batches differ in size,
    a rank counts in its subgroup by its share of all samples.

    Args:
        state: as given to `register_comm_hook`.
        bucket: this rank's gradients.
    """
    if state.iter < state.start_localSGD_iter:
        state.maybe_increase_iter(bucket)
        return allreduce_hook(state.process_group, bucket)
    if not state.post_local_gradient_allreduce:
        return noop_hook(None, bucket)
    return allreduce_hook(state.subgroup, bucket)
