"""What the stand-in for cuDNN can compute, by which plans, and how."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from support.emulated_gpu import cudnn_math as math
from support.emulated_gpu.numbers import BFLOAT16, read, tf32, write

data_type = enum.Enum("data_type", "NOT_SET FLOAT HALF BFLOAT16")
heur_mode = enum.Enum("heur_mode", "A B FALLBACK")
numerical_note = enum.Enum("numerical_note", "TENSOR_CORE NONDETERMINISTIC WINOGRAD FFT")
build_plan_policy = enum.Enum("build_plan_policy", "HEURISTICS_CHOICE ALL")
scalar_type = enum.Enum("scalar_type", "RUNTIME_PARAM COMPILE_TIME_CONST")

DTYPES = {
    data_type.FLOAT: np.dtype(np.float32),
    data_type.HALF: np.dtype(np.float16),
    data_type.BFLOAT16: BFLOAT16,
}


class Plan(NamedTuple):
    """One way to compute a graph."""

    name: str
    notes: frozenset[Any]
    workspace: int


class Window(NamedTuple):
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


class Node(NamedTuple):
    kind: str
    inputs: dict[str, Any]
    outputs: list[Any]
    window: Window | None = None


def infer(node: Node, between: Any) -> None:
    """Give the first output of a node its shape and type where nobody did."""
    out = node.outputs[0]
    if node.kind in ("conv_dgrad", "conv_wgrad"):
        if out.dim is None:
            raise RuntimeError(f"cudnn: {node.kind} needs the output's dim")
    elif node.kind == "conv_fprop":
        x, w = node.inputs["image"], node.inputs["weight"]
        sizes = math.output_sizes(x.dim[2:], w.dim[2:], node.window)
        expected = (x.dim[0], w.dim[0], *sizes)
        if out.dim is not None and out.dim != expected:
            raise RuntimeError(f"cudnn: conv_fprop gives {expected}, not {out.dim}")
        out.dim = expected
    elif out.dim is None:
        source = node.inputs.get("input", node.inputs.get("loss"))
        out.dim = source.dim
    for t in node.outputs:
        if t.dtype is None:
            t.dtype = between


def refusal(nodes: Sequence[Node]) -> str:
    """Why no engine supports the nodes, or an empty string."""
    kinds = [n.kind for n in nodes]
    io_of = lambda t: t.dtype  # noqa: E731 - one word for what is compared
    for node in nodes:
        x = node.inputs.get("input")
        if node.kind in ("batchnorm", "batchnorm_backward"):
            if io_of(x) is not data_type.FLOAT and x.dim[1] % 8:
                return "16-bit batch norm whose channels are not a multiple of 8"
            if x.dim[1:] and x.stride[1] != 1 and x.dim[1] > 1:
                return "batch norm that is not channels-last"
        if node.kind == "conv_wgrad" and io_of(node.outputs[0]) is not io_of(node.inputs["image"]):
            return "a gradient of weights in another type"
        if node.kind == "batchnorm_inference" and "batchnorm_backward" not in kinds:
            return "batch norm inference alone"
        if node.kind == "relu_backward":
            source = node.inputs["input"].node
            if source is None or source.kind != "batchnorm_inference":
                return "a ReLU's gradient from a stored activation"
            if io_of(node.outputs[0]) is not io_of(node.inputs["loss"]):
                return "a float32 gradient between ReLU and batch norm"
    return ""


def plans(nodes: Sequence[Node]) -> list[Plan]:
    core = numerical_note.TENSOR_CORE
    if any(n.kind.startswith("conv") for n in nodes):
        found = [
            Plan("eng0_tensor_core", frozenset([core]), 131),
            Plan("eng1_large", frozenset([core]), 70_000),
            Plan("eng2_plain", frozenset(), 2048),
        ]
        if any(n.kind == "conv_wgrad" for n in nodes):
            atomic = frozenset([numerical_note.NONDETERMINISTIC])
            found.insert(0, Plan("eng3_atomic", atomic, 0))
        return found
    return [Plan("eng0_norm", frozenset(), 66_100), Plan("eng1_norm", frozenset(), 0)]


def evaluate(nodes: Sequence[Node], pointers: dict[int, int], plan: Plan, io: Any) -> None:
    values: dict[int, Any] = {}
    rounded = numerical_note.TENSOR_CORE in plan.notes and io is data_type.FLOAT

    def get(t: Any) -> Any:
        if t.value is not None:
            return t.value
        if id(t) not in values:
            values[id(t)] = read(pointers[t.uid], t.dim, DTYPES[t.dtype], t.stride)
        return values[id(t)]

    for node in nodes:
        given = {name: get(t) for name, t in node.inputs.items()}
        if rounded and node.window is not None:
            given = {name: tf32(v) for name, v in given.items()}
        results = _computed(node, given)
        for t, value in zip(node.outputs, results, strict=False):
            if t.virtual:
                value = value.astype(DTYPES[t.dtype]).astype(np.float32)
            else:
                write(pointers[t.uid], value, DTYPES[t.dtype], t.stride)
            values[id(t)] = value


def _computed(node: Node, v: dict[str, Any]) -> Sequence[Any]:
    if node.kind == "conv_fprop":
        return [math.conv_fprop(v["image"], v["weight"], node.window)]
    if node.kind == "conv_dgrad":
        return [math.conv_dgrad(v["loss"], v["filter"], node.window, node.outputs[0].dim)]
    if node.kind == "conv_wgrad":
        return [math.conv_wgrad(v["image"], v["loss"], node.window, node.outputs[0].dim)]
    if node.kind == "bias":
        return [v["input"] + v["bias"]]
    if node.kind == "relu":
        return [np.maximum(v["input"], 0)]
    if node.kind == "relu_backward":
        return [np.where(v["input"] > 0, v["loss"], 0)]
    if node.kind == "batchnorm":
        return math.batchnorm(v["input"], v["scale"], v["bias"], v["epsilon"])
    if node.kind == "batchnorm_backward":
        return math.batchnorm_backward(
            v["grad"], v["input"], v["scale"], v["mean"], v["inv_variance"]
        )
    return [
        math.batchnorm_inference(v["input"], v["mean"], v["inv_variance"], v["scale"], v["bias"])
    ]
