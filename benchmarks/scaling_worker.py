"""One rank of `scaling.py` or `scaling_prediction.py`: builds a network, obeys the driver.

Reports to the driver over a socket, says who it is, and is told where PyTorch's ranks meet. Then
per line that comes in:

    {"steps": n}                 make n steps; answer their seconds
    {"steps": n, "trace": DIR}   the same with a trace in DIR
    {"compute": n, "trace": DIR} make n steps whose gradients do not travel, with a trace in DIR
    {"calibrate": true}          time all-reduces and what they take of this core
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import BATCHES, batch, build, optimizer_of

from allgrad.ddp.environment import discover

CALIBRATION_BYTES = (4, 65536, 1 << 20, 2 << 20, 8 << 20)
_REPEATS = 15, 5  # of small and of large ones


def connect(address: str) -> Any:
    """The stream to the driver at ``unix:PATH`` or ``tcp:HOST:PORT:TOKEN``."""
    kind, _, place = address.partition(":")
    if kind == "unix":
        link = socket.socket(socket.AF_UNIX)
        link.connect(place)
        return link.makefile("rw")
    host, port, token = place.split(":")
    link = socket.create_connection((host, int(port)), 60)
    link.settimeout(None)  # the driver may be busy with others for long
    stream = link.makefile("rw")
    stream.write(f"{token}\n")
    return stream


def say(stream: Any, **words: Any) -> None:
    """One line to the driver."""
    stream.write(json.dumps(words) + "\n")
    stream.flush()


class AllgradRank:
    """The network under allgrad's wrapper."""

    def __init__(self, workload: str, options: dict[str, Any]) -> None:
        import allgrad as ag
        from allgrad import ddp, nn, optim
        from allgrad.nn import functional as F  # noqa: N812 - the usual name

        ddp.init_process_group()
        ag.manual_seed(0)
        if workload == "paced":
            from paced import paced_network

            self.net: Any = paced_network(*options["paced"])
            kind, settings = "SGD", {"lr": 0.0}
            # the input has a gradient: its ops sleep in backward, too
            self._x, self._target = ag.ones(1, requires_grad=True), None
        else:
            self.net = build(workload, nn, F)
            kind, settings = optimizer_of(workload)
            data = batch(workload, np.random.default_rng(ddp.get_rank()))
            self._x, self._target = (ag.tensor(a) for a in data)
        self.model = ddp.DistributedDataParallel(self.net)
        self._optimizer = getattr(optim, kind)(self.net.parameters(), **settings)
        self._loss = F.nll_loss if workload == "convnet" else F.cross_entropy
        self.barrier, self.close = ddp.barrier, ddp.destroy_process_group

    def step(self) -> None:
        """One step of training."""
        self._optimizer.zero_grad()
        y = self.model(self._x)
        loss = y.sum() if self._target is None else self._loss(y, self._target)
        loss.backward()
        self._optimizer.step()

    def traced(self, steps: int, folder: str) -> list[float]:
        """Steps with a trace."""
        from allgrad import ddp

        with ddp.trace(folder):
            return timed(self.step, steps)

    def compute(self, steps: int, folder: str) -> list[float]:
        """Steps in which gradients do not travel, with a trace."""
        from allgrad.ddp.communicators.base import COMPLETED
        from allgrad.ddp.reduction import Reduction

        class NoReduction(Reduction):
            carries_tail = True

            def reduce(self, bucket: Any) -> Any:
                return COMPLETED

        reducer: Any = self.model._reducer
        before = None if reducer is None else reducer.reduction
        if reducer is not None:
            reducer.reduction = NoReduction()
            reducer.check_every = 0  # replicas are meant to differ from now on
        try:
            return self.traced(steps, folder)
        finally:
            if reducer is not None:
                reducer.reduction = before

    def calibrate(self) -> dict[str, Any]:
        """Times of all-reduces alone, and what one takes of this core beside something else."""
        from allgrad.ddp.process_group import default_group

        communicator = default_group().communicator
        alone: dict[int, float] = {}
        for size in CALIBRATION_BYTES:
            array = communicator.allocate(max(64, size)).view(np.float32)[: max(1, size // 4)]
            taken = []
            for _ in range(_REPEATS[size > 1 << 20]):
                communicator.barrier()
                begin = time.perf_counter()
                communicator.all_reduce(array)
                taken.append(time.perf_counter() - begin)
            # of the small ones, what it takes if nobody is in the way
            alone[size] = min(taken) if size <= 1 << 16 else statistics.median(taken)
        beside = sleep if self._target is None else compute
        # larger than the caches, as gradients are, where that does not take long on any rank
        slowest = np.array([alone[CALIBRATION_BYTES[-1]]])
        communicator.all_reduce(slowest, "max")
        size = CALIBRATION_BYTES[-1 if slowest[0] < 0.04 else -2]
        core = [_core_time(communicator, size, beside) for _ in range(5)]
        launches, looks = zip(*[_empty_look(communicator) for _ in range(9)], strict=True)
        return {
            "alone_s": alone,
            "core_s": core,
            "core_bytes": size,
            "launch_s": statistics.median(launches),
            "look_s": statistics.median(looks),
        }


def sleep() -> None:
    """What a rank of the paced network does between two looks."""
    time.sleep(1e-3)


_work = np.zeros(1 << 20, np.float32)


def compute() -> None:
    """What other ranks do: about a millisecond that leaves nothing of gradients in the caches."""
    for _ in range(4):
        np.add(_work, 1, out=_work)


def _core_time(communicator: Any, size: int, beside: Callable[[], None]) -> tuple[float, int]:
    """What one all-reduce takes of this core beside something else, seconds; and how many looks.

    What else is computed is slower meanwhile, for the kernel's work and for what caches lose: that
    counts. Beside sleep, it is the time of the calls.
    """
    array = communicator.allocate(size).view(np.float32)
    communicator.barrier()
    usual = statistics.median(timed(beside, 9))
    communicator.barrier()
    begin = time.perf_counter()
    work = communicator.all_reduce(array, async_op=True)
    calls, looks, done = time.perf_counter() - begin, 0, False
    while not done:
        beside()
        looked = time.perf_counter()
        done = work.test()
        calls += time.perf_counter() - looked
        looks += 1
    whole = time.perf_counter() - begin
    return (calls if beside is sleep else whole - looks * usual), looks


def _empty_look(communicator: Any) -> tuple[float, float]:
    """Seconds to launch a small all-reduce, and to look at it in vain: rank 0 comes earlier."""
    arrays = [communicator.allocate(64).view(np.float32) for _ in range(8)]
    communicator.barrier()
    if communicator.rank:
        spin(8e-3)
    works, launches, looks = [], [], []
    for array in arrays:
        begin = time.perf_counter()
        works.append(communicator.all_reduce(array, async_op=True))
        launches.append(time.perf_counter() - begin)
    for _ in range(20):
        spin(1e-4)
        begin = time.perf_counter()
        works[0].test()
        looks.append(time.perf_counter() - begin)
    for work in works:
        work.wait()
    return statistics.median(launches), statistics.median(looks)


def spin(seconds: float) -> None:
    """Keep the core busy: one that has slept is slower for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class TorchRank:
    """The network under PyTorch's wrapper, on gloo."""

    def __init__(self, workload: str, options: dict[str, Any]) -> None:
        import torch
        import torch.nn.functional as F  # noqa: N812 - the usual name
        from torch import nn

        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo")
        torch.manual_seed(0)
        net: Any = build(workload, nn, F)
        data = batch(workload, np.random.default_rng(torch.distributed.get_rank()))
        self._x, self._target = (torch.tensor(a) for a in data)
        if options.get("channels_last"):
            net = net.to(memory_format=torch.channels_last)
            self._x = self._x.contiguous(memory_format=torch.channels_last)
        self._model = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
        kind, settings = optimizer_of(workload)
        self._optimizer = getattr(torch.optim, kind)(net.parameters(), **settings)
        self._loss = F.nll_loss if workload == "convnet" else F.cross_entropy
        self.barrier = torch.distributed.barrier
        self.close = torch.distributed.destroy_process_group

    def step(self) -> None:
        """One step of training."""
        self._optimizer.zero_grad()
        self._loss(self._model(self._x), self._target).backward()
        self._optimizer.step()


def timed(step: Callable[[], None], count: int) -> list[float]:
    """Seconds of every step."""
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begin)
    return taken


def meet_as_torch_does(place: Any, told: dict[str, Any], options: dict[str, Any]) -> None:
    """Set the variables that PyTorch reads."""
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "MASTER_ADDR": told["host"],
        "MASTER_PORT": str(told["port"]),
    }
    if options.get("interface"):
        os.environ["GLOO_SOCKET_IFNAME"] = options["interface"]


