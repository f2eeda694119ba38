"""Looks after the collectives of GPUs: one that fails, or does not end, ends the job with a report.

Stage of the flow: a thread beside `nccl`. Imports CuPy. May import: `gpu_base`, `nccl_types`,
`allgrad.ddp.diagnosis`.

Note [Stuck collectives]
    The host does not wait for the GPU, so nobody would notice a collective that never ends. This
    thread asks NCCL for errors of its own (a connection that broke), and watches the oldest
    collective that the GPU has not finished: if it stays the oldest for longer than the time-out,
    something is wrong. Then all ranks are heard over the host's communicator; a rank that has not
    issued that collective at all is the one that is late. The communicator is aborted, which ends
    its kernels, and the error ends the job as one of the rank's own would.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import cupy

from allgrad.backend.cuda import device
from allgrad.ddp.communicators.nccl_types import explained
from allgrad.ddp.diagnosis.causes import STUCK, Finding
from allgrad.ddp.diagnosis.report import compose
from allgrad.ddp.diagnosis.statement import Speaker
from allgrad.errors import DistributedError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.nccl import NcclCommunicator

PERIOD_S = 0.25  # between two looks


class Watch:
    """The watch thread of one communicator; ends with it.

    Args:
        communicator: whose collectives are looked after.

    Attributes:
        closed: set where the thread is to end.
    """

    def __init__(self, communicator: NcclCommunicator) -> None:
        self._communicator = weakref.ref(communicator)
        self.closed = threading.Event()
        self._oldest = (0, 0.0)  # the oldest collective, since when it is that
        self._speaker = Speaker(communicator.rank, communicator.records, threading.get_ident(), 0)
        self._thread = threading.Thread(target=self._run, name="allgrad GPU watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; idempotent."""
        self.closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        communicator = self._communicator()
        if communicator is None:
            return
        cupy.cuda.Device(communicator.index).use()
        del communicator
        while not self.closed.wait(PERIOD_S):
            communicator = self._communicator()
            if communicator is None:
                return
            finding = self._look(communicator)
            if finding is not None:
                self._end(communicator, finding)
                return
            del communicator

    def _look(self, communicator: NcclCommunicator) -> Finding | None:
        """What is wrong, if anything."""
        oldest = self._oldest_under_way(communicator)
        communicator.records.oldest = oldest
        try:
            communicator.comm.check_async_error()
        except Exception as error:
            told = explained(error)
            if told is None:
                raise
            return Finding(STUCK, oldest, (), 0.0, told)
        now = communicator.now()
        replay = communicator.replay
        limit_s = communicator.control.timeout_s
        if replay is not None and now - replay.since_s > limit_s and self._stands(communicator):
            communicator.records.oldest = replay.sequence
            return Finding(STUCK, replay.sequence, (), limit_s)
        if oldest != self._oldest[0]:
            self._oldest = (oldest, now)
        waited_s = now - self._oldest[1]
        if oldest and waited_s > limit_s:
            return Finding(STUCK, oldest, (), limit_s)
        return None

    def _stands(self, communicator: NcclCommunicator) -> bool:
        """Whether the stream of the last replay, launched long ago, is still busy with it."""
        replay = communicator.replay
        if replay is None or device.capturing(communicator.index):  # such a stream cannot be asked
            return False
        return not replay.stream.done

    def _oldest_under_way(self, communicator: NcclCommunicator) -> int:
        """Sequence of the oldest collective that the device has not finished; 0: none."""
        for work in list(communicator.under_way):
            if not work.done.done:
                return work.sequence
        return 0

    def _end(self, communicator: NcclCommunicator, finding: Finding) -> None:
        """Report, abort the communicator, end the job. See Note [Stuck collectives]."""
        error = communicator.control.alarm(finding)
        if error is None:  # the others cannot be heard: say what this rank knows
            own = {communicator.rank: self._speaker.statement()}
            error = DistributedError(f"{communicator.where} {compose(finding, own)}")
        communicator.stop(error)
        communicator.control.fail(error)
