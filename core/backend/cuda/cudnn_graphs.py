"""cuDNN's graphs that this backend makes, each named by the problem that it solves.

A problem holds shapes and options alone, so it is the key of a plan, in memory and on disk, and can
be planned where there is no GPU. Imports: cudnn-frontend when it is first asked for; never CuPy.

Tensors are channels-last in memory: activations (N, *S, C), weights (O, *K, C). Two spatial
dimensions at least: one becomes (1, L). cuDNN wants addresses at multiples of 16 bytes.

Source: cudnn-frontend's documentation of pygraph.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from ...errors import Unsupported
from ..layout import channels_last_strides
from ..protocol import Dims
from .availability import INSTALL

FRONTEND = "1.23"  # its fast way of execution has no public name, so the version is pinned
_OLDEST = 90_800
ALIGNMENT = 16  # bytes

_loaded: list[ModuleType] = []


def why_not() -> str | None:
    """The reason why cuDNN cannot be used, one sentence; None if it can."""
    try:
        library()
    except Unsupported as refusal:
        return str(refusal)
    return None


def library() -> Any:
    """The module `cudnn` of cudnn-frontend.

    Raises:
        Unsupported: it is not installed, or of another version, or finds no libcudnn.
    """
    if not _loaded:
        _loaded.append(_import())
    return _loaded[0]


def forget() -> None:
    """Import it anew at the next question (another one was installed in this process)."""
    _loaded.clear()


def _import() -> ModuleType:
    _preload("cublasLt", "nvrtc")
    try:
        module: Any = importlib.import_module("cudnn")
    except ImportError as error:
        if getattr(error, "name", None) == "cudnn":
            raise Unsupported(f"cudnn-frontend is not installed; {INSTALL}") from None
        raise Unsupported(f"cudnn-frontend cannot be imported ({error}); {INSTALL}") from error
    found = getattr(module, "__version__", "of unknown version")
    if found.rsplit(".", 1)[0] != FRONTEND:
        raise Unsupported(
            f"cudnn-frontend {found} is installed, {FRONTEND} is needed; "
            f"pip install 'nvidia-cudnn-frontend=={FRONTEND}.*'"
        )
    try:
        version = int(module.backend_version())
    except Exception as error:
        raise Unsupported(f"libcudnn.so.9 cannot be loaded ({error}); {INSTALL}") from error
    if version < _OLDEST:
        raise Unsupported(
            f"cuDNN {version // 10_000}.{version // 100 % 100} is installed, 9.8 or later is "
            "needed; pip install -U nvidia-cudnn-cu13 (CUDA 13) or nvidia-cudnn-cu12 (CUDA 12)"
        )
    return module


def _preload(*names: str) -> None:
    """Load libraries that cuDNN looks for by name alone, from where pip put them."""
    try:
        pathfinder: Any = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return  # a CuPy without it: the loader's own path
    for name in names:
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except Exception:  # noqa: BLE001 - plans that need it will be refused by cuDNN
            continue


def spatial(dims: Dims, missing: int) -> Dims:
    """Sizes of at least two spatial dimensions; `missing` stands for the one that is not there.

    >>> spatial((5,), 1)
    (1, 5)
    """
    return (missing, *dims) if len(dims) == 1 else dims


class Builder:
    """A graph in the making.

    Args:
        module: cudnn-frontend.
        io: type of the tensors: "f4", "f2" or "b2".
        where: a handle, or the properties of a device that need not be here.
    """

    def __init__(self, module: Any, io: str, where: dict[str, Any]) -> None:
        types = module.data_type
        self.types = {"f4": types.FLOAT, "f2": types.HALF, "b2": types.BFLOAT16}
        self.io, self.module = io, module
        self.graph = module.pygraph(
            io_data_type=self.types[io],
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            **where,
        )

    def tensor(self, uid: int, shape: Dims, dtype: str | None = None) -> Any:
        """An input; addresses are given in the order of `uid`."""
        return self.graph.tensor(
            dim=list(shape),
            stride=list(channels_last_strides(shape)),
            data_type=self.types[dtype or self.io],
            uid=uid,
        )

    def vector(self, uid: int, channels: int, ndim: int, dtype: str = "f4") -> Any:
        """An input with one value per channel."""
        return self.tensor(uid, (1, channels, *(1,) * (ndim - 2)), dtype)

    def scalar(self, value: float) -> Any:
        """A number that is part of the graph."""
        kind = self.module.scalar_type.RUNTIME_PARAM
        tensor = self.graph.tensor_scalar(float(value), kind)
        return tensor.set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1])

    def output(self, tensor: Any, uid: int, shape: Dims, dtype: str | None = None) -> None:
        """Make it an output."""
        tensor.set_uid(uid).set_output(True).set_data_type(self.types[dtype or self.io])
        tensor.set_dim(list(shape)).set_stride(list(channels_last_strides(shape)))


class Problem(Protocol):
    """What a graph computes.

    Attributes:
        io: type of the tensors: "f4", "f2" or "b2"; sums are float32's.
    """

    @property
    def io(self) -> str: ...

    def build(self, b: Builder) -> None:
        """Enter the nodes; addresses come in the order of the tensors' numbers."""


