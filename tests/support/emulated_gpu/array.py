"""The array of the stand-in for CuPy: memory that NumPy may not touch by itself.

It keeps CuPy's rules where NumPy's differ: results of reductions and of indexing are arrays without
dimensions, never NumPy scalars; NumPy arrays beside it are refused; conversion to NumPy is `get`
alone; functions, methods and ufuncs that CuPy lacks are refused.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from support.emulated_gpu import device, memory, rules

API = rules.API
_ATTRIBUTES = frozenset(API["ndarray"])
_NUMBERS = (int, float, complex, bool, np.generic)
_OPERANDS = (*_NUMBERS, np.ndarray)  # the last to be refused with CuPy's words


# Functions that change their first argument.
_MAKING = frozenset(
    ("zeros", "empty", "arange", "array", "asarray", "ascontiguousarray", "eye", "identity", "tri")
)
WRITING = frozenset(("copyto", "put", "put_along_axis", "fill_diagonal", "place", "putmask"))


class ndarray:  # noqa: N801 - CuPy's spelling
    """Device memory.

    Attributes:
        _host: the same memory as NumPy sees it.
        _memory: keeps the memory.
        _extent: see `device.extent`.
    """

    __slots__ = ("__weakref__", "_extent", "_host", "_memory")

    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        shape: Any,
        dtype: Any = float,
        memptr: Any = None,
        strides: Any = None,
        order: str = "C",
    ) -> None:
        if memptr is None:
            made = device.empty(shape, np.dtype(dtype), order)
            self._host, self._memory = made._host, made._memory
        else:
            self._host = memptr.view(shape, np.dtype(dtype), strides, order)
            self._memory = memptr.mem
        self._extent: Any = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc.__name__ not in API["functions"]:
            return NotImplemented
        if method == "__call__":
            return ufunc_call(ufunc, inputs, kwargs)
        if method not in API["ufunc"]:
            return NotImplemented
        rules.ufunc_method(ufunc, method, inputs)
        writes = inputs[:1] if method == "at" else ()
        name = f"cupy.{ufunc.__name__}.{method}"
        return device.run(getattr(ufunc, method), inputs, kwargs, name, writes)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(t is not ndarray for t in types) or not rules.check_function(func, args, kwargs):
            return NotImplemented
        if func.__name__ in _MAKING:  # by ``like=``, from what may lie on the host
            return getattr(sys.modules["cupy"], func.__name__)(*args, **kwargs)
        written = args[:1] if func.__name__ in WRITING else ()
        return device.run(func, args, kwargs, "", written)

    # -- what has rules of its own -----------------------------------------------------------
    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        """A copy on the host; with `blocking=False`, in `out` once the stream is done."""
        return device.download(self, stream, order, out, blocking)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Fill it from the host."""
        device.upload(self, arr, stream)

    def item(self) -> Any:
        """The value of its one element."""
        return self.get().item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get().item())

    def __float__(self) -> float:
        return float(self.get().item())

    def __complex__(self) -> complex:
        return complex(self.get().item())

    def __index__(self) -> int:
        return self.get().__index__()

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        if not self._host.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self._host)))

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __reduce__(self) -> Any:
        return _from_host, (self.get(),)

    # -- description -------------------------------------------------------------------------
    @property
    def data(self) -> Any:
        """Where it lies, as CuPy's MemoryPointer."""
        start = self._host.__array_interface__["data"][0]
        return memory.MemoryPointer(self._memory, start - self._memory.ptr)

    @property
    def device(self) -> Any:
        """The device that holds it."""
        from support.emulated_gpu.cuda import Device

        return Device(self._memory.chunk.device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        host = self._host.__array_interface__
        about = {k: host[k] for k in ("shape", "typestr", "descr", "strides")}
        return {**about, "data": (host["data"][0], False), "version": 3, "stream": 1}

    def __dlpack__(self, *, stream: Any = None, copy: bool | None = None, **_: Any) -> ndarray:
        """The array itself in place of a capsule, which only this stand-in reads."""
        return self.copy() if copy else device.of(self._host, self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self._memory.chunk.device)

    @property
    def flags(self) -> Any:
        flags = self._host.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=flags.owndata,
            fnc=flags.fnc,
            forc=flags.forc,
        )

    @property
    def real(self) -> ndarray:
        return device.run(_part, ("real", self), {})

    @real.setter
    def real(self, value: Any) -> None:
        self.real[...] = value

    @property
    def imag(self) -> ndarray:
        return device.run(_part, ("imag", self), {})

    @imag.setter
    def imag(self, value: Any) -> None:
        self.imag[...] = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        self._host = self._host.reshape(shape, copy=False)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not _is_basic(key):
            device.run(_assign, (self, key, value), {}, "an assignment to a selection", (self,))
            return
        part = self[key]
        if type(value) is ndarray and _same_place(part._host, value._host):
            return  # the end of `x[key] += ...`
        device.run(_fill, (part, value), {}, "an assignment to a part", (part,))

    def __getitem__(self, key: Any) -> Any:
        if _is_basic(key):  # a view, without dimensions where NumPy gives a scalar
            key = key if isinstance(key, tuple) else (key,)
            dots = () if any(k is Ellipsis for k in key) else (Ellipsis,)
            return device.of(self._host[(*key, *dots)], self._memory)
        return device.run(_pick, (self, key), {}, "a selection")

    def __getattr__(self, name: str) -> Any:
        if name not in _ATTRIBUTES or name == "_host":
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        value = getattr(self._host, name)
        if callable(value):
            return _Method(self, name)
        return device.of(value, self._memory) if isinstance(value, np.ndarray) else value


