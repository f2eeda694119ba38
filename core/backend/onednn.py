"""Binding to the C interface of oneDNN v3 (libdnnl.so.3) by ctypes: library, engine, descriptors.

Stage: below `cpu.py`; holds no policy. Imports numpy-free standard library and `errors` only.
Source of every name, number and signature: oneDNN's `dnnl.h` and `dnnl_types.h`, v3.

Note [Status codes]: every oneDNN call returns a status, and a wrong argument id executes nothing
and looks infinitely fast. So every foreign function here is bound with an `errcheck` that raises,
except the two on the hot path (`set_data_handle`, `execute`), whose callers check the status.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

from ..errors import Unsupported

MAX_NDIMS = 12
F32 = 3
BF16 = 2
TAG_ANY = 1
ENGINE_CPU = 1
STREAM_IN_ORDER = 1
SCRATCHPAD_USER = 1

STATUS = {
    1: "out of memory",
    2: "invalid arguments",
    3: "unimplemented",
    4: "last implementation reached",
    5: "runtime error",
    6: "not required",
    7: "invalid graph",
    8: "invalid graph op",
    9: "invalid shape",
    10: "invalid data type",
}
UNIMPLEMENTED = 3

# Runtimes whose execution is synchronous and needs no foreign thread pool or SYCL queue.
_USABLE_RUNTIMES = {1: "sequential", 2: "OpenMP", 4: "TBB"}


class _Version(ctypes.Structure):
    _fields_ = (
        ("major", c_int),
        ("minor", c_int),
        ("patch", c_int),
        ("hash", c_char_p),
        ("cpu_runtime", c_uint),
        ("gpu_runtime", c_uint),
    )


class ExecArg(ctypes.Structure):
    """`dnnl_exec_arg_t`: an argument id and the memory object bound to it."""

    _fields_ = (("arg", c_int), ("memory", c_void_p))


Dims = c_int64 * MAX_NDIMS
_handle_out = POINTER(c_void_p)
_dims = POINTER(c_int64)
_pd_head = (_handle_out, c_void_p)
_conv_tail = (_dims, _dims, _dims, _dims)

# name -> argument types; each returns dnnl_status_t.
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "engine_create": (_handle_out, c_int, c_size_t),
    "engine_destroy": (c_void_p,),
    "stream_create": (_handle_out, c_void_p, c_uint),
    "stream_destroy": (c_void_p,),
    "memory_desc_create_with_strides": (_handle_out, c_int, _dims, c_int, _dims),
    "memory_desc_create_with_tag": (_handle_out, c_int, _dims, c_int, c_int),
    "memory_desc_destroy": (c_void_p,),
    "memory_create": (_handle_out, c_void_p, c_void_p, c_void_p),
    "memory_destroy": (c_void_p,),
    "primitive_create": (_handle_out, c_void_p),
    "primitive_destroy": (c_void_p,),
    "primitive_desc_destroy": (c_void_p,),
    "primitive_desc_query": (c_void_p, c_int, c_int, c_void_p),
    "primitive_attr_create": (_handle_out,),
    "primitive_attr_destroy": (c_void_p,),
    "primitive_attr_set_scratchpad_mode": (c_void_p, c_int),
    "primitive_attr_set_post_ops": (c_void_p, c_void_p),
    "primitive_attr_set_scales_mask": (c_void_p, c_int, c_int),
    "post_ops_create": (_handle_out,),
    "post_ops_destroy": (c_void_p,),
    "post_ops_append_eltwise": (c_void_p, c_int, c_float, c_float),
    "post_ops_append_binary": (c_void_p, c_int, c_void_p),
    "post_ops_append_sum": (c_void_p, c_float, ctypes.c_int32, c_int),
    "reorder_primitive_desc_create": (_handle_out, *[c_void_p] * 5),
    "convolution_forward_primitive_desc_create": (
        *_pd_head, c_int, c_int, *[c_void_p] * 4, *_conv_tail, c_void_p,
    ),
    "convolution_backward_data_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 3, *_conv_tail, c_void_p, c_void_p,
    ),
    "convolution_backward_weights_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 4, *_conv_tail, c_void_p, c_void_p,
    ),
    "sgemm": (
        c_char, c_char, c_int64, c_int64, c_int64, c_float, c_void_p, c_int64, c_void_p, c_int64,
        c_float, c_void_p, c_int64,
    ),
    "matmul_primitive_desc_create": (*_pd_head, *[c_void_p] * 5),
    "pooling_forward_primitive_desc_create": (
        *_pd_head, c_int, c_int, c_void_p, c_void_p, *[_dims] * 5, c_void_p,
    ),
    "pooling_backward_primitive_desc_create": (
        *_pd_head, c_int, c_void_p, c_void_p, *[_dims] * 5, c_void_p, c_void_p,
    ),
    "batch_normalization_forward_primitive_desc_create": (
        *_pd_head, c_int, c_void_p, c_void_p, c_float, c_uint, c_void_p,
    ),
    "batch_normalization_backward_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 3, c_float, c_uint, c_void_p, c_void_p,
    ),
    "layer_normalization_forward_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 3, c_float, c_uint, c_void_p,
    ),
    "layer_normalization_backward_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 4, c_float, c_uint, c_void_p, c_void_p,
    ),
    "eltwise_forward_primitive_desc_create": (
        *_pd_head, c_int, c_int, c_void_p, c_void_p, c_float, c_float, c_void_p,
    ),
    "eltwise_backward_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 3, c_float, c_float, c_void_p, c_void_p,
    ),
    "binary_primitive_desc_create": (*_pd_head, c_int, *[c_void_p] * 4),
    "softmax_forward_primitive_desc_create": (
        *_pd_head, c_int, c_int, c_void_p, c_void_p, c_int, c_void_p,
    ),
    "softmax_backward_primitive_desc_create": (
        *_pd_head, c_int, *[c_void_p] * 3, c_int, c_void_p, c_void_p,
    ),
}  # fmt: skip


def status_error(status: int, call: str) -> Exception:
    """The error for a non-zero status: Unsupported if oneDNN lacks it, RuntimeError otherwise."""
    text = f"oneDNN: {call} failed: {STATUS.get(status, f'status {status}')}"
    return Unsupported(text) if status == UNIMPLEMENTED else RuntimeError(text)


def _raise_on_error(status: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if status:
        raise status_error(status, function.__name__)
    return status


class Library:
    """The loaded libdnnl.so.3 with prototypes; immutable after construction.

    Attributes:
        path: file that was loaded.
        version: (major, minor, patch).
        runtime: name of the CPU threading runtime, for example "OpenMP".
        bfloat16: whether the CPU multiplies bfloat16; without that, oneDNN emulates it.
    """

    def __init__(self, path: str) -> None:
        self._dll = ctypes.CDLL(path)
        self.path = path
        self._dll.dnnl_version.restype = POINTER(_Version)
        version = self._dll.dnnl_version().contents
        self.version: tuple[int, int, int] = (version.major, version.minor, version.patch)
        if version.major != 3:
            raise Unsupported(f"{path} is oneDNN {self.version}, expected version 3")
        if version.cpu_runtime not in _USABLE_RUNTIMES:
            raise Unsupported(f"{path}: CPU runtime {version.cpu_runtime:#x} is not synchronous")
        self.runtime = _USABLE_RUNTIMES[version.cpu_runtime]
        for name, argtypes in _PROTOTYPES.items():
            function = getattr(self._dll, f"dnnl_{name}")
            function.argtypes, function.restype = argtypes, c_int
            function.errcheck = _raise_on_error
            setattr(self, name, function)
        self._dll.dnnl_memory_desc_get_size.argtypes = (c_void_p,)
        self._dll.dnnl_memory_desc_get_size.restype = c_size_t
        self._dll.dnnl_memory_desc_equal.argtypes = (c_void_p, c_void_p)
        self._dll.dnnl_primitive_desc_query_md.argtypes = (c_void_p, c_int, c_int)
        self._dll.dnnl_primitive_desc_query_md.restype = c_void_p
        # Bits of `dnnl_cpu_isa_t`; 0x80 is AVX-512's instructions for bfloat16.
        self.bfloat16 = bool(self._dll.dnnl_get_effective_cpu_isa() & 0x80)
        self.memory_desc_get_size = self._dll.dnnl_memory_desc_get_size
        self.memory_desc_equal = self._dll.dnnl_memory_desc_equal
        self.primitive_desc_query_md = self._dll.dnnl_primitive_desc_query_md
        self.next_implementation = self._dll.dnnl_primitive_desc_next_impl
        self.next_implementation.argtypes = (c_void_p,)
        self._bind_hot_path()
        self._bind_threading()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"oneDNN function {name!r} has no prototype in onednn.py")

    def _bind_hot_path(self) -> None:
        # Setting a pointer takes nanoseconds: keep the GIL for it (PyDLL), release it to compute.
        self.set_data_handle = ctypes.PyDLL(self.path).dnnl_memory_set_data_handle
        self.set_data_handle.argtypes, self.set_data_handle.restype = (c_void_p, c_void_p), c_int
        self.execute = self._dll.dnnl_primitive_execute
        self.execute.argtypes = (c_void_p, c_void_p, c_int, c_void_p)
        self.execute.restype = c_int

    def _bind_threading(self) -> None:
        # dlsym on a library also sees its dependencies: this is the OpenMP runtime it uses.
        openmp = self.runtime == "OpenMP"
        self.omp_get_max_threads = self._dll.omp_get_max_threads if openmp else lambda: 1
        self.omp_set_num_threads = self._dll.omp_set_num_threads if openmp else None


def _candidates() -> Iterator[str]:
    given = os.environ.get("ALLGRAD_ONEDNN")
    if given:
        yield given
        return
    yield str(Path(sys.prefix) / "lib" / "libdnnl.so.3")
    yield from _installed_files()
    yield "libdnnl.so.3"


def _installed_files() -> Iterator[str]:
    """Where pip put the wheel's library if not in sys.prefix (`--target`, `--user`)."""
    from importlib import metadata  # slow to import, and rarely needed

    for name in ("onednn-cpu-gomp", "onednn"):
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        yield from (str(Path(f.locate()).resolve()) for f in files if f.name == "libdnnl.so.3")


