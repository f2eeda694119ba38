"""`autocast`: a region in which functions choose their precision; and questions about it.

May import: tensors, autograd, dtypes, devices, errors. What functions do inside is in
`tensors/autocasting.py`. All state belongs to one thread.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from .. import devices, dtypes
from ..autograd.mode import mode
from ..backend.cuda import availability
from ..errors import DeviceError, DtypeError
from ..tensors.autocasting import Region

F = TypeVar("F", bound=Callable[..., Any])
_LOWER = (dtypes.bfloat16, dtypes.float16)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.depth = 0  # blocks entered, switched on or off
        self.cache: dict[Any, Any] = {}
        self.cache_enabled = True
        # of blocks that do not name one
        self.dtypes = {"cpu": dtypes.bfloat16, "cuda": dtypes.float16}
        self.device_type = "cpu"  # of the block that is on


_thread = _Thread()


class autocast:  # noqa: N801 - PyTorch's spelling
    """Run matrix products and convolutions in lower precision, losses in float32.

    A context manager and a decorator; blocks nest. Other functions run in the type of their
    inputs. Parameters stay float32, and so do their gradients. Wrap the forward pass and the loss,
    not ``backward()``, which runs each op in the type that it had.

    Args:
        device_type: "cpu" or "cuda"; the block is on for tensors of both. Others, and "cuda"
            where no GPU can be used, switch it off, with a warning, as PyTorch does.
        dtype: bfloat16 or float16; default: bfloat16 for "cpu", float16 for "cuda".
        enabled: False: a block in which autocast is off.
        cache_enabled: cast each weight once in the outermost block, not at each use.

    Raises:
        ValueError: `device_type` is not a string.
        RuntimeError: an unknown kind of device.
    """

    def __init__(
        self,
        device_type: str,
        dtype: dtypes.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(
                "autocast: expected `device_type` of type `str`, came "
                f"{type(device_type).__name__}; write autocast('cpu')"
            )
        _check_kind("autocast", device_type)
        self.device = device_type
        self.fast_dtype = _default_dtype(device_type) if dtype is None else dtype
        if enabled and not is_autocast_available(device_type):
            warnings.warn(
                f"autocast: {device_type!r} is not available here, so this block is switched off. "
                "Use device_type='cpu'",
                UserWarning,
                stacklevel=2,
            )
            enabled = False
        if enabled and self.fast_dtype not in _LOWER:
            warnings.warn(
                f"autocast: expected dtype bfloat16 or float16, came {self.fast_dtype!r}; this "
                "block is switched off",
                UserWarning,
                stacklevel=2,
            )
            enabled = False
        self._enabled = bool(enabled)
        self._cache_enabled = cache_enabled
        self._before: list[tuple[Any, bool, str]] = []

    def __enter__(self) -> autocast:
        self._before.append((mode.autocast, _thread.cache_enabled, _thread.device_type))
        if self._cache_enabled is not None:
            _thread.cache_enabled = self._cache_enabled
        _thread.depth += 1
        mode.autocast = None
        if self._enabled:
            cache = _thread.cache if _thread.cache_enabled else None
            mode.autocast = Region(self.fast_dtype.numpy, cache)
            _thread.device_type = self.device
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        mode.autocast, _thread.cache_enabled, _thread.device_type = self._before.pop()
        _thread.depth -= 1
        if not _thread.depth:
            _thread.cache.clear()

    def __call__(self, function: F) -> F:
        """Decorate `function`: each call runs inside such a block."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]  # same signature by functools.wraps


def _check_kind(name: str, device_type: str) -> None:
    if device_type not in devices.KINDS:
        raise DeviceError(
            f"{name}: unknown device type {device_type!r}; known: {', '.join(devices.KINDS)}"
        )


def is_autocast_available(device_type: str) -> bool:
    """Whether `autocast` does anything for devices of this kind."""
    _check_kind("is_autocast_available", device_type)
    return device_type == "cpu" or (device_type == "cuda" and availability.why_not() is None)


def _default_dtype(device_type: str) -> dtypes.dtype:
    """The lower precision of blocks that do not name one."""
    return _thread.dtypes.get(device_type, dtypes.float16)  # PyTorch's for accelerators


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether this thread is inside an `autocast` block that is on."""
    _check_kind("is_autocast_enabled", device_type)
    return mode.autocast is not None and _thread.device_type == device_type


def is_autocast_cpu_enabled() -> bool:
    """`is_autocast_enabled` of the CPU."""
    return is_autocast_enabled("cpu")


def get_autocast_dtype(device_type: str = "cpu") -> dtypes.dtype:
    """The lower precision of the block that is on, else that of blocks that do not name one."""
    _check_kind("get_autocast_dtype", device_type)
    if is_autocast_enabled(device_type):
        return dtypes.from_numpy(mode.autocast.dtype)
    return _default_dtype(device_type)


def get_autocast_cpu_dtype() -> dtypes.dtype:
    """`get_autocast_dtype` of the CPU."""
    return get_autocast_dtype("cpu")


def set_autocast_dtype(device_type: str, dtype: dtypes.dtype) -> None:
    """Set the lower precision of blocks that do not name one (this thread; bfloat16 at start).

    Raises:
        RuntimeError: another device than the CPU, or neither bfloat16 nor float16.
    """
    if device_type not in _thread.dtypes:
        raise DeviceError(f"set_autocast_dtype: expected 'cpu' or 'cuda', came {device_type!r}")
    if dtype not in _LOWER:
        raise DtypeError(f"set_autocast_dtype: expected bfloat16 or float16, came {dtype!r}")
    _thread.dtypes[device_type] = dtype


def is_autocast_cache_enabled() -> bool:
    """Whether blocks cast each weight once (this thread; True at start)."""
    return _thread.cache_enabled


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Switch the cache of cast weights for blocks entered from now on."""
    _thread.cache_enabled = bool(enabled)


def clear_autocast_cache() -> None:
    """Forget the weights that were cast in the block under way."""
    _thread.cache.clear()
