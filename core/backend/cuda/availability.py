"""Whether a GPU can be used here, and why not. Imports CuPy when it is first asked.

Found out once per process. A forked child of a process that has used a GPU can use none: CUDA's
state does not survive a fork.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

INSTALL = "pip install 'allgrad[gpu]' (CUDA 13) or 'allgrad[gpu12]' (CUDA 12)"


class _Found(NamedTuple):
    gpus: int
    reason: str | None


_found: list[_Found] = []  # empty until somebody asks
_forked: list[str] = []


def why_not() -> str | None:
    """The reason why no GPU can be used, one sentence; None if one can."""
    if _forked:
        return _forked[0]
    return _answer().reason


def count() -> int:
    """The number of GPUs that can be used; 0 where `why_not` has a reason."""
    return 0 if _forked else _answer().gpus


def forget() -> None:
    """Look again at the next question (another library was installed in this process)."""
    _found.clear()


def _answer() -> _Found:
    if not _found:
        _found.append(_look())
    return _found[0]


def _look() -> _Found:
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            return _Found(0, f"CuPy is not installed; {INSTALL}")
        return _Found(0, f"CuPy cannot be imported ({error}); {INSTALL}")
    try:
        count = runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001 - CuPy's errors can be named only with CuPy
        return _Found(0, _no_driver(str(error)))
    if count:
        return _Found(count, None)
    return _Found(0, _hidden())


def _no_driver(said: str) -> str:
    if "InsufficientDriver" in said:
        return (
            "there is no NVIDIA driver here, or it is older than CuPy's CUDA needs "
            "(cudaErrorInsufficientDriver); nvidia-smi shows the driver"
        )
    if "NoDevice" in said:
        return _hidden()
    return f"the CUDA runtime refuses ({said}); nvidia-smi shows driver and GPUs"


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"no GPU is visible: CUDA_VISIBLE_DEVICES={visible!r}"
    return "the NVIDIA driver sees no GPU"


def first() -> int:
    """The GPU that a thread takes that has named none."""
    return _choice[0](count()) if _choice else 0


def prefer(choose: Callable[[int], int] | None) -> None:
    """Let `choose(count)` say which of the visible GPUs that is: ranks take one each.

    None: the first one again.
    """
    _choice[:] = [] if choose is None else [choose]


_choice: list[Callable[[int], int]] = []


def used() -> None:
    """Note that this process uses a GPU: children that it forks from now on cannot."""
    if not _noted:
        _noted.append(True)
        os.register_at_fork(after_in_child=_after_fork)


def in_use() -> bool:
    """Whether this process has used a GPU."""
    return bool(_noted)


_noted: list[bool] = []


def _after_fork() -> None:
    _forked.append(
        "this process was forked from one that uses a GPU, and CUDA does not survive a fork. Start "
        "it by multiprocessing's 'spawn' method, or move tensors to the GPU in the parent"
    )
