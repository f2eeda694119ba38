"""`cupy.RawModule` and `cupy.RawKernel`: kernels that really run, and launches that are checked.

The real CuPy hands arguments over as they are; here their number and types are compared with what
the kernel declares, and memory around the arrays is looked at after the launch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from support.emulated_gpu import compiler, device, memory, state
from support.emulated_gpu.array import ndarray

MAX_THREADS, MAX_GRID_YZ, STATIC_SHARED, MAX_SHARED = 1024, 65535, 48 << 10, 227 << 10


class _Index(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class _Run(ctypes.Structure):
    """`emu_run` of `csrc/run.h`."""

    _fields_ = (
        ("threads", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("grid", _Index),
        ("block", _Index),
        ("count", ctypes.c_uint),
        ("next", ctypes.c_uint),
        ("current", ctypes.c_uint),
        ("done", ctypes.c_uint),
        ("backwards", ctypes.c_uint),
        ("warp_done", ctypes.c_uint * 32),
        ("dynamic_shared", ctypes.c_void_p),
        ("dynamic_bytes", ctypes.c_ulonglong),
        ("error", ctypes.c_void_p),
    )


class RawModule:
    """Kernels of one source."""

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: tuple[str, ...] | None = None,
        jitify: bool = False,
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if code is None:
            raise NotImplementedError("the emulated GPU loads no compiled files; give `code`")
        if translate_cucomplex or enable_cooperative_groups or jitify:
            raise NotImplementedError("the emulated GPU has no such option of RawModule")
        if backend not in ("nvrtc", "nvcc"):
            raise ValueError(f"Invalid backend: {backend}")
        if isinstance(options, str) or not all(isinstance(o, str) for o in options):
            raise TypeError("options must be a tuple of strings")
        self.code, self.options, self.backend = code, tuple(options), backend
        self.name_expressions = tuple(name_expressions or ())

    def compile(self, log_stream: Any = None) -> None:
        """Compile now instead of at the first use."""
        compiler.compiled(self.code, self.options, self.name_expressions)

    def get_function(self, name: str) -> RawKernel:
        """One of its kernels."""
        found = compiler.compiled(self.code, self.options, self.name_expressions)
        if name not in found:
            raise device.CUDADriverError(
                "CUDA_ERROR_NOT_FOUND: named symbol not found: "
                f"{name!r}; there are: {', '.join(sorted(found))}"
            )
        return RawKernel._of(found[name], self)


class RawKernel:
    """One kernel, called as ``kernel(grid, block, args, shared_mem=bytes)``."""

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **_: Any
    ) -> None:
        self._module = RawModule(code=code, options=options, backend=backend)
        self.name, self.code, self.options = name, code, options
        self._compiled: compiler.Compiled | None = None
        self.max_dynamic_shared_size_bytes = STATIC_SHARED

    @classmethod
    def _of(cls, found: compiler.Compiled, module: RawModule) -> RawKernel:
        made = cls.__new__(cls)
        made._module, made._compiled = module, found
        made.name, made.code, made.options = found.name, module.code, module.options
        made.max_dynamic_shared_size_bytes = STATIC_SHARED
        return made

    def compile(self, log_stream: Any = None) -> None:
        """Compile now instead of at the first call."""
        if self._compiled is None:
            found = compiler.compiled(self.code, tuple(self.options), ())
            if self.name not in found:
                raise device.CUDADriverError(
                    f"CUDA_ERROR_NOT_FOUND: named symbol not found: {self.name!r}"
                )
            self._compiled = found[self.name]

    @property
    def max_threads_per_block(self) -> int:
        """Threads that its launch bounds allow."""
        self.compile()
        assert self._compiled is not None
        return self._compiled.max_threads

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0
    ) -> None:
        """Launch it on the current stream.

        Raises:
            TypeError: an argument is not what the kernel declares.
            CUDADriverError: sizes beyond what the GPU has, a fault, a barrier that not all reach,
                or a write outside of an array.
        """
        self.compile()
        kernel = self._compiled
        assert kernel is not None
        sizes = _sizes(kernel, grid, block)
        if not 0 <= shared_mem <= min(self.max_dynamic_shared_size_bytes, MAX_SHARED):
            raise device.CUDADriverError(
                f"CUDA_ERROR_INVALID_VALUE: {kernel.name}: {shared_mem} bytes of shared memory; "
                f"set max_dynamic_shared_size_bytes (it is {self.max_dynamic_shared_size_bytes})"
            )
        if not isinstance(args, tuple | list):
            raise TypeError(f"{kernel.name}: args must be a tuple, not {type(args).__name__}")
        if len(args) != len(kernel.parameters):
            raise TypeError(
                f"{kernel.name} takes {len(kernel.parameters)} arguments "
                f"({', '.join(kernel.names)}), not {len(args)}"
            )
        values = [_value(kernel, i, a) for i, a in enumerate(args)]
        reads, writes = [], []
        for arg, parameter in zip(args, kernel.parameters, strict=True):
            place = _place(arg, parameter)
            if place is not None:
                (reads if parameter.constant == b"\x01" else writes).append(place)
        chunks = {device.place_of(p, kernel.name)[0] for p in (*reads, *writes)}
        device.launch(
            f"kernel {kernel.name}",
            lambda: _launch(kernel, sizes, values, shared_mem, chunks),
            reads,
            writes,
        )


def _place(arg: Any, parameter: compiler.Parameter) -> Any:
    """What device memory an argument names."""
    if isinstance(arg, ndarray):
        return arg if arg.size else None
    if isinstance(arg, memory.MemoryPointer):
        chunk = arg.mem.chunk
        return (arg.ptr, chunk.ptr + chunk.size - arg.ptr)
    if parameter.kind == b"p" and int(arg):
        chunk = memory.chunk_at(int(arg), "a kernel's argument")
        return (int(arg), chunk.ptr + chunk.size - int(arg))
    return None


def _sizes(kernel: compiler.Compiled, grid: Any, block: Any) -> tuple[int, ...]:
    if not isinstance(grid, tuple) or not isinstance(block, tuple):
        raise TypeError(f"{kernel.name}: grid and block must be tuples, not {grid!r} and {block!r}")
    grid, block = (tuple(int(n) for n in size) for size in (grid, block))
    (gx, gy, gz), (bx, by, bz) = ((*size, 1, 1, 1)[:3] for size in (grid, block))
    if min(gx, gy, gz, bx, by, bz) < 1 or gx >= 1 << 31 or max(gy, gz) > MAX_GRID_YZ or bz > 64:
        raise device.CUDADriverError(
            f"CUDA_ERROR_INVALID_VALUE: {kernel.name}: grid {grid}, block {block}"
        )
    if bx * by * bz > kernel.max_threads:
        raise device.CUDADriverError(
            f"CUDA_ERROR_INVALID_VALUE: {kernel.name}: {bx * by * bz} threads in a block; its "
            f"launch bounds allow {kernel.max_threads}"
        )
    return gx, gy, gz, bx, by, bz


def _launch(
    kernel: compiler.Compiled,
    sizes: tuple[int, ...],
    values: list[np.ndarray],
    shared: int,
    chunks: set[memory.Chunk],
) -> None:
    pointers = (ctypes.c_void_p * max(1, len(values)))(*(v.ctypes.data for v in values))
    memory = np.empty(shared + 128, np.uint8)
    error = ctypes.create_string_buffer(1024)
    run = _Run(
        args=ctypes.addressof(pointers),
        grid=_Index(*sizes[:3]),
        block=_Index(*sizes[3:]),
        count=sizes[3] * sizes[4] * sizes[5],
        dynamic_shared=memory.ctypes.data + -memory.ctypes.data % 128,
        dynamic_bytes=shared,
        backwards=state.settings.backwards,
        error=ctypes.addressof(error),
    )
    if kernel.launch(ctypes.addressof(run)):  # type: ignore[operator]
        raise device.CUDADriverError(
            f"CUDA_ERROR_LAUNCH_FAILED: kernel {kernel.name}: {error.value.decode()}"
        )
    for chunk in chunks:
        chunk.check(f"kernel {kernel.name}")


_NAMES = {"i": "integer", "u": "unsigned integer", "f": "floating", "b": "bool", "s": "struct"}


def _value(kernel: compiler.Compiled, index: int, arg: Any) -> np.ndarray:
    """The bytes that the kernel gets for one argument."""
    parameter = kernel.parameters[index]
    kind = parameter.kind.decode()
    if kind == "p":
        value = _pointer(parameter, arg)
    else:
        value = _scalar(kind, parameter, arg)
    if value is None:
        raise TypeError(
            f"{kernel.name}: argument {index} ({kernel.names[index]}) is declared as "
            f"{_declared(parameter)}, but {_given(arg)} was given"
        )
    return value


def _declared(parameter: compiler.Parameter) -> str:
    kind = parameter.kind.decode()
    if kind != "p":
        return f"{_NAMES[kind]} of {parameter.size} bytes"
    element = parameter.element.decode()
    what = "anything" if element == "v" else f"{_NAMES[element]} of {parameter.element_size} bytes"
    return f"pointer to {'constant ' if parameter.constant == bytes([1]) else ''}{what}"


def _given(arg: Any) -> str:
    if isinstance(arg, ndarray):
        return f"a device array of {arg.dtype}"
    if type(arg) in (int, float, bool):
        passed = {int: "8-byte integer", float: "8-byte floating", bool: "1-byte bool"}[type(arg)]
        return f"{arg!r}, which is passed as {passed} (say np.int32(...), np.float32(...))"
    if isinstance(arg, np.ndarray):
        return "a NumPy array"
    return f"{arg!r} of {type(arg).__name__}"


def _pointer(parameter: compiler.Parameter, arg: Any) -> np.ndarray | None:
    if isinstance(arg, memory.MemoryPointer):
        return np.array([arg.ptr], np.uint64)
    if isinstance(arg, np.int64 | np.uint64) or type(arg) is int:
        return np.array([int(arg)], np.uint64)
    if not isinstance(arg, ndarray):
        return None
    dtype, element, size = arg.dtype, parameter.element.decode(), parameter.element_size
    same = dtype.itemsize == size
    floats = same and dtype.kind == "f"
    integers = same and dtype.kind in "iub"
    accepted = {
        "v": True,
        "f": floats,
        "b": same and dtype.kind == "b",
        "i": integers or size == 1,
        "u": integers or size == 1 or (same and size == 2),  # bits of 16-bit floats
        "s": size % dtype.itemsize == 0,  # float16 and vectors are structs of the source
        "p": same and dtype.kind in "iu",
    }[element]
    return np.array([arg._host.ctypes.data], np.uint64) if accepted else None


def _scalar(kind: str, parameter: compiler.Parameter, arg: Any) -> np.ndarray | None:
    if type(arg) in (int, float, bool):
        value = np.array([arg], {int: np.int64, float: np.float64, bool: np.bool_}[type(arg)])
    elif isinstance(arg, np.generic):
        value = np.array([arg])
    elif isinstance(arg, np.ndarray) and arg.ndim == 0 and arg.dtype.kind == "V":
        value = arg.reshape(1)
    else:
        return None
    kinds = {"i": "iu", "u": "iu", "f": "f", "b": "b", "s": "Vf"}[kind]
    if value.dtype.kind not in kinds or value.dtype.itemsize != parameter.size:
        return None
    return value