def go_first() -> None:
    """Above all others, with all threads; not before they have met, spinning.

    By niceness: under a real-time class no thread would run beside one that computes on its core,
    neither the one that moves our messages nor those of gloo.
    """
    for thread in os.listdir("/proc/self/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), -20)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def main() -> None:
    """Report, build, then obey until the driver hangs up."""
    address, name, workload, given = sys.argv[1:]
    options = json.loads(given)
    place = discover()
    cores = options.get("cores")
    if cores:
        number = place.local_rank if options.get("by_local_rank") else place.rank
        os.sched_setaffinity(0, {cores[(number or 0) % len(cores)]})
    if "batch" in options:
        BATCHES[workload] = (options["batch"], *BATCHES[workload][1:])
    stream = connect(address)
    host = options.get("meet") or socket.gethostname()
    say(stream, rank=place.rank, size=place.size, host=host, port=free_port())
    meet_as_torch_does(place, json.loads(stream.readline()), options)
    rank: Any = (TorchRank if name == "torch" else AllgradRank)(workload, options)
    timed(rank.step, 3)
    if options.get("priority"):
        go_first()
    say(stream, ready=True)
    for line in stream:
        order = json.loads(line)
        rank.barrier()
        if "calibrate" in order:
            say(stream, calibration=rank.calibrate())
        elif "compute" in order:
            say(stream, times_s=rank.compute(order["compute"], order["trace"]))
        elif "trace" in order:
            say(stream, times_s=rank.traced(order["steps"], order["trace"]))
        else:
            say(stream, times_s=timed(rank.step, order["steps"]))
    rank.close()


if __name__ == "__main__":
    main()
