"""How much of NCCL's work backward hides, on the GPUs of one host: one rank on each.

    allgrad run -n 2 benchmarks/gpu_overlap.py                    # ResNet-50 in bf16
    allgrad run -n 2 benchmarks/gpu_overlap.py --network resnet18 --steps 50

Steps with communication during backward, with all of it after backward and without any take turns
in the same processes. Rank 0 prints one line of JSON: seconds per step of the three (the slowest
rank's median), the hidden share (after - overlap) / (after - compute), and what
`communication_report` says of the same steps, which is measured by events on the GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

from gpu_worker import BATCHES, batch_of
from workloads import build

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.communicators.base import COMPLETED
from allgrad.ddp.reduction import Reduction
from allgrad.nn import functional as F  # noqa: N812 - the usual name


class NoReduction(Reduction):
    """Gradients stay what they are on each rank."""

    carries_tail = True

    def reduce(self, bucket: Any) -> Any:
        return COMPLETED


def measure(network: str, dtype: str, steps: int) -> dict[str, Any]:
    """The figures of this rank's job; the same on all ranks."""
    ddp.init_process_group("nccl")
    ag.manual_seed(0)
    net = build(network, nn, F).cuda()
    x, target = (ag.tensor(array, device="cuda") for array in batch_of(network))
    # without communication replicas differ, and are meant to
    model = ddp.DistributedDataParallel(net, check_replicas_every=0, overlap=True)
    optimizer = optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    reducer: Any = model._reducer
    mean = reducer.reduction
    ways = {"overlap": (True, mean), "after": (False, mean), "compute": (False, NoReduction())}

    def step(way: str) -> float:
        reducer.choice.overlapping, reducer.reduction = ways[way]
        ag.cuda.synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad()
        with ag.autocast("cuda", dtype=getattr(ag, dtype), enabled=dtype != "float32"):
            loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        ag.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(5):
        for way in ways:
            step(way)
    model.communication_report(reset=True)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(steps):
        for way, taken in times.items():
            taken.append(step(way))
    every: list[Any] = [None] * ddp.get_world_size()
    ddp.all_gather_object(every, {way: statistics.median(taken) for way, taken in times.items()})
    slowest = {way: max(rank[way] for rank in every) for way in ways}
    cost = slowest["after"] - slowest["compute"]
    return {
        "network": network,
        "dtype": dtype,
        "ranks": ddp.get_world_size(),
        "batch": BATCHES[network][0],
        "s_per_step": slowest,
        "hidden": (slowest["after"] - slowest["overlap"]) / cost if cost > 0 else None,
        "report": model.communication_report(),
    }


def main() -> None:
    """Measure, and print on rank 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=sorted(BATCHES), default="resnet50")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=30, help="of each way (30)")
    options = parser.parse_args()
    found = measure(options.network, options.dtype, options.steps)
    if ddp.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    ddp.destroy_process_group()


if __name__ == "__main__":
    main()
