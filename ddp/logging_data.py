"""What a wrapped model says of itself, under the names of PyTorch's DDP logging data.

Stage of the flow: read from `distributed`, for reports. May import: `hook_reduction`,
`sync_batchnorm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allgrad.ddp.hook_reduction import HookReduction
from allgrad.ddp.sync_batchnorm import SyncBatchNorm

if TYPE_CHECKING:
    from allgrad.ddp.distributed import DistributedDataParallel


def logging_data(model: DistributedDataParallel) -> dict[str, Any]:
    """See `DistributedDataParallel._get_ddp_logging_data`.

    Unused parameters are always looked for; a hook's name is "" where none is registered.
    """
    group, module = model.process_group, model.module
    params = [p for p in module.parameters() if p.requires_grad]
    data: dict[str, Any] = {
        "world_size": group.size,
        "rank": group.rank,
        "backend_name": group.backend,
        "communicator": group.communicator.name,
        "module_name": type(module).__name__,
        "device_ids": "",
        "output_device": -1,
        "is_multi_device_module": 0,
        "has_sync_bn": int(any(isinstance(m, SyncBatchNorm) for m in module.modules())),
        "dtypes": ", ".join(dict.fromkeys(p._array.dtype.name for p in params)),
        "num_parameter_tensors": len(params),
        "total_parameter_size_bytes": sum(p._array.nbytes for p in params),
    }
    return data | _of_steps(model)


def _of_steps(model: DistributedDataParallel) -> dict[str, Any]:
    reducer, options = model._reducer, model._options
    report = model.communication_report()
    steps = max(1, int(report["steps"]))
    covered_s = max(0.0, report["communication_s"] - report["exposed_s"])
    buckets = [] if reducer is None else reducer.buckets
    reduction = None if reducer is None else reducer.reduction
    hook = reduction.name if isinstance(reduction, HookReduction) else ""
    return {
        "bucket_cap_bytes": options.cap_bytes,
        "first_bucket_bytes": options.first_cap_bytes,
        "bucket_sizes": ", ".join(str(sum(view.nbytes for view in b.views)) for b in buckets),
        "num_buckets_reduced": len(buckets),
        "broadcast_buffers": int(options.buffers != "none"),
        "find_unused_parameters": 1,
        "gradient_as_bucket_view": int(options.as_view),
        "static_graph": int(options.static),
        "comm_hook": hook,
        "iteration": 0 if reducer is None else reducer.steps,
        "num_iterations": int(report["steps"]),
        "collectives": int(report["collectives"]),
        "avg_backward_comm_time": round(report["communication_s"] / steps * 1e9),
        "avg_backward_compute_comm_overlap_time": round(covered_s / steps * 1e9),
    }
