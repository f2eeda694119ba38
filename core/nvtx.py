"""A timeline whose ranges NVIDIA's tools show: NVTX ranges by way of CuPy.

May import: `timeline`; CuPy when it is used. Nsight Systems then draws forward, backward per node,
the optimizer and the data loader above the kernels that they start on the GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .errors import OptionError
from .timeline import Step, Timeline


def load() -> Any:
    """CuPy's module of NVTX functions.

    Raises:
        OptionError: CuPy is not installed.
    """
    try:
        return importlib.import_module("cupy.cuda.nvtx")
    except ImportError as error:
        raise OptionError(
            f"NVTX ranges need CuPy ({error}); install the cupy-cuda package of your CUDA version, "
            "or unset ALLGRAD_NVTX"
        ) from error


class NvtxTimeline(Timeline):
    """A timeline that also opens and closes an NVTX range for all that begins and ends.

    What is added afterwards (buckets under way, waits) has no range: ranges nest, those overlap.

    Args:
        sink, first, last: see `Timeline`.
        nvtx: the functions RangePush and RangePop; default: CuPy's.
    """

    def __init__(
        self,
        sink: Callable[[Step], None],
        first: int = 0,
        last: int | None = None,
        nvtx: Any = None,
    ) -> None:
        super().__init__(sink, first, last)
        self._nvtx = load() if nvtx is None else nvtx

    def begin(self, name: str) -> float:
        self._nvtx.RangePush(name)
        return super().begin(name)

    def end(self, begin_s: float, name: str, category: str, **details: Any) -> None:
        super().end(begin_s, name, category, **details)
        self._nvtx.RangePop()