@dataclass(frozen=True, slots=True)
class ConvForward:
    """x, weight[, bias] -> y. Shapes (N, C, *S), (O, C/groups, *K), (O), (N, O, *S')."""

    io: str
    x: Dims
    weight: Dims
    y: Dims
    stride: Dims
    padding: Dims
    dilation: Dims
    bias: bool
    relu: bool

    def build(self, b: Builder) -> None:
        y = b.graph.conv_fprop(
            image=b.tensor(1, self.x),
            weight=b.tensor(2, self.weight),
            padding=list(self.padding),
            stride=list(self.stride),
            dilation=list(self.dilation),
        )
        if self.bias:
            vector = b.vector(3, self.weight[0], len(self.x), self.io)
            y = b.graph.bias(input=y, bias=vector)
        if self.relu:
            y = b.graph.relu(input=y)
        b.output(y, 4, self.y)


@dataclass(frozen=True, slots=True)
class ConvInput:
    """grad_y, weight -> grad_x; shapes as of `ConvForward`."""

    io: str
    x: Dims
    weight: Dims
    y: Dims
    stride: Dims
    padding: Dims
    dilation: Dims

    def build(self, b: Builder) -> None:
        grad_x = b.graph.conv_dgrad(
            loss=b.tensor(1, self.y),
            filter=b.tensor(2, self.weight),
            padding=list(self.padding),
            stride=list(self.stride),
            dilation=list(self.dilation),
        )
        b.output(grad_x, 3, self.x)


@dataclass(frozen=True, slots=True)
class ConvWeight:
    """grad_y, x -> grad_weight; shapes as of `ConvForward`."""

    io: str
    x: Dims
    weight: Dims
    y: Dims
    stride: Dims
    padding: Dims
    dilation: Dims

    def build(self, b: Builder) -> None:
        grad = b.graph.conv_wgrad(
            image=b.tensor(2, self.x),
            loss=b.tensor(1, self.y),
            padding=list(self.padding),
            stride=list(self.stride),
            dilation=list(self.dilation),
        )
        b.output(grad, 3, self.weight)


@dataclass(frozen=True, slots=True)
class BatchNormForward:
    """x, scale, shift -> y, mean, 1/std; x (N, C, H, W), vectors of float32."""

    io: str
    x: Dims
    eps: float
    relu: bool

    def build(self, b: Builder) -> None:
        channels, ndim = self.x[1], len(self.x)
        y, mean, rstd, _, _ = b.graph.batchnorm(
            input=b.tensor(1, self.x),
            scale=b.vector(2, channels, ndim),
            bias=b.vector(3, channels, ndim),
            in_running_mean=None,
            in_running_var=None,
            epsilon=b.scalar(self.eps),
            momentum=None,
        )
        if self.relu:
            y = b.graph.relu(input=y)
        b.output(y, 4, self.x)
        for uid, vector in ((5, mean), (6, rstd)):
            b.output(vector, uid, (1, channels, *(1,) * (ndim - 2)), "f4")


@dataclass(frozen=True, slots=True)
class BatchNormBackward:
    """grad_y, x, scale, mean, 1/std[, shift] -> grad_x, grad_scale, grad_shift.

    With `relu`, where it let values pass is found by normalising again: that costs arithmetic, but
    no memory and no reading of y. It is the form that cuDNN has kernels for.
    """

    io: str
    x: Dims
    relu: bool

    def build(self, b: Builder) -> None:
        channels, ndim = self.x[1], len(self.x)
        grad, x = b.tensor(1, self.x), b.tensor(2, self.x)
        scale, mean, rstd = (b.vector(uid, channels, ndim) for uid in (3, 4, 5))
        if self.relu:
            y = b.graph.batchnorm_inference(
                input=x, mean=mean, inv_variance=rstd, scale=scale, bias=b.vector(6, channels, ndim)
            )
            grad = b.graph.relu_backward(loss=grad, input=y)
            grad.set_data_type(b.types[self.io])  # cuDNN refuses float32 here
        grad_x, grad_scale, grad_shift = b.graph.batchnorm_backward(
            grad=grad, input=x, scale=scale, mean=mean, inv_variance=rstd
        )
        b.output(grad_x, 7, self.x)
        for uid, vector in ((8, grad_scale), (9, grad_shift)):
            b.output(vector, uid, (1, channels, *(1,) * (ndim - 2)), "f4")


def enter(module: Any, problem: Problem, **where: Any) -> Any:
    """The graph of a problem, checked, without plans.

    Args:
        module: cudnn-frontend.
        where: `handle`; or `device_property` and `sm_version` of a GPU that need not be here.
    """
    builder = Builder(module, problem.io, where)
    problem.build(builder)
    builder.graph.validate()
    builder.graph.build_operation_graph()
    return builder.graph


def find_plans(module: Any, graph: Any, tensor_cores: bool, deterministic: bool) -> None:
    """Ask cuDNN for plans, the most promising first.

    Args:
        tensor_cores: False leaves out those that round float32 to TF32.
        deterministic: leaves out those whose bits differ from run to run.

    Raises:
        Unsupported: there is none; the message is cuDNN's.
    """
    modes, notes = module.heur_mode, module.numerical_note
    unwanted = [] if tensor_cores else [notes.TENSOR_CORE]
    if deterministic:
        unwanted.append(notes.NONDETERMINISTIC)
    try:
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        if unwanted:
            graph.deselect_numeric_notes(unwanted)
        graph.check_support()
    except (module.cudnnGraphNotSupportedError, RuntimeError) as error:
        raise Unsupported(f"cuDNN has no kernel: {brief(error)}") from error


def brief(error: BaseException) -> str:
    """The first line of cuDNN's message, which may be long."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return first.rstrip(" _")[:160]
