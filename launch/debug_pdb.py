"""``breakpoint()`` in one of many rank threads: one prompt, and the other ranks hold.

See ``allgrad.ddp.communicators.hold`` for who may have the terminal when.
"""

from __future__ import annotations

import contextlib
import os
import pdb
import sys
import traceback
from types import FrameType
from typing import Any

from allgrad.ddp.communicators.thread_job import ThreadJob
from allgrad.launch.debug_streams import Screen, current_rank


class RankPdb(pdb.Pdb):
    """The debugger of one rank, at the process's terminal.

    Args:
        rank: whose.
        job: stops the other ranks.
        screen: shows their output afterwards.
    """

    def __init__(self, rank: int, job: ThreadJob, screen: Screen) -> None:
        # our own frames are not stepped into; a signal handler can only be set in the main thread
        super().__init__(skip=["allgrad.launch.debug_*"], nosigint=True)
        self._rank, self._job, self._screen = rank, job, screen
        self.prompt = f"(Pdb rank {rank}) "
        assert sys.__stdin__ is not None
        assert sys.__stdout__ is not None
        self.stdin, self.stdout = sys.__stdin__, sys.__stdout__
        # with a terminal: line editing and history
        self.use_rawinput = sys.__stdin__.isatty() and sys.__stdout__.isatty()

    def interaction(self, *args: Any, **kwargs: Any) -> None:
        """One prompt, from its first line to the command that leaves it."""
        taking_turns = self._job.schedule is None
        with self._job.hold.prompt(self._rank, taking_turns, self._cancelled):
            self._screen.close(self._rank)  # an unfinished line, a bar
            if not self._cancelled():
                super().interaction(*args, **kwargs)
        self._screen.release()
        if self._cancelled():
            self.set_quit()

    def get_stack(self, f: FrameType | None, t: Any) -> tuple[list[tuple[FrameType, int]], int]:
        """The frames of the script; those of the thread below it say nothing to the user."""
        stack, index = super().get_stack(f, t)
        own = 0
        while own < len(stack) - 1 and _is_ours(stack[own][0]):
            own += 1
        return stack[own:], max(index - own, 0)

    def _cancelled(self) -> bool:
        """Whether the job is over: another rank has failed, or its user has quit."""
        return self._job.error is not None

    def set_continue(self) -> None:
        super().set_continue()
        self._job.hold.end_session(self._rank)

    def set_quit(self) -> None:
        super().set_quit()
        self._job.hold.end_session(self._rank)


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.startswith(("allgrad.launch.", "allgrad.ddp.communicators.thread", "threading"))


class Debuggers:
    """The debuggers of all ranks; `install` makes ``breakpoint()`` and ``pdb.set_trace()`` ours."""

    def __init__(self, job: ThreadJob, screen: Screen) -> None:
        self._job, self._screen = job, screen
        self._of_rank: dict[int, RankPdb] = {}

    def install(self) -> None:
        """Replace the hook of ``breakpoint()``, unless PYTHONBREAKPOINT asks for another one."""
        self._breakpointhook = sys.breakpointhook
        self._set_trace = pdb.set_trace
        sys.breakpointhook = self._on_breakpoint
        pdb.set_trace = self._on_set_trace

    def of(self, rank: int) -> RankPdb:
        """The debugger of a rank; it keeps its breakpoints."""
        if rank not in self._of_rank:
            self._of_rank[rank] = RankPdb(rank, self._job, self._screen)
        return self._of_rank[rank]

    def _on_breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        rank, wanted = current_rank(), os.environ.get("PYTHONBREAKPOINT", "")
        if rank is None or wanted == "0":
            return self._breakpointhook(*args, **kwargs)
        if wanted:
            with self._job.hold.prompt(rank, self._job.schedule is None):
                result = self._breakpointhook(*args, **kwargs)
            self._job.hold.end_session(rank)
            self._screen.release()
            return result
        self._begin(rank, sys._getframe(1))
        return None

    def _on_set_trace(self, *args: Any, **kwargs: Any) -> None:
        rank = current_rank()
        if rank is None:
            self._set_trace(*args, **kwargs)
        else:
            self._begin(rank, sys._getframe(1))

    def _begin(self, rank: int, frame: FrameType) -> None:
        # last: whatever is called after it in this thread would be stepped into
        self.of(rank).set_trace(frame)

    def post_mortem(self, rank: int, error: BaseException) -> None:
        """Show where a rank has failed, and a prompt there, before the job ends."""
        trace = error.__traceback__
        while trace is not None and _is_ours(trace.tb_frame):
            trace = trace.tb_next
        if trace is None or self._job.error is not None:
            return
        debugger = self.of(rank)
        lines = "".join(traceback.format_exception(type(error), error, trace))
        self._screen.say(f"{lines.rstrip()}\nallgrad: rank {rank} has failed; the others hold")
        with contextlib.suppress(Exception):
            sys.last_traceback = trace
        debugger.reset()
        debugger.interaction(None, trace)
        self._job.hold.end_session(rank)
