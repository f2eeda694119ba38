"""How a wrapped model is trained. Imports `plan` only; see `DistributedDataParallel`."""

from __future__ import annotations

from dataclasses import dataclass

from allgrad.ddp.plan import BUCKET_CAP_BYTES, FIRST_BUCKET_CAP_BYTES

CHECK_EVERY = 100  # steps between two comparisons of the replicas


@dataclass(frozen=True)
class Options:
    """The same on all ranks, which is checked.

    Attributes:
        as_view: gradients lie in the buckets; otherwise they are copied in and out.
        cap_bytes, first_cap_bytes: see `plan_buckets`.
        unused: "report", "ignore" or "error".
        weighted: whether ranks count by their samples.
        static: whether the set of used parameters may not change.
        delayed: names of parameters that are reduced last.
        buffers: "broadcast", "average" or "none".
        logical_shards, threads_per_shard: see `shards`.
        check_every: replicas are compared every so many steps; 0: never.
        overlap: True, False or "auto", see `OverlapChoice`.
    """

    as_view: bool = True
    cap_bytes: int = BUCKET_CAP_BYTES
    first_cap_bytes: int = FIRST_BUCKET_CAP_BYTES
    unused: str = "report"
    weighted: bool = True
    static: bool = False
    delayed: tuple[str, ...] = ()
    buffers: str = "broadcast"
    logical_shards: int | None = None
    threads_per_shard: int = 1
    check_every: int = CHECK_EVERY
    overlap: bool | str = True