@functools.cache
def load() -> Library:
    """Load oneDNN once per process.

    Returns:
        The bound library.

    Raises:
        Unsupported: none of the places (environment variable ALLGRAD_ONEDNN, else sys.prefix/lib,
            installed wheels, the system) holds a usable libdnnl.so.3; lists what was tried.
    """
    tried: dict[str, str] = {}
    for path in _candidates():
        if path in tried or (os.sep in path and not os.path.exists(path)):
            tried.setdefault(path, "no such file")
            continue
        try:
            return Library(path)
        except (OSError, AttributeError, Unsupported) as error:
            tried[path] = str(error)
    found = "; ".join(f"{path}: {why}" for path, why in tried.items())
    raise Unsupported(
        f"oneDNN v3 not found ({found}). Install it with `pip install onednn-cpu-gomp==2023.2.0` "
        "or set ALLGRAD_ONEDNN to a libdnnl.so.3"
    )


def set_num_threads(count: int) -> None:
    """Set how many OpenMP threads oneDNN uses for work started by the calling thread.

    Raises:
        ValueError: count < 1.
        Unsupported: oneDNN is not available, or was built for another threading runtime.
    """
    if count < 1:
        raise ValueError(f"set_num_threads: expected a count >= 1, got {count}")
    library = load()
    if library.omp_set_num_threads is None:
        raise Unsupported(f"{library.path} uses the {library.runtime} runtime, expected OpenMP")
    library.omp_set_num_threads(c_int(count))


