"""Communication hooks for `DistributedDataParallel.register_comm_hook`; names as in PyTorch.

`default_hooks` sends gradients as they are or in half precision, `powerSGD_hook` as products of
thin matrices, `post_localSGD_hook` within subgroups, `debugging_hooks` not at all. A hook is called
as ``hook(state, bucket)`` with a `GradBucket` and returns a `Future` of the bucket's mean over the
ranks. One after which the ranks are meant to differ is marked by `hook_marks.lets_replicas_differ`.
May import: `bucket`, `hook_marks`, `futures`, `groups`, `communicators.base`, `process_group`,
``allgrad``.

Source: ``torch.distributed.algorithms.ddp_comm_hooks``.
"""

from allgrad.ddp.comm_hooks import debugging_hooks as debugging_hooks
from allgrad.ddp.comm_hooks import default_hooks as default_hooks
from allgrad.ddp.comm_hooks import post_localSGD_hook as post_localSGD_hook
from allgrad.ddp.comm_hooks import powerSGD_hook as powerSGD_hook
from allgrad.ddp.comm_hooks.bucket import GradBucket as GradBucket

__all__ = ["GradBucket", "debugging_hooks", "default_hooks", "post_localSGD_hook", "powerSGD_hook"]
