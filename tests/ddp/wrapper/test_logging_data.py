"""What a wrapped model says of itself under PyTorch's names."""

from __future__ import annotations

from typing import Any

import pytest

import allgrad as ag
from allgrad import ddp, nn
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks.default_hooks import allreduce_hook


def data_of(steps: int, **options: Any) -> dict[str, Any]:
    ddp.init_process_group(timeout=20)
    model = ddp.DistributedDataParallel(nn.Linear(8, 2), **options)
    if ddp.get_world_size() > 1:
        model.register_comm_hook(None, allreduce_hook)
    for _ in range(steps):
        model(ag.ones(3, 8)).sum().backward()
    data = model._get_ddp_logging_data()
    ddp.destroy_process_group()
    return data


def test_sizes_options_and_times() -> None:
    for rank, data in enumerate(run_ranks(lambda: data_of(3, bucket_cap_mb=0), 2)):
        assert data["rank"] == rank
        assert (data["world_size"], data["iteration"], data["num_iterations"]) == (2, 3, 3)
        assert data["module_name"] == "Linear"
        assert (data["dtypes"], data["num_parameter_tensors"]) == ("float32", 2)
        assert data["total_parameter_size_bytes"] == 18 * 4
        assert data["bucket_sizes"] == "64, 8"  # weight and bias, in the order of backward
        assert data["comm_hook"] == "allreduce_hook"
        assert data["bucket_cap_bytes"] == 0
        assert data["avg_backward_comm_time"] > 0
        assert data["collectives"] >= 6
    assert data["backend_name"] == data["communicator"] == "thread"


def test_one_rank() -> None:
    data = data_of(2, static_graph=True, broadcast_buffers=False)
    assert (data["world_size"], data["rank"], data["iteration"]) == (1, 0, 0)
    assert (data["static_graph"], data["broadcast_buffers"], data["comm_hook"]) == (1, 0, "")
    assert data["has_sync_bn"] == 0


@pytest.mark.torch
def test_names_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        theirs = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 2))
        known = set(theirs._get_ddp_logging_data())
    finally:
        distributed.destroy_process_group()
    ours = set(data_of(0))
    environment = {"cuda_visible_devices", "master_addr", "master_port", "torch_distributed_debug"}
    assert {name for name in known - ours if "gloo" not in name} <= environment
