"""One rank of one contestant of `step.py`: builds the workload, runs steps when told to.

Talks to the driver over a loopback socket, so that a contestant whose turn it is not sleeps in
`recv` instead of spinning in a collective.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from workloads import batch, build, optimizer_of

# Steps of training to time in turn, and something that waits until all ranks are there.
Contestant = tuple[list[Callable[[], float]], Callable[[], None]]


def make_allgrad(workload: str, ranks: int, wrapped: bool) -> Contestant:
    """Forward, loss, backward and the optimizer's step in allgrad.

    Wrapped at size 1, the same network's step with and without the wrapper take turns.
    """
    import allgrad as ag
    from allgrad import ddp, nn, optim
    from allgrad.nn import functional as F  # noqa: N812 - the usual name

    barrier: Callable[[], None] = lambda: None  # noqa: E731 - replaced below
    if wrapped:
        ddp.init_process_group()
        barrier = ddp.barrier
    ag.manual_seed(0)
    net: Any = build(workload, nn, F)
    rng = np.random.default_rng(int(os.environ.get("BENCH_RANK", "0")))
    x, target = (ag.tensor(array) for array in batch(workload, rng))
    model = ddp.DistributedDataParallel(net) if wrapped else net
    kind, settings = optimizer_of(workload)
    optimizer = getattr(optim, kind)(net.parameters(), **settings)
    loss_of = F.nll_loss if workload == "convnet" else F.cross_entropy

    def step(model: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    models = [model, net] if wrapped and ranks == 1 else [model]
    return [partial(step, m) for m in models], barrier


def make_torch(workload: str, ranks: int, channels_last: bool) -> Contestant:
    """The same in PyTorch eager; with several ranks under DistributedDataParallel on gloo."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the usual name
    from torch import nn

    torch.set_num_threads(1)
    barrier: Callable[[], None] = lambda: None  # noqa: E731 - replaced below
    rank = int(os.environ.get("BENCH_RANK", "0"))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        barrier = torch.distributed.barrier
    torch.manual_seed(0)
    net: Any = build(workload, nn, F)
    rng = np.random.default_rng(rank)
    x, target = (torch.tensor(array) for array in batch(workload, rng))
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    model = net
    if ranks > 1:
        model = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    kind, settings = optimizer_of(workload)
    optimizer = getattr(torch.optim, kind)(net.parameters(), **settings)
    loss_of = F.nll_loss if workload == "convnet" else F.cross_entropy

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return [step], barrier


def make(name: str, workload: str, ranks: int) -> Contestant:
    """The contestant called `name`."""
    if name == "allgrad":
        return make_allgrad(workload, ranks, wrapped=ranks > 1)
    if name == "allgrad+ddp":
        return make_allgrad(workload, ranks, wrapped=True)
    return make_torch(workload, ranks, channels_last=name == "torch channels_last")


def main() -> None:
    """Connect, build, then obey ``{"steps": n}`` until the driver hangs up."""
    name, workload, ranks, port, cores = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, {int(c) for c in cores.split(",")})
    link = socket.create_connection(("127.0.0.1", int(port)))
    stream = link.makefile("rw")
    variants, barrier = make(name, workload, int(ranks))
    for _ in range(3):
        losses = [step() for step in variants]
    stream.write(json.dumps({"name": name, "loss": losses[0]}) + "\n")
    stream.flush()
    for line in stream:
        steps = json.loads(line)["steps"]
        barrier()
        times: list[list[float]] = [[] for _ in variants]
        for _ in range(steps):
            for step, taken in zip(variants, times, strict=True):
                start = time.perf_counter()
                step()
                taken.append(time.perf_counter() - start)
        stream.write(json.dumps({"times_s": times}) + "\n")
        stream.flush()


if __name__ == "__main__":
    main()