_WRITERS = frozenset(("fill", "sort", "partition", "put", "resize"))


class _Method:
    """A bound method of NumPy's that CuPy has too."""

    __slots__ = ("name", "owner")

    def __init__(self, owner: ndarray, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rules.check_method(self.name, args, kwargs)
        call = functools.partial(_call, self.name)
        writes = (self.owner,) if self.name in _WRITERS else ()
        return device.run(call, (self.owner, *args), kwargs, f"ndarray.{self.name}", writes)


def _call(name: str, array: np.ndarray, *args: Any, **kwargs: Any) -> Any:
    return getattr(array, name)(*args, **kwargs)


def _is_basic(key: Any) -> bool:
    """Whether a key selects a view."""
    if type(key) is tuple:
        return all(_is_basic(k) for k in key)
    if type(key) is slice:
        return not any(type(v) is ndarray for v in (key.start, key.stop, key.step))
    return key is None or key is Ellipsis or type(key) is int or isinstance(key, np.integer)


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.strides == b.strides
        and a.__array_interface__["data"] == b.__array_interface__["data"]
    )


def _fill(part: np.ndarray, value: Any) -> None:
    part[...] = value


def _assign(array: np.ndarray, key: Any, value: Any) -> None:
    array[key] = value


def _part(name: str, array: np.ndarray) -> Any:
    return getattr(array, name)


def _pick(array: np.ndarray, key: Any) -> Any:
    return array[key]


def _from_host(array: np.ndarray) -> ndarray:
    return device.uploaded(array)


def ufunc_call(ufunc: np.ufunc, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """A ufunc of CuPy's on device arrays and numbers; NotImplemented for anything else."""
    for value in inputs:
        if type(value) is not ndarray and not isinstance(value, _OPERANDS):
            return NotImplemented
    function = rules.loop(ufunc, inputs, kwargs)
    return device.run(function, inputs, kwargs, f"cupy.{ufunc.__name__}")


def _binary(name: str, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    ufunc: np.ufunc = getattr(np, name)

    def method(self: ndarray, other: Any) -> Any:
        # CuPy gives way to classes of higher priority and refuses what it does not know.
        if getattr(other, "__array_priority__", 0) > ndarray.__array_priority__:
            return NotImplemented
        if not isinstance(other, (ndarray, *_NUMBERS)):
            if isinstance(other, np.ndarray):
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            return NotImplemented
        if in_place:
            ufunc_call(ufunc, (self, other), {"out": (self,)})
            return self
        return ufunc_call(ufunc, (other, self) if reflected else (self, other), {})

    return method


_BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "matmul": "matmul",
}
for _name, _ufunc in _BINARY.items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
    setattr(ndarray, f"__r{_name}__", _binary(_ufunc, reflected=True))
    setattr(ndarray, f"__i{_name}__", _binary(_ufunc, in_place=True))
for _name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
    _short = {"less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge"}
    _method = {**_short, "equal": "eq", "not_equal": "ne"}[_name]
    setattr(ndarray, f"__{_method}__", _binary(_name))


def _unary(name: str) -> Callable[[ndarray], Any]:
    ufunc: np.ufunc = getattr(np, name)
    return lambda self: ufunc_call(ufunc, (self,), {})


for _name, _ufunc in {
    "neg": "negative",
    "pos": "positive",
    "abs": "absolute",
    "invert": "invert",
}.items():
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))


device.ndarray = ndarray
