"""Which of our graphs cuDNN has kernels for, asked of the real library without a GPU.

Two steps, as the emulated GPU and the real cuDNN do not fit into one process:

    python tests/support/cudnn_support.py trace problems.json     # in the development environment
    python tests/support/cudnn_support.py plan problems.json cudnn_support.json

The second one needs cudnn-frontend, cuDNN, cuBLAS and NVRTC of the versions that the result is to
speak of (`pip install nvidia-cudnn-frontend==1.23.0 nvidia-cudnn-cu13 nvidia-cublas
nvidia-cuda-nvrtc`), their folders and a libcuda.so.1 (any that loads) on LD_LIBRARY_PATH. It plans
every problem for devices that are described to cuDNN, and compiles a plan of all convolutions and
of a few batch norms.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from allgrad.backend.cuda import cudnn_graphs
from allgrad.backend.cuda.cudnn_graphs import (
    BatchNormBackward,
    BatchNormForward,
    Builder,
    ConvForward,
    ConvInput,
    ConvWeight,
)

BATCH = 64  # of what is stored; other batches are other graphs, but not another kind
FIXTURE = Path(__file__).parent.parent / "core/backend/cuda/cudnn_support.json"
_COMMON = {
    "cudaDeviceId": 0,
    "driverVer": 13000,
    "isTccDriver": 0,
    "maxBlockSize": [1024, 1024, 64],
    "maxCtasPerSM": 32,
    "maxGridSize": [2147483647, 65535, 65535],
    "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 49152,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "pciDeviceId": 0,
    "regsPerBlock": 65536,
    "reservedSharedMemoryPerBlock": 1024,
    "supportCoopLaunch": 1,
    "warpSize": 32,
}
DEVICES = {
    "sm_90": {
        **_COMMON,
        "deviceName": "NVIDIA H200",
        "deviceVer": 900,
        "l2CacheSize": 62914560,
        "maxSharedMemoryPerBlockOptin": 232448,
        "memClockRateKHz": 3201000,
        "multiProcessorCount": 132,
        "smClockRateKHz": 1980000,
        "totalGlobalMem": 150754820096,
    },
    "sm_80": {
        **_COMMON,
        "deviceName": "NVIDIA A100-SXM4-80GB",
        "deviceVer": 800,
        "l2CacheSize": 41943040,
        "maxSharedMemoryPerBlockOptin": 166912,
        "memClockRateKHz": 1593000,
        "multiProcessorCount": 108,
        "smClockRateKHz": 1410000,
        "totalGlobalMem": 85094825984,
    },
}


# -- what our graphs must avoid ------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class WeightInFloat32:
    """Gradient of weights of 16-bit tensors in float32."""

    io: str
    x: tuple[int, ...] = (BATCH, 64, 16, 16)
    weight: tuple[int, ...] = (64, 64, 3, 3)

    def build(self, b: Builder) -> None:
        one = [1, 1]
        grad = b.graph.conv_wgrad(
            image=b.tensor(2, self.x), loss=b.tensor(1, self.x), padding=one, stride=one,
            dilation=one,
        )  # fmt: skip
        b.output(grad, 3, self.weight, "f4")


@dataclasses.dataclass(frozen=True)
class InferenceAlone:
    """Batch norm with given statistics, without anything else."""

    io: str
    x: tuple[int, ...] = (BATCH, 64, 16, 16)

    def build(self, b: Builder) -> None:
        scale, shift, mean, rstd = (b.vector(uid, self.x[1], 4) for uid in (2, 3, 4, 5))
        y = b.graph.batchnorm_inference(
            input=b.tensor(1, self.x), mean=mean, inv_variance=rstd, scale=scale, bias=shift
        )
        b.output(y, 6, self.x)


@dataclasses.dataclass(frozen=True)
class ReluFromActivation:
    """Gradient of batch norm behind that of a ReLU which looks at its stored result."""

    io: str
    x: tuple[int, ...] = (BATCH, 64, 16, 16)
    between: str = ""  # type of the gradient between both, if not `io`

    def build(self, b: Builder) -> None:
        grad, x = b.tensor(1, self.x), b.tensor(2, self.x)
        scale, mean, rstd = (b.vector(uid, self.x[1], 4) for uid in (3, 4, 5))
        if self.between:
            y = b.graph.batchnorm_inference(
                input=x, mean=mean, inv_variance=rstd, scale=scale, bias=b.vector(6, self.x[1], 4)
            )
        else:
            y = b.tensor(6, self.x)
        grad = b.graph.relu_backward(loss=grad, input=y)
        grad.set_data_type(b.types[self.between or self.io])
        outputs = b.graph.batchnorm_backward(
            grad=grad, input=x, scale=scale, mean=mean, inv_variance=rstd
        )
        b.output(outputs[0], 7, self.x)
        for uid, vector in ((8, outputs[1]), (9, outputs[2])):
            b.output(vector, uid, (1, self.x[1], 1, 1), "f4")


def probes() -> list[Any]:
    """Graphs that are asked for to know what is refused."""
    uneven = (BATCH, 20, 8, 8)
    found: list[Any] = [InferenceAlone("f4"), BatchNormForward("f4", uneven, 1e-5, False)]
    for io in ("f2", "b2"):
        found += [
            BatchNormForward(io, uneven, 1e-5, True),
            BatchNormBackward(io, uneven, True),
            WeightInFloat32(io),
            InferenceAlone(io),
            ReluFromActivation(io),
            ReluFromActivation(io, between="f4"),
        ]
    return found


_KINDS = {
    kind.__name__: kind
    for kind in (
        ConvForward, ConvInput, ConvWeight, BatchNormForward, BatchNormBackward, WeightInFloat32,
        InferenceAlone, ReluFromActivation,
    )
}  # fmt: skip


def with_batch(problem: Any, n: int = BATCH) -> Any:
    """The problem for another batch."""
    changed = {
        name: (n, *value[1:])
        for name, value in dataclasses.asdict(problem).items()
        if name in ("x", "y")
    }
    return dataclasses.replace(problem, **changed)


def stored(path: Path = FIXTURE) -> dict[str, Any]:
    """What `plan` wrote."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# -- trace ---------------------------------------------------------------------------------------
