"""The stand-in for the module `cudnn` (cudnn-frontend 1.23): graphs that NumPy computes.

It is asked in the same order as the real one, and refuses what the real one refuses on an H200:
16-bit batch norm of channels that are not a multiple of 8, gradients of weights in another type
than the tensors', a ReLU's gradient before batch norm's in other than the form that normalises
again, inference of batch norm alone. What it computes is rounded to TF32 where the chosen plan uses
tensor cores on float32; it dirties its workspace, and wants addresses at multiples of 16.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
from types import ModuleType
from typing import Any

import numpy as np
from support.emulated_gpu import cudnn_engines as engines
from support.emulated_gpu import device, state, streams
from support.emulated_gpu.cudnn_engines import (
    DTYPES,
    Node,
    Plan,
    Window,
    build_plan_policy,
    data_type,
    heur_mode,
    numerical_note,
    scalar_type,
)
from support.emulated_gpu.numbers import at, extent_bytes

_numbers = itertools.count(0xCD00_0000, 0x100)
handles: dict[int, dict[str, int]] = {}
executed: list[tuple[str, str]] = []  # (nodes, plan) of everything that ran


class cudnnGraphNotSupportedError(Exception):  # noqa: N801 - the real one's name
    """No engine supports the graph."""


def create_handle() -> int:
    device.no_capture("cudnnCreate")
    number = next(_numbers)
    handles[number] = {"stream": 0, "device": state.thread.device}
    return number


def destroy_handle(handle: int) -> None:
    device.no_capture("cudnnDestroy")
    del handles[handle]


def set_stream(handle: int, stream: int) -> None:
    handles[handle]["stream"] = stream


def get_stream(handle: int) -> int:
    return handles[handle]["stream"]


class tensor:  # noqa: N801 - the real one's name
    """A tensor of a graph; setters return it."""

    def __init__(self, dim: Any = None, stride: Any = None, dtype: Any = None, uid: int = -1):
        self.dim, self.stride, self.dtype, self.uid = dim, stride, dtype, uid
        self.virtual, self.value, self.node = True, None, None

    def set_uid(self, uid: int) -> tensor:
        self.uid = uid
        return self

    def set_output(self, output: bool) -> tensor:
        self.virtual = not output
        return self

    def set_data_type(self, dtype: Any) -> tensor:
        assert dtype in DTYPES
        self.dtype = dtype
        return self

    def set_dim(self, dim: list[int]) -> tensor:
        assert type(dim) is list
        self.dim = tuple(dim)
        return self

    def set_stride(self, stride: list[int]) -> tensor:
        assert type(stride) is list
        self.stride = tuple(stride)
        return self

    def get_uid(self) -> int:
        return self.uid


class pygraph:  # noqa: N801 - the real one's name
    """A graph."""

    def __init__(
        self,
        name: str = "test_graph",
        io_data_type: Any = data_type.NOT_SET,
        intermediate_data_type: Any = data_type.NOT_SET,
        compute_data_type: Any = data_type.NOT_SET,
        handle: int | None = None,
        sm_version: int | None = None,
        device_property: Any = None,
    ) -> None:
        self._io, self._between, self._compute = (
            io_data_type, intermediate_data_type, compute_data_type,
        )  # fmt: skip
        self._handle, self._nodes, self._tensors = handle, [], []
        self._stage = "new"
        self._plans: list[Plan] = []
        self._built: set[int] = set()
        self._candidate: int | None = None

    # -- tensors and nodes -------------------------------------------------------------------
    def tensor(
        self, dim: list[int], stride: list[int], data_type: Any = data_type.NOT_SET, uid: int = -1
    ) -> tensor:
        assert type(dim) is list
        assert type(stride) is list
        made = tensor(tuple(dim), tuple(stride), data_type, uid)
        made.virtual = False
        self._tensors.append(made)
        return made

    def tensor_scalar(self, value: float, scalar_type: Any) -> tensor:
        made = tensor(dtype=data_type.FLOAT)
        made.value, made.virtual = np.float32(value), False
        return made

    def _node(self, kind: str, outputs: int, window: Any = None, **inputs: Any) -> Any:
        made = [tensor() for _ in range(outputs)]
        node = Node(kind, inputs, made, window)
        for out in made:
            out.node = node
        self._nodes.append(node)
        return made[0] if outputs == 1 else made

    def _conv(self, kind: str, window: dict[str, list[int]], **inputs: Any) -> Any:
        return self._node(
            kind,
            1,
            Window(*(tuple(window[k]) for k in ("padding", "stride", "dilation"))),
            **inputs,
        )

    def conv_fprop(self, *, image: Any, weight: Any, **window: Any) -> tensor:
        return self._conv("conv_fprop", window, image=image, weight=weight)

    def conv_dgrad(self, *, loss: Any, filter: Any, **window: Any) -> tensor:
        return self._conv("conv_dgrad", window, loss=loss, filter=filter)

    def conv_wgrad(self, *, image: Any, loss: Any, **window: Any) -> tensor:
        return self._conv("conv_wgrad", window, image=image, loss=loss)

    def bias(self, *, input: Any, bias: Any) -> tensor:
        return self._node("bias", 1, input=input, bias=bias)

    def relu(self, *, input: Any) -> tensor:
        return self._node("relu", 1, input=input)

    def relu_backward(self, *, loss: Any, input: Any) -> tensor:
        return self._node("relu_backward", 1, loss=loss, input=input)

    def batchnorm(
        self, *, input: Any, scale: Any, bias: Any, in_running_mean: Any, in_running_var: Any,
        epsilon: Any, momentum: Any,
    ) -> list[tensor]:  # fmt: skip
        assert in_running_mean is in_running_var is momentum is None
        return self._node("batchnorm", 5, input=input, scale=scale, bias=bias, epsilon=epsilon)

    def batchnorm_backward(
        self, *, grad: Any, input: Any, scale: Any, mean: Any, inv_variance: Any
    ) -> list[tensor]:
        return self._node(
            "batchnorm_backward", 3, grad=grad, input=input, scale=scale, mean=mean,
            inv_variance=inv_variance,
        )  # fmt: skip

    def batchnorm_inference(
        self, *, input: Any, mean: Any, inv_variance: Any, scale: Any, bias: Any
    ) -> tensor:
        return self._node(
            "batchnorm_inference", 1, input=input, mean=mean, inv_variance=inv_variance,
            scale=scale, bias=bias,
        )  # fmt: skip

    # -- life --------------------------------------------------------------------------------
    def _advance(self, before: str, after: str) -> None:
        if self._stage != before:
            raise RuntimeError(f"cudnn: the graph is {self._stage}, not {before}")
        self._stage = after

    def validate(self) -> None:
        self._advance("new", "validated")
        for node in self._nodes:
            engines.infer(node, self._between)
        for t in self._all():
            if not t.virtual and (t.dtype in (None, data_type.NOT_SET) or t.uid < 0):
                raise RuntimeError("cudnn: a tensor without type or uid")
        uids = [t.uid for t in self._all() if not t.virtual]
        if len(set(uids)) != len(uids):
            raise RuntimeError("cudnn: a uid is used twice")

    def build_operation_graph(self) -> None:
        self._advance("validated", "built")

    def key(self) -> int:
        return int.from_bytes(hashlib.sha256(self._described().encode()).digest()[:8], "little")

    def create_execution_plans(self, modes: list[Any]) -> None:
        device.no_capture("cuDNN's heuristics")
        assert modes
        self._advance("built", "planned")
        refused = engines.refusal(self._nodes)
        if refused:
            raise cudnnGraphNotSupportedError(f"No valid engine configs for {refused}\n")
        self._plans = engines.plans(self._nodes)

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        self._plans = [p for p in self._plans if not p.notes & set(notes)]

    def check_support(self) -> None:
        self._advance("planned", "supported")
        if not self._plans:
            raise cudnnGraphNotSupportedError("No execution plans support the graph.")

    def get_execution_plan_count(self) -> int:
        return len(self._plans)

    def build_plans(self, policy: Any) -> None:
        assert self._stage == "supported"
        device.no_capture("building a plan")
        self._built = set(range(len(self._plans) if policy is build_plan_policy.ALL else 1))
        self._candidate = 0

    def build_plan_at_index(self, index: int) -> None:
        device.no_capture("building a plan")
        self._plans[index]
        self._built.add(index)
        self._candidate = index

    def get_workspace_size(self) -> int:
        assert self._candidate is not None
        return self._plans[self._candidate].workspace

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self._plans[index].workspace if index in self._built else 0

    def get_plan_name_at_index(self, index: int) -> str:
        return self._plans[index].name

    def serialize(self) -> list[int]:
        assert self._candidate is not None
        names = {id(t): i for i, t in enumerate(self._everything())}
        return list(
            pickle.dumps(
                {
                    "tensors": [
                        (t.dim, t.stride, getattr(t.dtype, "name", None), t.uid, t.virtual, t.value)
                        for t in self._everything()
                    ],
                    "nodes": [
                        (
                            n.kind, {k: names[id(t)] for k, t in n.inputs.items()},
                            [names[id(t)] for t in n.outputs], n.window and tuple(n.window),
                        )
                        for n in self._nodes
                    ],
                    "io": self._io.name,
                    "plan": [
                        (p.name, [x.name for x in p.notes], p.workspace)
                        for p in [self._plans[self._candidate]]
                    ],
                }
            )
        )  # fmt: skip

    def deserialize(self, handle: int, data: bytes) -> None:
        try:
            found = pickle.loads(bytes(data))
            rows = found["tensors"]
        except Exception as error:
            raise RuntimeError(f"cudnn: cannot deserialize: {error}") from error
        tensors = []
        for dim, stride, dtype, uid, virtual, value in rows:
            made = tensor(dim, stride, dtype and data_type[dtype], uid)
            made.virtual, made.value = virtual, value
            tensors.append(made)
        for kind, inputs, outputs, window in found["nodes"]:
            self._nodes.append(
                Node(
                    kind, {k: tensors[i] for k, i in inputs.items()},
                    [tensors[i] for i in outputs], window and Window(*window),
                )
            )  # fmt: skip
        self._io, self._handle, self._stage = data_type[found["io"]], handle, "supported"
        self._plans = [
            Plan(name, frozenset(numerical_note[n] for n in notes), size)
            for name, notes, size in found["plan"]
        ]
        self._built, self._candidate = {0}, 0

    # -- execution ---------------------------------------------------------------------------
    def _get_variant_pack_uids_sorted(self) -> list[int]:
        return sorted(t.uid for t in self._all() if not t.virtual)

    def _execute_with_ptrs(self, user_ptrs: list[int], workspace: int, handle: int) -> None:
        assert type(user_ptrs) is list
        uids = self._get_variant_pack_uids_sorted()
        if len(uids) != len(user_ptrs):
            raise RuntimeError(f"cudnn: {len(user_ptrs)} pointers for tensors {uids}")
        self._run(dict(zip(uids, user_ptrs, strict=True)), workspace, self._candidate, handle)

    def _execute_plan_at_index(
        self, var_pack: dict[int, int], workspace: int, index: int, handle: int
    ) -> None:
        self._run(var_pack, workspace, index, handle)

    def _run(self, pointers: dict[int, int], workspace: int, index: Any, handle: int) -> None:
        if index not in self._built:
            raise RuntimeError("cudnn: the plan is not built")
        if handles[handle]["device"] != state.thread.device:
            raise RuntimeError("cudnn: the handle is of another device")
        plan, places = self._plans[index], {}
        for t in self._all():
            if t.virtual:
                continue
            if pointers[t.uid] % 16:
                raise RuntimeError(f"cudnn: tensor {t.uid} is not aligned to 16 bytes")
            size = extent_bytes(t.dim, t.stride, DTYPES[t.dtype].itemsize)
            places[id(t)] = (pointers[t.uid], size)
        written = {id(out) for n in self._nodes for out in n.outputs}
        reads = [p for key, p in places.items() if key not in written]
        writes = [p for key, p in places.items() if key in written]
        if plan.workspace:
            writes.append((workspace, plan.workspace))
        what = "+".join(n.kind for n in self._nodes)
        executed.append((what, plan.name))

        def action() -> None:
            engines.evaluate(self._nodes, pointers, plan, self._io)
            if plan.workspace:
                at(workspace, (plan.workspace,), np.uint8, (1,))[...] = 0xFF

        stream = streams.by_pointer(handles[handle]["stream"])
        device.launch(f"cuDNN {what}", action, reads, writes, stream)

    def _everything(self) -> list[tensor]:
        found: dict[int, tensor] = {}
        for node in self._nodes:
            for t in (*node.inputs.values(), *node.outputs):
                found[id(t)] = t
        return list(found.values())

    def _all(self) -> list[tensor]:
        """Tensors with memory of their own."""
        return [
            t
            for t in self._everything()
            if t.value is None and not (t.virtual and t.node is not None and t.dim is None)
        ]

    def _described(self) -> str:
        return repr(
            [
                (n.kind, n.window, [(t.dim, t.stride, str(t.dtype), t.value) for t in
                 (*n.inputs.values(), *n.outputs)])
                for n in self._nodes
            ]
        )  # fmt: skip


_module: list[ModuleType] = []


def module() -> ModuleType:
    """The module; the same one every time."""
    if not _module:
        made: Any = ModuleType("cudnn")
        made.__version__ = "1.23.0"
        made.backend_version = lambda: 91900
        for value in (
            data_type, heur_mode, numerical_note, build_plan_policy, scalar_type, pygraph, tensor,
            cudnnGraphNotSupportedError, create_handle, destroy_handle, set_stream, get_stream,
        ):  # fmt: skip
            setattr(made, value.__name__, value)
        _module.append(made)
    return _module[0]
