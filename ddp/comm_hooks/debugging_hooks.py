"""A hook that sends nothing, to see what communication costs. May import: `bucket`, `futures`."""

from __future__ import annotations

from typing import Any

from allgrad import Tensor
from allgrad.ddp.comm_hooks.bucket import GradBucket
from allgrad.ddp.futures import Future


def noop_hook(_: Any, bucket: GradBucket) -> Future[Tensor]:
    """Leave every rank its own gradients: an upper bound of what faster communication could bring.

    The replicas drift apart, so results are worthless; `check_replicas` will say so.
    """
    future: Future[Tensor] = Future()
    future.set_result(bucket.buffer())
    return future


noop_hook.replicas_differ = True  # type: ignore[attr-defined]
