"""Backward inside of a CUDA graph: what ranks agree on when it is captured, and when replayed.

Stage of the flow: beside `reducer`, on GPUs. May import: `gate`, `layout`, `tail`, `options`,
`communicators.gpu`, `allgrad`.

Note [Captured steps]
    A replay runs no Python: it can neither send a step header nor look at a tail. So ranks agree
    while the step is captured, by the same header and tail as ever, which are the host's business:
    that all of them capture it, with which samples (and so shares), with which parameters used and
    frozen. All of this stays as it is in every replay. Hence the model must be wrapped with
    static_graph=True, and must have made steps before, in which the buckets got their final order.
    Replays are counted as steps. Every `check_replicas_every` of them (and `LAG_STEPS` later) the
    ranks meet by a header, in which the replicas are compared as ever; there a rank that replays no
    longer is found. Between two meetings the watch thread of `communicators.nccl_watch` looks after
    the replays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.gpu import NCCL
from allgrad.ddp.gate import Header
from allgrad.ddp.layout import Layout
from allgrad.ddp.options import Options
from allgrad.ddp.tail import Unused
from allgrad.errors import DistributedError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.nccl import NcclCommunicator
    from allgrad.ddp.reducer import Reducer


def begin(reducer: Reducer, layout: Layout, options: Options, unused: Unused) -> bool:
    """At the beginning of a backward on GPUs: whether it is captured, which is then prepared.

    Raises:
        DistributedError: it cannot be captured; says what to do before.
    """
    from allgrad.backend.cuda import device  # noqa: PLC0415 - needs CuPy

    if not device.capturing():
        return False
    problem = obstacle(layout, options, unused)
    if problem:
        reducer.abandon()
        raise DistributedError(
            f"{reducer.gate.communicator.where} backward of {reducer.label} cannot be captured as "
            f"a CUDA graph: {problem}"
        )
    device.on_replay(Replays(reducer, layout.arrays))
    return True


def obstacle(layout: Layout, options: Options, unused: Unused) -> str:
    """Why the step cannot be captured, and what to do; "" if it can."""
    if layout.arrays.name != NCCL:
        return (
            "its gradients travel through main memory, which needs the host. Use NCCL, with one "
            "GPU for each rank"
        )
    if not options.static:
        return (
            "replays use the same parameters in every step, so wrap the model with "
            "DistributedDataParallel(model, static_graph=True)"
        )
    if not layout.buckets or not unused.settled:
        return (
            "its buckets get their order in the first steps. Make some steps before cuda.capture, "
            "the same number on every rank"
        )
    return ""


class Replays:
    """Called before every replay of a captured backward. See Note [Captured steps].

    Args:
        reducer: of the wrapped model.
        arrays: NCCL's communicator.
    """

    def __init__(self, reducer: Reducer, arrays: Communicator) -> None:
        self._reducer, self._arrays = reducer, cast("NcclCommunicator", arrays)
        self._count = 0

    def __call__(self) -> None:
        reducer, communicator = self._reducer, self._reducer.gate.communicator
        self._count += 1
        reducer.steps += self._count > 1  # the first one was counted when it was captured
        communicator.step = reducer.steps
        self._arrays.begin_replay(f"replay {self._count} of a CUDA graph")
        checked = reducer.prints.at(reducer.steps, reducer.check_every)
        if checked is None:
            return
        reducer.captured = True
        header = Header(communicator, [*reducer.row(), checked])
        reducer.captured = False
        header.arrived(wait=True)
        reducer.gate.judge(header)