def get_num_threads() -> int:
    """How many OpenMP threads oneDNN uses for work started by the calling thread."""
    return int(load().omp_get_max_threads())


def dims(values: Sequence[int]) -> Any:
    """A dnnl_dims_t array of `values`."""
    return Dims(*values)


class Engine:
    """A CPU engine and an in-order stream, owned by one thread."""

    def __init__(self, library: Library | None = None) -> None:
        self.library = library or load()
        self.engine = self.stream = None  # so that close() works after a failed construction
        self.engine = self.new("engine_create", ENGINE_CPU, 0)
        self.stream = self.new("stream_create", self.engine, STREAM_IN_ORDER)
        self.threads = self.library.omp_get_max_threads

    def new(self, function: str, *arguments: Any) -> int:
        """Call a constructor whose first parameter receives the new handle."""
        handle = c_void_p()
        getattr(self.library, function)(ctypes.byref(handle), *arguments)
        if handle.value is None:
            raise RuntimeError(f"oneDNN: {function} returned no handle")
        return handle.value

    def close(self) -> None:
        """Free stream and engine; plans made from it must be closed first."""
        if self.stream is not None:
            self.library.stream_destroy(self.stream)
        if self.engine is not None:
            self.library.engine_destroy(self.engine)
        self.stream = self.engine = None
