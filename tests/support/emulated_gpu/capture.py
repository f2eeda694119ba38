"""What a capturing stream notes, and the graph that does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from support.emulated_gpu import hazards, state
from support.emulated_gpu.errors import CUDARuntimeError, MemoryFault
from support.emulated_gpu.pending import Pending

if TYPE_CHECKING:
    from support.emulated_gpu.memory import Chunk
    from support.emulated_gpu.streams import Stream


class Recording:
    """Work of one or more streams that is noted; memory is as it was, all the while.

    Attributes:
        origin: the stream that began; streams: all that take part, with their clocks before.
        actions: each does one piece of work: (name, function).
        uses: (place, whether written) of all work together.
        broken: what was done that a capture does not allow.
        waits: whether other ranks take part.
    """

    def __init__(self, origin: Stream) -> None:
        self.origin = origin
        self.streams: dict[Stream, dict[int, int]] = {}
        self.actions: list[tuple[str, Callable[[], None]]] = []
        self.uses: dict[tuple[Chunk, int, int, bool], None] = {}
        self.broken = ""
        self.waits = False
        self.ended = False
        self._sizes: dict[Chunk, int] = {}
        self._logs: dict[Chunk, dict[int, hazards.Uses]] = {}
        self.join(origin)

    def join(self, stream: Stream) -> None:
        """A stream takes part from now on."""
        if stream not in self.streams:
            self.streams[stream] = dict(stream.clock)
            stream.capture = self

    def note(
        self,
        stream: Stream,
        what: str,
        action: Callable[[], None],
        reads: list[hazards.Extent],
        writes: list[hazards.Extent],
    ) -> None:
        """A piece of work, to be done when the graph is launched."""
        tick = stream.begin()
        hazards.use(stream, what, tick, reads, False, self._logs)
        hazards.use(stream, what, tick, writes, True, self._logs)
        for extents, write in ((reads, False), (writes, True)):
            for extent in extents:
                self.uses[(*extent, write)] = None
        self.actions.append((what, action))

    def given(self, stream: Stream, chunk: Chunk) -> None:
        """A chunk was allocated: what a stream does with it comes behind its own work."""
        # Every launch gives it to all its owners of the capture, one after the other.
        chunk.size = self._sizes[chunk] = max(chunk.size, self._sizes.get(chunk, 0))
        log = self._logs.setdefault(chunk, {})
        mine = log[stream.number] = hazards.Uses()
        mine.last = stream.tick
        mine.places[chunk.ptr, chunk.ptr + chunk.size, True] = (stream.tick, "its allocation")

    def end(self, stream: Stream) -> Graph:
        """The graph.

        Raises:
            CUDARuntimeError: work on another stream was not waited for, another stream began it,
                or something was not allowed.
        """
        if stream is not self.origin:
            raise CUDARuntimeError(903)
        self.ended = True
        late = [s for s in self.streams if s.tick > stream.clock.get(s.number, 0)]
        for each, clock in self.streams.items():
            # What was waited for in the capture has not happened.
            each.capture, each.clock = None, {**clock, each.number: each.tick}
        if self.broken:
            raise CUDARuntimeError(901, self.broken)
        if late:
            raise CUDARuntimeError(904, f"work of {late[0]} after the last event waited for")
        return Graph(self)


class Graph:
    """Work that was captured, to be done as often as wanted."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._device = recording.origin.device_id
        self._generations = {use[0]: use[0].generation for use in recording.uses}
        self.graph = self.graphExec = id(self)

    def launch(self, stream: Stream | None = None) -> None:
        """Do it once on a stream (default: the current one).

        Raises:
            MemoryFault: somebody else has memory that the graph uses.
        """
        from support.emulated_gpu import streams

        stream = streams.current() if stream is None else stream
        streams.no_capture("Graph.launch()", stream)
        state.counts["graph launches"] += 1
        state.log.append(("graph launch", stream.ptr))
        stream.settle()
        with state.LOCK:
            for chunk, generation in self._generations.items():
                if chunk.generation != generation:
                    raise MemoryFault(
                        f"a graph uses {chunk.size} bytes of memory at {chunk.ptr:#x} that were "
                        "given to somebody else after its capture: capture with a pool of its "
                        "own, and keep that pool and all arrays from outside as long as the graph"
                    )
            tick = stream.begin()
            for write in (False, True):
                places = [(c, a, b) for c, a, b, w in self._recording.uses if w == write]
                hazards.use(stream, "a graph", tick, places, write)
        if not self._recording.waits:
            self._run()
            return
        # Others may have to launch theirs before this one can end: it does not stop the host.
        whole = Pending("a graph with collectives", lambda: "some rank has not launched its own")
        stream.pending.append(whole)
        threading.Thread(
            target=self._run_for, args=(whole,), name="emulated GPU", daemon=True
        ).start()

    def _run(self) -> None:
        before, state.thread.replaying = state.thread.replaying, True
        try:
            for what, action in self._recording.actions:
                if what == "NCCL":  # waits for others
                    action()
                else:  # one kernel at a time, as when they are launched
                    with state.LOCK:
                        action()
        finally:
            state.thread.replaying = before

    def _run_for(self, whole: Pending) -> None:
        state.thread.device = self._device
        error: BaseException | None = None
        try:
            self._run()
        except Exception as raised:  # noqa: BLE001 - told to whoever waits
            error = raised
        whole.finish(error)

    def upload(self, stream: Stream | None = None) -> None:
        """Prepare the first launch."""

    def debug_dot_str(self, flags: int = 0) -> str:
        """The graph as text."""
        nodes = "".join(f'  n{i} [label="{w}"];\n' for i, (w, _) in enumerate(self.nodes))
        return f"digraph dot {{\n{nodes}}}\n"

    @property
    def nodes(self) -> list[tuple[str, Callable[[], None]]]:
        """Its work: (name, function)."""
        return self._recording.actions
