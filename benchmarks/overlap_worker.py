"""One rank of one contestant of `overlap.py`: builds the network, runs steps when told to.

Talks to the driver over a Unix socket, which reaches into the emulated hosts. A contestant has
several ways to make a step, which take turns step by step: with communication during backward,
with all of it after backward, and without any.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from priority import lift_session
from workloads import BATCHES, batch, build, optimizer_of

# Seconds of forward, of backward with all waiting, of the optimizer, and of calls during backward
# in which this core works for communication: it copies into sockets and adds.
Times = tuple[float, float, float, float]
StepFunction = Callable[[], Times]


def timed_step(model: Any, x: Any, target: Any, loss_of: Any, optimizer: Any) -> StepFunction:
    """A training step with the time of its three parts; the same code for both frameworks."""

    def step() -> Times:
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(model(x), target)
        float(loss.item())  # forward is over only then: ops may be pending
        backward = time.perf_counter()
        loss.backward()
        optimize = time.perf_counter()
        optimizer.step()
        end = time.perf_counter()
        return backward - begin, optimize - backward, end - optimize, 0.0

    return step


def make_allgrad(
    workload: str, options: dict[str, Any]
) -> tuple[dict[str, StepFunction], Callable[[], None], Any]:
    """The ways of allgrad: overlap, after (all communication after backward), compute (none)."""
    import allgrad as ag
    from allgrad import ddp, nn, optim
    from allgrad.ddp.communicators.base import COMPLETED
    from allgrad.ddp.reduction import Reduction
    from allgrad.nn import functional as F  # noqa: N812 - the usual name

    ddp.init_process_group(link=options.get("link"), shared_memory=options.get("shared_memory"))
    ag.manual_seed(0)
    net: Any = build(workload, nn, F)
    x, target = (ag.tensor(a) for a in batch(workload, np.random.default_rng(ddp.get_rank())))
    cap = options.get("bucket_cap_mb")
    # without communication replicas differ, and are meant to
    model = ddp.DistributedDataParallel(
        net, bucket_cap_mb=cap, check_replicas_every=0, overlap=True
    )
    kind, settings = optimizer_of(workload)
    optimizer = getattr(optim, kind)(net.parameters(), **settings)
    loss_of = F.nll_loss if workload == "convnet" else F.cross_entropy
    step = timed_step(model, x, target, loss_of, optimizer)

    class NoReduction(Reduction):
        carries_tail = True

        def reduce(self, bucket: Any) -> Any:
            return COMPLETED

    reducer: Any = model._reducer
    mean = reducer.reduction

    def way(overlap: bool, reduction: Any) -> StepFunction:
        def run() -> Times:
            reducer.choice.overlapping, reducer.reduction = overlap, reduction
            before = reducer.timer.in_backward_s
            forward, backward, optimize, _ = step()
            return forward, backward, optimize, reducer.timer.in_backward_s - before

        return run

    ways = {
        "overlap": way(True, mean),
        "after": way(False, mean),
        "compute": way(False, NoReduction()),
    }
    return ways, ddp.barrier, model


def make_torch(
    workload: str, options: dict[str, Any]
) -> tuple[dict[str, StepFunction], Callable[[], None], Any]:
    """PyTorch DDP on gloo, and its network alone."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the usual name
    from torch import nn

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    net: Any = build(workload, nn, F)
    x, target = (torch.tensor(a) for a in batch(workload, np.random.default_rng(rank)))
    if options.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    model = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    kind, settings = optimizer_of(workload)
    optimizer = getattr(torch.optim, kind)(net.parameters(), **settings)
    loss_of = F.nll_loss if workload == "convnet" else F.cross_entropy
    step = timed_step(model, x, target, loss_of, optimizer)

    def alone() -> tuple[float, float, float]:
        with model.no_sync():
            return step()

    return {"overlap": step, "compute": alone}, torch.distributed.barrier, model


def main() -> None:
    """Connect, build, then obey ``{"steps": n}`` until the driver hangs up."""
    lift_session()
    path, name, workload, given = sys.argv[1:]
    options = json.loads(given)
    rank = int(os.environ.get("RANK") or os.environ.get("PMI_RANK") or 0)
    cores = options["cores"]
    if cores:
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    BATCHES[workload] = (options["batch"], *BATCHES[workload][1:])
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)
    stream = link.makefile("rw")
    make = make_torch if name == "torch" else make_allgrad
    ways, barrier, model = make(workload, options)
    for _ in range(3):
        for way in ways.values():
            way()
    report = {"rank": rank, "ways": list(ways)}
    if name != "torch":
        report["buckets"] = [b.flat.nbytes for b in model._reducer.buckets]
    stream.write(json.dumps(report) + "\n")
    stream.flush()
    for line in stream:
        steps = json.loads(line)["steps"]
        taken: dict[str, list[Times]] = {way: [] for way in ways}
        barrier()
        for _ in range(steps):
            for way, function in ways.items():
                taken[way].append(function())
        stream.write(json.dumps({"rank": rank, "times_s": taken}) + "\n")
        stream.flush()


if __name__ == "__main__":
    main()
