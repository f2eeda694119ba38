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
        all_gather_single,
        all_reduce,
        all_reduce_coalesced,
        all_to_all,
        all_to_all_single,
        barrier,
        broadcast,
        gather,
        reduce,
        reduce_scatter,
        reduce_scatter_single,
        reduce_scatter_tensor,
        scatter,
    )
    from allgrad.ddp.communicators.base import Communicator, ReduceOp
    from allgrad.ddp.communicators.thread import run_ranks
    from allgrad.ddp.diagnosis.records import flight_record
    from allgrad.ddp.diagnosis.replicas import check_replicas
    from allgrad.ddp.distributed import DistributedDataParallel
    from allgrad.ddp.events import restart_count
    from allgrad.ddp.fingerprints import fingerprint
    from allgrad.ddp.futures import Future
    from allgrad.ddp.graceful import GracefulExit, graceful_exit
    from allgrad.ddp.groups import (
        get_global_rank,
        get_group_rank,
        get_pg_count,
        get_process_group_ranks,
        new_group,
        new_subgroups,
        new_subgroups_by_enumeration,
        split_group,
    )
    from allgrad.ddp.join import Join
    from allgrad.ddp.messages import (
        P2POp,
        batch_isend_irecv,
        irecv,
        isend,
        monitored_barrier,
        recv,
        send,
    )
    from allgrad.ddp.metrics import check_finite, reduce_sum
    from allgrad.ddp.model_averaging import PostLocalSGDOptimizer
    from allgrad.ddp.objects import (
        all_gather_object,
        broadcast_object,
        broadcast_object_list,
        gather_object,
        recv_object_list,
        scatter_object_list,
        send_object_list,
    )
    from allgrad.ddp.process_group import (
        GroupMember,
        ProcessGroup,
        destroy_process_group,
        get_backend,
        get_local_rank,
        get_node_count,
        get_node_local_rank,
        get_node_rank,
        get_rank,
        get_world_size,
        group,
        init_process_group,
        is_available,
        is_backend_available,
        is_gloo_available,
        is_initialized,
        is_mpi_available,
        is_nccl_available,
        is_torchelastic_launched,
        supports_complex,
    )
    from allgrad.ddp.sampler import (
        DistributedIterableDataset,
        DistributedSampler,
        DistributedSamplerWrapper,
        DistributedWeightedSampler,
    )
    from allgrad.ddp.schedule import Schedule
    from allgrad.ddp.shard_sampler import ShardedBatchSampler
    from allgrad.ddp.spellings import Backend
    from allgrad.ddp.sync_batchnorm import SyncBatchNorm
    from allgrad.ddp.tracing.record import trace
    from allgrad.ddp.work import Work
    from allgrad.ddp.zero import ZeroRedundancyOptimizer

