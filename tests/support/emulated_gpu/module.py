"""The stand-in for the module `cupy`, and how it takes the place of the real one."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from support.emulated_gpu import cuda, device, kernels, libraries, memory, nccl, rules, state
from support.emulated_gpu.array import API, WRITING, ndarray, ufunc_call

# (the stand-in, the modules it replaced, the number of devices before)
_installed: list[tuple[ModuleType, dict[str, Any], int]] = []


def _function(name: str, home: Any = np) -> Any:
    real = getattr(home, name, None)
    about = API[home.__name__.split(".")[1] if home is not np else "functions"][name]

    def call(*args: Any, **kwargs: Any) -> Any:
        if real is None:
            raise NotImplementedError(f"the emulated GPU has no cupy.{name}; add it")
        if isinstance(real, np.ufunc):
            inputs, places = args[: real.nin], args[real.nin :]
            if places:
                kwargs["out"] = places
            return ufunc_call(real, inputs, kwargs)
        rules.check_parameters(name, about.get("parameters"), args, kwargs)
        writes = args[:1] if name in WRITING else ()
        return device.run(real, args, kwargs, "", writes)

    call.__name__ = name
    if isinstance(real, np.ufunc):
        for method in ("at", "reduce", "accumulate", "reduceat", "outer"):
            setattr(call, method, getattr(real, method))
    return call


def _array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", **_: Any) -> ndarray:
    """Any data in memory of the current device; from the host and from other devices, too."""
    if isinstance(obj, ndarray):
        if obj._memory.chunk.device != state.thread.device:
            return device.from_other(obj).astype(dtype or obj.dtype, copy=False, order=order)
        return obj.astype(dtype or obj.dtype, copy=bool(copy), order=order)
    if isinstance(obj, list | tuple) and any(isinstance(v, ndarray) for v in obj):
        return device.run(_stacked, (list(obj),), {"dtype": dtype}, "cupy.array")
    return device.uploaded(np.array(obj, dtype=dtype))


def _stacked(values: Any, dtype: Any) -> np.ndarray:
    return np.array(values, dtype=dtype)


def _asarray(obj: Any, dtype: Any = None, order: Any = None, **_: Any) -> ndarray:
    return _array(obj, dtype, copy=False, order=order or "K")


def _as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> Any:
    return device.run(np.lib.stride_tricks.as_strided, (x, shape, strides), {})


def _from_dlpack(array: Any) -> ndarray:
    kind, index = array.__dlpack_device__()
    if kind != 2 or index != state.thread.device:
        raise NotImplementedError("the emulated GPU reads DLPack of its current device alone")
    found: ndarray = array.__dlpack__(stream=device.streams.current().ptr)
    return found


def _asnumpy(obj: Any, stream: Any = None, order: str = "C", out: Any = None, **_: Any) -> Any:
    return obj.get(order=order, out=out) if isinstance(obj, ndarray) else np.asarray(obj)


def _made(name: str) -> Any:
    make = getattr(np, name)

    def call(*args: Any, **kwargs: Any) -> ndarray:
        return device.run(make, args, kwargs)

    return call


@functools.cache  # modules of ours keep the one that they have imported
def cupy_module() -> ModuleType:
    """The stand-in, with the functions of the real CuPy that `cupy_api.json` lists."""
    cupy: Any = ModuleType("cupy")
    cupy.__path__ = []
    cupy.__version__ = API["version"]
    for name in API["functions"]:
        setattr(cupy, name, _function(name))
    for name in API["constants"]:
        setattr(cupy, name, getattr(np, name, None))
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"):
        setattr(cupy, name, getattr(np, name))
    for name in ("uint16", "uint32", "uint64", "bool_", "complex64", "complex128", "dtype"):
        setattr(cupy, name, getattr(np, name))
    for name in ("zeros", "ones", "full", "arange", "linspace", "eye", "identity"):
        setattr(cupy, name, _made(name))
    cupy.empty = lambda shape, dtype=float, order="C": device.empty(shape, np.dtype(dtype), order)
    cupy.ndarray, cupy.generic = ndarray, np.generic
    cupy.array, cupy.asarray, cupy.asnumpy = _array, _asarray, _asnumpy
    cupy.ascontiguousarray = lambda a, dtype=None: device.run(
        np.ascontiguousarray, (_asarray(a, dtype),), {}
    )
    cupy.from_dlpack = _from_dlpack
    cupy.get_array_module = lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np
    cupy.linalg = ModuleType("cupy.linalg")
    cupy.fft = ModuleType("cupy.fft")
    for home in ("linalg", "fft"):
        for name in API[home]:
            setattr(getattr(cupy, home), name, _function(name, getattr(np, home)))
    cupy.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))
    cupy.cuda = cuda.cuda_module()
    cupy.cuda.nccl = nccl.nccl_module()
    cupy.RawModule, cupy.RawKernel = kernels.RawModule, kernels.RawKernel
    cupy.get_default_memory_pool = lambda: memory.default_pool
    return cupy


def install(devices: int = 1) -> ModuleType:
    """Put the stand-in, with so many devices, in the place of CuPy; returns it."""
    cupy = _installed[-1][0] if _installed else cupy_module()
    modules = {
        "cupy": cupy,
        "cupy.cuda": cupy.cuda,
        "cupy.cuda.nvtx": cupy.cuda.nvtx,
        "cupy.cuda.nccl": cupy.cuda.nccl,
        "cupy.linalg": cupy.linalg,
        "cupy.fft": cupy.fft,
        **libraries.install(),
    }
    replaced = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    _installed.append((cupy, replaced, state.settings.devices))
    state.settings.devices = devices
    return cupy


def uninstall() -> None:
    """Put back what the last `install` replaced."""
    _, replaced, state.settings.devices = _installed.pop()
    if not _installed:
        libraries.uninstall()
    for name, module in replaced.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module


@contextlib.contextmanager
def emulated_gpu(devices: int = 1) -> Iterator[ModuleType]:
    """The stand-in, with so many devices, inside of the ``with`` block; blocks may nest."""
    cupy = install(devices)
    try:
        yield cupy
    finally:
        uninstall()