def networks() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """What makes each network, and the shape of an image."""
    from allgrad.vision import models

    return {
        "ConvNet": (models.small.ConvNet, (1, 28, 28)),
        "ResNet-20": (models.resnet20, (3, 32, 32)),
        "ResNet-18": (models.resnet18, (3, 224, 224)),
        "ResNet-50": (models.resnet50, (3, 224, 224)),
    }


def traced(make: Any, image: tuple[int, ...], dtype: Any, channels_last: bool = False) -> set[Any]:
    """The problems of one step of training on the GPU; nothing is computed by cuDNN."""
    import allgrad as ag
    from allgrad.backend.cuda import cudnn_plans

    found: set[Any] = set()

    def add(self: Any, key: Any, problem: Any, addresses: Any) -> Any:
        found.add(with_batch(problem))
        return lambda *_: None

    kept = cudnn_plans.Plans.add, cudnn_plans.Plans.get
    cudnn_plans.Plans.add, cudnn_plans.Plans.get = add, lambda self, key: None  # type: ignore[method-assign]
    try:
        model = make().to(device="cuda", dtype=dtype)
        x = ag.zeros(1, *image, device="cuda", dtype=dtype)
        if channels_last:
            x = x.to(memory_format=ag.channels_last)
        model(x).sum().backward()
    finally:
        cudnn_plans.Plans.add, cudnn_plans.Plans.get = kept  # type: ignore[method-assign]
    return found


def trace(target: Path) -> None:
    """Write the problems of all networks and types."""
    from support.emulated_gpu import emulated_gpu

    import allgrad as ag

    found: set[Any] = set()
    with emulated_gpu():
        for make, image in networks().values():
            for dtype in (ag.float32, ag.float16, ag.bfloat16):
                found |= traced(make, image, dtype)
    rows = [{"kind": type(p).__name__, **dataclasses.asdict(p)} for p in sorted(found, key=repr)]
    target.write_text(json.dumps(rows))
    sys.stdout.write(f"{len(rows)} problems\n")


# -- plan ----------------------------------------------------------------------------------------
def _problem(row: dict[str, Any]) -> Any:
    kind = _KINDS[row.pop("kind")]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})


def _compiled(problem: Any) -> bool:
    """Whether a plan is compiled: not for all batch norms, of which each takes a second."""
    norm = isinstance(problem, BatchNormForward | BatchNormBackward)
    return not norm or problem.x[1:] == (16, 32, 32)


def _asked(module: Any, problem: Any, device: str, prop: Any) -> dict[str, Any]:
    """Whether cuDNN can do it, with how many plans and how much workspace."""
    sm = int(device.removeprefix("sm_")) * 10
    answer: dict[str, Any] = {}
    cases = {"default": (True, False)}
    if isinstance(problem, ConvInput | ConvWeight):  # others add nothing up by atomics
        cases["deterministic"] = (True, True)
    if problem.io == "f4":
        cases["exact"] = (False, False)
    for case, (cores, deterministic) in cases.items():
        try:
            graph = cudnn_graphs.enter(module, problem, device_property=prop, sm_version=sm)
            cudnn_graphs.find_plans(module, graph, cores, deterministic)
            answer[case] = {"plans": graph.get_execution_plan_count()}
            if _compiled(problem):
                graph.build_plans(module.build_plan_policy.HEURISTICS_CHOICE)
                answer[case]["workspace"] = graph.get_workspace_size()
        except Exception as error:  # noqa: BLE001 - whatever cuDNN says is the answer
            answer[case] = {"refused": cudnn_graphs.brief(error)}
    return answer


def plan(source: Path, target: Path) -> None:
    """Ask the real cuDNN for every problem and probe, and write its answers."""
    module = cudnn_graphs.library()
    props = {k: module.create_device_properties(json.dumps(v)) for k, v in DEVICES.items()}
    problems = [_problem(row) for row in json.loads(source.read_text())] + probes()
    rows = {}
    for number, problem in enumerate(problems, 1):
        rows[repr(problem)] = {d: _asked(module, problem, d, p) for d, p in props.items()}
        sys.stderr.write(f"{number}/{len(problems)} {problem}\n")
    about = {
        "cudnn": module.backend_version(),
        "frontend": module.__version__,
        "devices": {k: v["deviceName"] for k, v in DEVICES.items()},
        "batch": BATCH,
    }
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(rows.items()))
    target.write_text(f'{{"about": {json.dumps(about)},\n"problems": {{\n{text}\n}}}}\n')


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    command, *paths = sys.argv[1:]
    {"trace": trace, "plan": plan}[command](*map(Path, paths))
