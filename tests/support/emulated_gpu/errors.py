"""Errors of the emulated GPU: CUDA's, with CuPy's names and words, and those only it can find."""

from __future__ import annotations

_RUNTIME = {
    1: ("InvalidValue", "invalid argument"),
    2: ("MemoryAllocation", "out of memory"),
    101: ("InvalidDevice", "invalid device ordinal"),
    400: ("InvalidResourceHandle", "invalid resource handle"),
    600: ("NotReady", "device not ready"),
    700: ("IllegalAddress", "an illegal memory access was encountered"),
    900: ("StreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("StreamCaptureInvalidated", "operation failed due to a previous error during capture"),
    902: ("StreamCaptureMerge", "operation would result in a merge of separate capture sequences"),
    903: ("StreamCaptureUnmatched", "capture was not ended in the same stream as it began"),
    904: ("StreamCaptureUnjoined", "capturing stream has unjoined work"),
    905: ("StreamCaptureIsolation", "dependency created on uncaptured work in another stream"),
    907: (
        "CapturedEvent",
        "operation not permitted on an event last recorded in a capturing stream",
    ),
}


class CUDARuntimeError(RuntimeError):
    """``cupy.cuda.runtime.CUDARuntimeError``.

    Args:
        status: CUDA's number.
        about: what the emulated GPU knows beyond CUDA's words.
    """

    def __init__(self, status: int, about: str = "") -> None:
        self.status = status
        name, words = _RUNTIME.get(status, (str(status), "unknown error"))
        super().__init__(f"cudaError{name}: {words}{f' ({about})' if about else ''}")


class CUDADriverError(RuntimeError):
    """``cupy.cuda.driver.CUDADriverError``."""


class OutOfMemoryError(MemoryError):
    """``cupy.cuda.memory.OutOfMemoryError``."""


class StreamHazard(RuntimeError):  # noqa: N818 - what it is called
    """Two streams use the same memory, one of them writes, and nothing puts them in order.

    A GPU gives wrong numbers here, sometimes.
    """


class MemoryFault(RuntimeError):  # noqa: N818 - what it is called
    """Memory was used that is not the user's: behind an array's end, or given back already."""
