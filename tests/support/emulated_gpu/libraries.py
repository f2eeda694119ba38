"""Stand-ins for C libraries that are opened by `ctypes.CDLL`: cuBLAS and cuDNN.

A function of theirs is declared here by its C prototype, and the caller's `argtypes` have to be the
same: a GPU's library would take whatever it is given. Arguments go through ctypes as they would.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from support.emulated_gpu import cublas_library, cudnn_module, cudnn_rnn_library

_CACHE = "ALLGRAD_CACHE_DIR"
_real: list[Any] = []
_folder: list[Any] = []  # for plans: those of a stand-in must not be found later
_missing: set[str] = set()  # libraries that tests want to be absent


class _Function:
    """A C function.

    Attributes:
        argtypes, restype: what the caller says that they are.
    """

    def __init__(self, name: str, prototype: tuple[Any, ...], body: Callable[..., int]) -> None:
        self.name, self._prototype, self._body = name, prototype, body
        self.argtypes: Any = None
        self.restype: Any = None
        self._raised = threading.local()
        self._called = ctypes.CFUNCTYPE(ctypes.c_int, *prototype)(self._guarded)

    def _guarded(self, *args: Any) -> int:
        try:
            return self._body(*args)
        except BaseException as error:  # noqa: BLE001 - ctypes would swallow it
            self._raised.error = error
            return -1

    def __call__(self, *args: Any) -> int:
        if self.restype is not ctypes.c_int or tuple(self.argtypes or ()) != self._prototype:
            raise TypeError(
                f"{self.name} is declared with argtypes {self.argtypes} and restype "
                f"{self.restype}, its header says {self._prototype} and c_int"
            )
        self._raised.error = None
        status = self._called(*args)
        if self._raised.error is not None:
            raise self._raised.error
        return status


class _Library:
    """An opened library."""

    def __init__(self, functions: dict[str, tuple[tuple[Any, ...], Callable[..., int]]]) -> None:
        for name, (prototype, body) in functions.items():
            setattr(self, name, _Function(name, prototype, body))


_libraries = {
    r"libcublas\.so\.13": lambda: _Library(cublas_library.FUNCTIONS),
    r"libcudnn\.so\.9": lambda: _Library(cudnn_rnn_library.FUNCTIONS),
}


def _open(name: Any = None, *args: Any, **kwargs: Any) -> Any:
    for pattern, make in _libraries.items():
        if name is not None and re.search(pattern + "$", str(name)):
            if name in _missing:
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            return make()
    return _real[0](name, *args, **kwargs)


def without(name: str) -> None:
    """Let a library be absent until `with_all`."""
    _missing.add(name)


def with_all() -> None:
    """Let all libraries be there."""
    _missing.clear()


def install() -> dict[str, Any]:
    """Let `ctypes.CDLL` open the stand-ins; returns the modules to be put in `sys.modules`."""
    if not _real:
        _real.append(ctypes.CDLL)
        ctypes.CDLL = _open  # type: ignore[misc,assignment]
        _folder[:] = [tempfile.TemporaryDirectory(prefix="allgrad-plans-"), os.environ.get(_CACHE)]
        os.environ[_CACHE] = _folder[0].name
    return {"cudnn": cudnn_module.module()}


def uninstall() -> None:
    """Let `ctypes.CDLL` be itself again."""
    if _real:
        ctypes.CDLL = _real.pop()  # type: ignore[misc]
        os.environ.pop(_CACHE)
        if _folder[1] is not None:
            os.environ[_CACHE] = _folder[1]
        _folder[0].cleanup()