_HOMES = {
    "CheckpointManager": "checkpoint",
    "all_gather": "collectives",
    "all_gather_into_tensor": "collectives",
    "all_reduce": "collectives",
    "barrier": "collectives",
    "broadcast": "collectives",
    "reduce_scatter": "collectives",
    "reduce_scatter_tensor": "collectives",
    "Communicator": "communicators.base",
    "ReduceOp": "communicators.base",
    "run_ranks": "communicators.thread",
    "check_replicas": "diagnosis.replicas",
    "flight_record": "diagnosis.records",
    "DistributedDataParallel": "distributed",
    "Join": "join",
    "restart_count": "events",
    "fingerprint": "fingerprints",
    "Future": "futures",
    "GracefulExit": "graceful",
    "graceful_exit": "graceful",
    "check_finite": "metrics",
    "reduce_sum": "metrics",
    "PostLocalSGDOptimizer": "model_averaging",
    "ProcessGroup": "process_group",
    "destroy_process_group": "process_group",
    "get_backend": "process_group",
    "get_local_rank": "process_group",
    "get_rank": "process_group",
    "get_world_size": "process_group",
    "init_process_group": "process_group",
    "is_initialized": "process_group",
    "DistributedIterableDataset": "sampler",
    "DistributedSampler": "sampler",
    "DistributedSamplerWrapper": "sampler",
    "DistributedWeightedSampler": "sampler",
    "SyncBatchNorm": "sync_batchnorm",
    "trace": "tracing.record",
    "ZeroRedundancyOptimizer": "zero",
    "ShardedBatchSampler": "shard_sampler",
    "Schedule": "schedule",
    "Work": "work",
    "all_gather_single": "collectives",
    "all_reduce_coalesced": "collectives",
    "reduce": "collectives",
    "gather": "collectives",
    "scatter": "collectives",
    "all_to_all": "collectives",
    "all_to_all_single": "collectives",
    "reduce_scatter_single": "collectives",
    "all_gather_object": "objects",
    "gather_object": "objects",
    "broadcast_object": "objects",
    "broadcast_object_list": "objects",
    "scatter_object_list": "objects",
    "send_object_list": "objects",
    "recv_object_list": "objects",
    "P2POp": "messages",
    "batch_isend_irecv": "messages",
    "irecv": "messages",
    "isend": "messages",
    "monitored_barrier": "messages",
    "recv": "messages",
    "send": "messages",
    "new_group": "groups",
    "new_subgroups": "groups",
    "new_subgroups_by_enumeration": "groups",
    "split_group": "groups",
    "get_process_group_ranks": "groups",
    "get_group_rank": "groups",
    "get_global_rank": "groups",
    "get_pg_count": "groups",
    "GroupMember": "process_group",
    "group": "process_group",
    "get_node_count": "process_group",
    "get_node_local_rank": "process_group",
    "get_node_rank": "process_group",
    "is_available": "process_group",
    "is_backend_available": "process_group",
    "is_gloo_available": "process_group",
    "is_mpi_available": "process_group",
    "is_nccl_available": "process_group",
    "is_torchelastic_launched": "process_group",
    "supports_complex": "process_group",
    "Backend": "spellings",
}

_MODULES = ("schedule",)  # found as attributes without being imported first

__all__ = [
    "Backend",
    "CheckpointManager",
    "Communicator",
    "DistributedDataParallel",
    "DistributedIterableDataset",
    "DistributedSampler",
    "DistributedSamplerWrapper",
    "DistributedWeightedSampler",
    "Future",
    "GracefulExit",
    "GroupMember",
    "Join",
    "P2POp",
    "PostLocalSGDOptimizer",
    "ProcessGroup",
    "ReduceOp",
    "Schedule",
    "ShardedBatchSampler",
    "SyncBatchNorm",
    "Work",
    "ZeroRedundancyOptimizer",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_gather_single",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "batch_isend_irecv",
    "broadcast",
    "broadcast_object",
    "broadcast_object_list",
    "check_finite",
    "check_replicas",
    "destroy_process_group",
    "fingerprint",
    "flight_record",
    "gather",
    "gather_object",
    "get_backend",
    "get_global_rank",
    "get_group_rank",
    "get_local_rank",
    "get_node_count",
    "get_node_local_rank",
    "get_node_rank",
    "get_pg_count",
    "get_process_group_ranks",
    "get_rank",
    "get_world_size",
    "graceful_exit",
    "group",
    "init_process_group",
    "irecv",
    "is_available",
    "is_backend_available",
    "is_gloo_available",
    "is_initialized",
    "is_mpi_available",
    "is_nccl_available",
    "is_torchelastic_launched",
    "isend",
    "monitored_barrier",
    "new_group",
    "new_subgroups",
    "new_subgroups_by_enumeration",
    "recv",
    "recv_object_list",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "reduce_sum",
    "restart_count",
    "run_ranks",
    "scatter",
    "scatter_object_list",
    "send",
    "send_object_list",
    "split_group",
    "supports_complex",
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
