"""A hook that sends nothing, to see what communication costs.

May import: `bucket`, `hook_marks`, `futures`.
"""

from __future__ import annotations

from typing import Any

from allgrad import Tensor
from allgrad.ddp.comm_hooks.bucket import GradBucket
from allgrad.ddp.futures import Future
from allgrad.ddp.hook_marks import lets_replicas_differ


@lets_replicas_differ
def noop_hook(_: Any, bucket: GradBucket) -> Future[Tensor]:
    """Leave every rank its own gradients: an upper bound of what faster communication could bring.

    The replicas drift apart, so results are worthless, and they are not compared.
    """
    future: Future[Tensor] = Future()
    future.set_result(bucket.buffer())
    return future
