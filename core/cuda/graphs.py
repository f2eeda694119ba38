"""CUDA graphs: a whole training step recorded once and launched as one piece.

`capture` wraps a step function; `CUDAGraph` and `graph` are PyTorch's names for the same thing in
smaller pieces. What is recorded is the work on the device with its addresses, not the Python
code: replays run no Python of the step. Numbers that change from step to step (learning rate,
loss scale, random numbers) therefore live on the device; allgrad's optimizers, `GradScaler` and
dropout see to that by themselves.

Note [Private pool]: all memory that a capture asks for comes from a pool of the graph's own, which
lives as long as the graph. So nobody else gets the memory that replays write to.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from ..backend.cuda import availability
from ..errors import DeviceError
from ..tensors.graph import compute_all
from .info import driver

__all__ = ["CUDAGraph", "graph", "graph_pool_handle", "is_current_stream_capturing"]


def is_current_stream_capturing() -> bool:
    """Whether a CUDA graph is being captured; False without a GPU."""
    return availability.in_use() and bool(driver("is_current_stream_capturing").capturing())


def graph_pool_handle() -> Any:
    """A memory pool that several graphs may share, which then must not be replayed at once.

    Raises:
        RuntimeError: no GPU can be used.
    """
    driver("graph_pool_handle")
    import cupy  # noqa: PLC0415 - there is a GPU

    return cupy.cuda.MemoryPool()


class CUDAGraph:
    """Work on a GPU, recorded to be done again; PyTorch's class of that name.

    Record with ``with allgrad.cuda.graph(g):`` after running the same code once or more outside
    (kernels are compiled, libraries choose algorithms, optimizers make their state then).

    Raises:
        RuntimeError: no GPU can be used.
    """

    def __init__(self) -> None:
        self._state = driver("CUDAGraph")
        self._capture: Any = None
        self._graph: Any = None
        self._pool: Any = None
        self._stream: Any = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Record from now on what is asked of the compute stream; nothing is computed.

        Args:
            pool: memory pool of `graph_pool_handle`; default: one of its own.
            capture_error_mode: accepted as in PyTorch; calls of other threads are never recorded
                and never an error.

        Raises:
            RuntimeError: another capture is under way, or this graph holds one already.
        """
        if self._graph is not None:
            raise DeviceError("CUDAGraph: it holds a recording already; call reset() first")
        import cupy  # noqa: PLC0415 - there is a GPU

        self._pool = pool or cupy.cuda.MemoryPool()
        self._stream = self._state.stream()
        self._capture = self._state.Capture()
        self._state.begin_capture(self._capture)
        self._collecting = gc.isenabled()
        gc.disable()  # a library handle that dies within a capture would poison it
        self._allocator = cupy.cuda.using_allocator(self._pool.malloc)
        self._allocator.__enter__()
        try:
            self._stream.begin_capture()
        except BaseException:
            self._leave()
            raise

    def capture_end(self) -> None:
        """The recording is complete."""
        try:
            self._graph = self._stream.end_capture()
        finally:
            self._leave()

    def abandon(self) -> None:
        """End a recording that failed, so that the stream can be used again."""
        try:
            with contextlib.suppress(Exception):  # CUDA refuses what was recorded: that is known
                self._stream.end_capture()
        finally:
            self._leave()
            self.reset()

    def _leave(self) -> None:
        self._allocator.__exit__(None, None, None)
        self._state.end_capture()
        if self._collecting:
            gc.enable()

    def replay(self) -> None:
        """Do the recorded work once more, on the compute stream.

        Raises:
            RuntimeError: nothing was recorded.
        """
        if self._graph is None:
            raise DeviceError("CUDAGraph.replay: nothing was recorded; use cuda.graph(g) first")
        for refresh in self._capture.callbacks:
            refresh()
        self._graph.launch(self._stream)

    def reset(self) -> None:
        """Forget the recording and give its memory back."""
        self._graph = self._capture = self._pool = None

    def pool(self) -> Any:
        """The memory pool of the recording, for `graph`'s argument `pool`."""
        return self._pool


@contextlib.contextmanager
def graph(
    cuda_graph: CUDAGraph,
    pool: Any = None,
    stream: Any = None,
    capture_error_mode: str = "global",
) -> Iterator[None]:
    """Record the work of the ``with`` block in `cuda_graph`.

    Args:
        cuda_graph: where to.
        pool: memory pool of another graph, to be shared.
        stream: accepted as in PyTorch; the work of the compute stream is recorded.
        capture_error_mode: see `CUDAGraph.capture_begin`.

    Raises:
        RuntimeError: the block does something that cannot be recorded, such as reading a value;
            the error says what, and the stream can be used again.
    """
    driver("graph").synchronize()
    compute_all()
    cuda_graph.capture_begin(pool, capture_error_mode)
    try:
        yield
        compute_all()  # pending outputs belong to the recording
    except BaseException as error:
        cuda_graph.abandon()
        if isinstance(error, Exception):
            error.add_note(
                "This happened while a CUDA graph was being captured: nothing may be read from the "
                "GPU there, nothing copied to it, and no library set up for the first time. "
                "allgrad.cuda.capture(step, enabled=False) runs the same code eagerly."
            )
        raise
    cuda_graph.capture_end()
