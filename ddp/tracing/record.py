"""Recording: from "trace into this folder" to a timeline in every rank, and back.

May import: `clock`, `files`, `layers`, `communicators.base`, `allgrad`. `init_process_group` starts
it where the variables ALLGRAD_TRACE (and ALLGRAD_TRACE_STEPS, ALLGRAD_NVTX) ask for it, and
`destroy_process_group` or the end of the program ends it; `trace` is the same for a part of a
program.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.tracing.clock import align
from allgrad.ddp.tracing.files import RankFile, folder_of, merged_of, parse_steps
from allgrad.timeline import Step, Timeline, activate


class Recorder:
    """Collective. Records this thread's rank from now on.

    Args:
        communicator: of the ranks.
        target: folder, or file that ends in .json; None: no files, for NVTX ranges alone.
        steps: see `parse_steps`.
        nvtx: whether to open NVTX ranges, too.
    """

    def __init__(
        self,
        communicator: Communicator,
        target: Path | None,
        steps: tuple[int, int | None] = (0, None),
        nvtx: bool = False,
    ) -> None:
        self._communicator, self._target = communicator, target
        self._file: RankFile | None = None
        if target is not None:
            offset = align(communicator)
            self._file = RankFile(
                folder_of(target),
                communicator.rank,
                communicator.size,
                socket.gethostname(),
                offset.seconds,
                offset.error_s,
            )
        sink = self._file.write if self._file is not None else _forget
        self._timeline = _timeline(sink, steps, nvtx)
        self._before = activate(self._timeline)
        self._closed = False
        atexit.register(self._leave)
        self._excepthook = sys.excepthook
        sys.excepthook = self._on_exception

    def close(self) -> None:
        """Collective. Stop, and let rank 0 merge the files of all ranks."""
        if self._closed:
            return
        self._leave()
        if self._target is None:
            return
        self._communicator.barrier()
        if self._communicator.rank == 0:
            from allgrad.ddp.tracing.chrome import merge  # noqa: PLC0415 - only at the end

            merge(self._target)
        self._communicator.barrier()

    def _leave(self) -> None:
        """What this rank has recorded is on disk afterwards, the unfinished step, too."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._leave)
        if sys.excepthook == self._on_exception:
            sys.excepthook = self._excepthook
        activate(self._before)
        self._timeline.flush()
        if self._file is not None:
            self._file.close()

    def _on_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """The rank is about to end, maybe without the hooks of a normal end."""
        previous = self._excepthook
        self._leave()
        previous(kind, error, trace)

    def abandon(self) -> None:
        """The rank fails: keep what there is, without the others."""
        self._leave()


def _forget(step: Step) -> None:
    return


def _timeline(sink: Any, steps: tuple[int, int | None], nvtx: bool) -> Timeline:
    if nvtx:
        from allgrad.nvtx import NvtxTimeline  # noqa: PLC0415 - needs CuPy

        return NvtxTimeline(sink, *steps)
    return Timeline(sink, *steps)


def from_environment(
    communicator: Communicator, environ: Mapping[str, str] = os.environ
) -> Recorder | None:
    """Collective where it is asked for. The recorder that the variables ask for, if they do.

    Raises:
        OptionError: ALLGRAD_TRACE_STEPS is no range of steps; CuPy is missing for ALLGRAD_NVTX.
    """
    target, nvtx = environ.get("ALLGRAD_TRACE"), environ.get("ALLGRAD_NVTX", "") not in ("", "0")
    if not target and not nvtx:
        return None
    steps = parse_steps(environ.get("ALLGRAD_TRACE_STEPS"))
    return Recorder(communicator, Path(target) if target else None, steps, nvtx)


@contextmanager
def trace(
    path: str | os.PathLike[str], steps: str | None = None, nvtx: bool = False
) -> Iterator[Path]:
    """Record a timeline of all ranks while the block runs; every rank enters and leaves it.

    Args:
        path: a folder, or a file whose name ends in .json. Ranks of all hosts must see it.
        steps: which steps to record, counted from the begin of the block: "10:20", ":50", "7".
        nvtx: open NVTX ranges, too, for NVIDIA's tools.

    Yields:
        The file that holds the trace of all ranks afterwards: open it in https://ui.perfetto.dev
        or give it to ``allgrad trace``.

    Raises:
        OptionError: `steps` is no range; CuPy is missing for `nvtx`.
        DistributedError: no process group.

    Example:
        >>> import tempfile
        >>> from allgrad import ddp, timeline
        >>> ddp.init_process_group()
        >>> folder = tempfile.TemporaryDirectory()
        >>> with ddp.trace(folder.name) as file:
        ...     with timeline.span("something"):
        ...         pass
        >>> file.name, file.exists()
        ('trace.json', True)
        >>> ddp.destroy_process_group()
        >>> folder.cleanup()
    """
    from allgrad.ddp.process_group import default_group  # noqa: PLC0415 - it imports this module

    target = Path(path)
    group = default_group()
    group.meet()
    recorder = Recorder(group.communicator, target, parse_steps(steps), nvtx)
    try:
        yield merged_of(target)
    except BaseException:
        recorder.abandon()
        raise
    group.meet()
    recorder.close()
