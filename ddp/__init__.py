"""Many ranks: process groups, collectives, and `DistributedDataParallel`.

What ``torch.distributed`` and ``torch.nn.parallel`` offer for data parallelism, over MPI:

    from allgrad import ddp

    ddp.init_process_group()
    model = ddp.DistributedDataParallel(model)
    loader = DataLoader(dataset, batch_size=64, sampler=ddp.DistributedSampler(dataset))
    ...
    ddp.destroy_process_group()

The flow, top to bottom: `distributed` (the face) → `reducer` (when) → `bucket` (where) → `plan`
(what) → `communicators` (how). Importing this package imports
neither MPI nor, until a name is used, the engine: the launcher needs `environment` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allgrad.ddp.checkpoint import CheckpointManager
    from allgrad.ddp.collectives import (
        all_gather,
        all_gather_into_tensor,
        all_gather_object,
        all_reduce,
        barrier,
        broadcast,
        broadcast_object,
        broadcast_object_list,
        reduce_scatter,
        reduce_scatter_tensor,
    )
    from allgrad.ddp.communicators.base import Communicator, ReduceOp
    from allgrad.ddp.communicators.thread import run_ranks
    from allgrad.ddp.distributed import DistributedDataParallel
    from allgrad.ddp.events import restart_count
    from allgrad.ddp.fingerprints import fingerprint
    from allgrad.ddp.futures import Future
    from allgrad.ddp.graceful import GracefulExit, graceful_exit
    from allgrad.ddp.join import Join
    from allgrad.ddp.metrics import check_finite, reduce_sum
    from allgrad.ddp.process_group import (
        ProcessGroup,
        destroy_process_group,
        get_backend,
        get_local_rank,
        get_rank,
        get_world_size,
        init_process_group,
        is_initialized,
    )
    from allgrad.ddp.sampler import DistributedSampler
    from allgrad.ddp.schedule import Schedule
    from allgrad.ddp.shard_sampler import ShardedBatchSampler
    from allgrad.ddp.sync_batchnorm import SyncBatchNorm
    from allgrad.ddp.tracing.record import trace
    from allgrad.ddp.work import Work

_HOMES = {
    "CheckpointManager": "checkpoint",
    "all_gather": "collectives",
    "all_gather_into_tensor": "collectives",
    "all_gather_object": "collectives",
    "all_reduce": "collectives",
    "barrier": "collectives",
    "broadcast": "collectives",
    "broadcast_object": "collectives",
    "broadcast_object_list": "collectives",
    "reduce_scatter": "collectives",
    "reduce_scatter_tensor": "collectives",
    "Communicator": "communicators.base",
    "ReduceOp": "communicators.base",
    "run_ranks": "communicators.thread",
    "DistributedDataParallel": "distributed",
    "Join": "join",
    "restart_count": "events",
    "fingerprint": "fingerprints",
    "Future": "futures",
    "GracefulExit": "graceful",
    "graceful_exit": "graceful",
    "check_finite": "metrics",
    "reduce_sum": "metrics",
    "ProcessGroup": "process_group",
    "destroy_process_group": "process_group",
    "get_backend": "process_group",
    "get_local_rank": "process_group",
    "get_rank": "process_group",
    "get_world_size": "process_group",
    "init_process_group": "process_group",
    "is_initialized": "process_group",
    "DistributedSampler": "sampler",
    "SyncBatchNorm": "sync_batchnorm",
    "trace": "tracing.record",
    "ShardedBatchSampler": "shard_sampler",
    "Schedule": "schedule",
    "Work": "work",
}

_MODULES = ("schedule",)  # found as attributes without being imported first

__all__ = [
    "CheckpointManager",
    "Communicator",
    "DistributedDataParallel",
    "DistributedSampler",
    "Future",
    "GracefulExit",
    "Join",
    "ProcessGroup",
    "ReduceOp",
    "Schedule",
    "ShardedBatchSampler",
    "SyncBatchNorm",
    "Work",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object",
    "broadcast_object_list",
    "check_finite",
    "destroy_process_group",
    "fingerprint",
    "get_backend",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "graceful_exit",
    "init_process_group",
    "is_initialized",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "reduce_sum",
    "restart_count",
    "run_ranks",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
