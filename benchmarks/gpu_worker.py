"""One contestant of `gpu.py`: builds a network on the GPU and steps it when told to.

Reads one JSON request per line: ``{"steps": n}`` makes n steps and answers with seconds per step,
``{"memory": true}`` with the bytes that the allocator holds, ``{"ceilings": true}`` (of the
contestant of that name) with what the GPU reaches in a large product and a large copy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import build

BATCHES = {  # of one step
    "convnet": (1024, 1, 28, 28),
    "resnet20": (1024, 3, 32, 32),
    "resnet18": (512, 3, 32, 32),
    "resnet50": (128, 3, 224, 224),
}
WARMUP = 12  # steps before the first figure: algorithms are chosen, graphs recorded


class Side:
    """What a contestant offers.

    Attributes:
        step: one training step; gives the loss, on the GPU.
        wait: until the GPU is idle.
        reserved: bytes that the allocator holds.
        macs: multiplications of a forward pass of one image; 0 if not counted.
    """

    def __init__(
        self, step: Callable[[], Any], wait: Callable[[], None], reserved: Callable[[], int]
    ) -> None:
        self.step, self.wait, self.reserved, self.macs = step, wait, reserved, 0


def batch_of(network: str) -> tuple[np.ndarray, np.ndarray]:
    """Random images and classes."""
    rng = np.random.default_rng(0)
    shape = BATCHES[network]
    return rng.standard_normal(shape, np.float32), rng.integers(0, 10, shape[0])


def make_allgrad(network: str, dtype: str, captured: bool) -> Side:
    """allgrad, eager or as one CUDA graph a step."""
    import allgrad as ag
    from allgrad import nn, optim
    from allgrad.nn import functional as F  # noqa: N812 - the usual name

    ag.backends.cudnn.benchmark = True
    ag.manual_seed(0)
    net = build(network, nn, F).cuda()
    x, target = (ag.tensor(array, device="cuda") for array in batch_of(network))
    optimizer = optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    loss_of = F.nll_loss if network == "convnet" else F.cross_entropy
    half = getattr(ag, dtype)

    def step() -> Any:
        optimizer.zero_grad()
        with ag.autocast("cuda", dtype=half, enabled=dtype != "float32"):
            loss = loss_of(net(x), target)
        loss.backward()
        optimizer.step()
        return loss

    run = ag.cuda.capture(step) if captured else step
    side = Side(run, ag.cuda.synchronize, ag.cuda.memory_reserved)
    side.macs = count_macs(net, nn, x[:1])
    return side


def count_macs(net: Any, nn: Any, image: Any) -> int:
    """Multiplications of convolutions and linear layers for one image."""
    total = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        per_output = module.weight.numel() // module.weight.shape[0]
        total += output.numel() * per_output

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count) for m in layers]
    net.eval()
    net(image)
    net.train()
    for handle in handles:
        handle.remove()
    return total


def make_torch(network: str, dtype: str, way: str) -> Side:
    """PyTorch: eager, torch.compile, or eager code in a CUDA graph; channels last throughout."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - the usual name
    from torch import nn

    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = build(network, nn, F).cuda().to(memory_format=torch.channels_last)
    images, classes = batch_of(network)
    x = torch.tensor(images, device="cuda").contiguous(memory_format=torch.channels_last)
    target = torch.tensor(classes, device="cuda")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
    loss_of = F.nll_loss if network == "convnet" else F.cross_entropy
    model = torch.compile(net, mode="max-autotune") if way == "compile" else net

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", getattr(torch, dtype), enabled=dtype != "float32"):
            loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    run = _graphed(torch, step) if way == "graph" else step
    return Side(run, torch.cuda.synchronize, torch.cuda.memory_reserved)


def _graphed(torch: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """`step` as one CUDA graph, recorded as PyTorch's manual says."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Any:
        graph.replay()
        return loss

    return replay


def measure_ceilings() -> dict[str, float]:
    """Operations per second of a large product in each type, and bytes per second of a copy."""
    import allgrad as ag

    found = {}
    n = 8192
    for name in ("bfloat16", "float16", "float32"):
        a = ag.randn(n, n, device="cuda").to(getattr(ag, name))
        found[f"{name}_flops"] = 2.0 * n**3 / _seconds(ag, lambda a=a: a @ a)
    block = ag.zeros(1 << 28, device="cuda")
    other = ag.empty_like(block)
    found["copy_bytes_per_s"] = 2.0 * block.nbytes / _seconds(ag, lambda: other.copy_(block))
    return found


def _seconds(ag: Any, work: Callable[[], Any], times: int = 20) -> float:
    for _ in range(3):
        work()
    begin, end = (ag.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        work()
    end.record()
    ag.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def make(name: str, network: str, dtype: str) -> Side:
    """The contestant called `name`."""
    library, way = name.split()
    if library == "allgrad":
        return make_allgrad(network, dtype, captured=way == "captured")
    return make_torch(network, dtype, way)


def say(**what: Any) -> None:
    """One answer."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def serve_ceilings() -> None:
    """Say which GPU it is, then what it reaches."""
    import allgrad as ag

    properties = ag.cuda.get_device_properties()
    say(device=properties.name, capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        gpus=ag.cuda.device_count())  # fmt: skip
    for _ in sys.stdin:
        say(**measure_ceilings())


def main() -> None:
    """Build, make the first steps, then obey until the driver hangs up."""
    name, network, dtype = sys.argv[1:]
    if name == "ceilings":
        serve_ceilings()
        return
    side = make(name, network, dtype)
    for _ in range(WARMUP):
        loss = side.step()
    side.wait()
    say(name=name, batch=BATCHES[network][0], loss=float(loss), reserved=side.reserved(),
        macs_per_image=side.macs)  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        if "memory" in request:
            say(reserved=side.reserved())
            continue
        side.wait()
        start = time.perf_counter()
        for _ in range(request["steps"]):
            side.step()
        side.wait()
        say(s=(time.perf_counter() - start) / request["steps"])


if __name__ == "__main__":
    main()
