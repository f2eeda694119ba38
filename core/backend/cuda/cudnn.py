"""cuDNN on one device for one thread: its handle, bound to the current stream, and its workspace.

Everything that is planned or compiled is done by the first call of each kind, which must not be
inside of a capture; later ones cost one call of the library.
"""

from __future__ import annotations

from typing import Any

import cupy

from ...errors import DeviceError
from . import device
from .cudnn_graphs import library

_GRAIN = 1 << 20  # bytes; workspaces grow in such steps


def address(array: Any) -> int:
    """Where a device array begins."""
    found: int = array.data.ptr
    return found


class Workspace:
    """Scratch memory for a library's calls on one stream after another; one per stream.

    Calls on a stream run one after the other, so they share it. A graph that was captured with it
    keeps it, also when a larger one has taken its place here.
    """

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}
        self._kept: Any = None  # by the capture under way

    def at_least(self, size: int, stream: int) -> int:
        """The address of `size` bytes on the stream with that pointer.

        Raises:
            DeviceError: there is too little, and a capture is under way.
        """
        held = self._held.get(stream)
        if held is None or held.nbytes < size:
            if device.capturing():
                raise DeviceError(
                    f"cuda.capture: a kernel needs {size} bytes of workspace, "
                    f"{0 if held is None else held.nbytes} are there: run the step once before "
                    "capturing, on the same stream"
                )
            held = self._held[stream] = cupy.empty(-(-max(size, 1) // _GRAIN) * _GRAIN, cupy.uint8)
        if device.capturing():
            device.keep(held)
        return int(held.data.ptr)


class Cudnn:
    """The library for this thread on its device.

    Attributes:
        module: cudnn-frontend.
        handle: its handle, an integer; never destroyed, as that must not happen inside of a
            capture, and Python chooses the time.

    Raises:
        Unsupported: cuDNN cannot be used here; the message says why.
    """

    def __init__(self) -> None:
        self.module = library()
        self.handle: int = self.module.create_handle()
        self.workspace = Workspace()
        self._stream = -1

    def bind(self) -> int:
        """Work on CuPy's current stream from now on; returns its pointer."""
        stream: int = cupy.cuda.get_current_stream().ptr
        if stream != self._stream:
            self.module.set_stream(handle=self.handle, stream=stream)
            self._stream = stream
        return stream

    def version(self) -> str:
        """Of cuDNN and the frontend, as part of the keys of plans on disk."""
        return f"{self.module.backend_version()}/{self.module.__version__}"


class Plan:
    """A graph that can be run."""

    __slots__ = ("_cudnn", "_graph", "_run", "_size")

    def __init__(self, cudnn: Cudnn, graph: Any) -> None:
        self._cudnn, self._graph = cudnn, graph
        self._run = graph._execute_with_ptrs
        self._size: int = graph.get_workspace_size()

    def __call__(self, *addresses: int) -> None:
        """Solve the problem; addresses in the order of its tensors' numbers."""
        cudnn = self._cudnn
        workspace = cudnn.workspace.at_least(self._size, cudnn.bind())
        if device.capturing():
            device.keep(self)  # its compiled kernels
        self._run(list(addresses), workspace, cudnn.handle)
