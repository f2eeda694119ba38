"""The side of a worker process: receive tasks, make batches, send them back.

Stage: between data set and loader, in a process of its own. It is started by `pool.py` either as
a fresh interpreter or by fork, and lives until its connection closes: it can neither hang nor
survive its parent, because a thread does nothing but wait for that.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from .fetch import EndOfStream, Recipe, Task, make_fetcher
from .shared import Packed, map_block, new_block, pack, unpack
from .streams import all_streams, mix
from .worker_info import WorkerInfo, set_worker_info


@dataclass(slots=True)
class Start:
    """Message: an epoch begins.

    Attributes:
        run: number of the epoch in the life of the pool; echoed in every reply.
        epoch_seed, stream_epoch: replace the recipe's.
        fresh: begin with a new copy of the data set and call the worker_init_fn.
        packed: pickle of (recipe, worker_init_fn); None if it is the one sent before, or if both
            came by fork.
        size: bytes of the shared block whose descriptor follows the message, 0 if none does.
    """

    run: int
    epoch_seed: int
    stream_epoch: int | None
    fresh: bool
    packed: Packed | None
    size: int


@dataclass(slots=True)
class Order:
    """Message: make this batch. `freed` are reply blocks that may be written again."""

    run: int
    task: Task
    freed: list[int]


@dataclass(slots=True)
class Reply:
    """Message: a batch, the end of the stream (`packed` None), or an error (`failure` set).

    Attributes:
        run, number: of the order.
        packed: the batch; its arrays lie in block `block`.
        block: number of the reply block, or -1.
        new_size: size of the block if it is new; its descriptor follows the message.
        failure: pickled exception and its printed traceback.
    """

    run: int
    number: int
    packed: Packed | None = None
    block: int = -1
    new_size: int = 0
    failure: tuple[bytes, str] | None = None


class _Blocks:
    """The reply blocks of this worker, reused once the other side has let go of them."""

    def __init__(self) -> None:
        self._maps: list[Any] = []
        self._free: set[int] = set()

    def release(self, numbers: list[int]) -> None:
        self._free.update(numbers)

    def write(self, packed: Packed) -> tuple[int, int, int]:
        """Returns (block, size if new else 0, descriptor if new else -1)."""
        fitting = [n for n in self._free if len(self._maps[n]) >= packed.size]
        if fitting:
            number = min(fitting, key=lambda n: len(self._maps[n]))
            self._free.discard(number)
            packed.write(self._maps[number])
            return number, 0, -1
        fd, size = new_block(packed.size)
        self._maps.append(map_block(fd, size))
        packed.write(self._maps[-1])
        return len(self._maps) - 1, size, fd


def main(fd: int) -> None:
    """Entry of a fresh interpreter: the connection is file descriptor `fd`."""
    from multiprocessing.spawn import prepare

    connection = Connection(fd)
    worker_id, count, preparation = connection.recv()
    try:
        prepare(preparation)  # imports the user's script, if his objects live in it
    except Exception as err:
        connection.send(Reply(-1, -1, failure=_failure(err)))
        raise
    serve(connection, worker_id, count, None)


def serve(
    connection: Connection,
    worker_id: int,
    count: int,
    inherited: tuple[Recipe, Callable[[int], None] | None] | None,
) -> None:
    """Answer orders until the connection closes; does not return."""
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    orders: queue.SimpleQueue[tuple[Start, Any] | Order] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, orders), daemon=True).start()
    worker = _Worker(connection, worker_id, count, inherited)
    while True:
        message = orders.get()
        try:
            if isinstance(message, Order):
                worker.make(message)
            else:
                worker.start(*message)
        except OSError:
            os._exit(0)  # nobody listens any more


def _read(connection: Connection, orders: queue.SimpleQueue[Any]) -> None:
    """Keep the pipe empty, so that the parent never blocks; end the process when it closes."""
    try:
        while True:
            message = connection.recv()
            if isinstance(message, Start):
                message = (message, reduction.recv_handle(connection) if message.size else -1)
            orders.put(message)
    except (EOFError, OSError):
        os._exit(0)


class _Worker:
    def __init__(self, connection: Connection, worker_id: int, count: int, inherited: Any) -> None:
        self._connection = connection
        self._id, self._count = worker_id, count
        self._recipe: Recipe | None = None
        self._init_fn: Callable[[int], None] | None = None
        self._sent: tuple[Packed, int, int] | None = None  # pickle, descriptor and size of block
        if inherited is not None:
            self._recipe, self._init_fn = inherited
        self._blocks = _Blocks()
        self._fetch: Callable[[Task], Any] | None = None
        self._broken: tuple[bytes, str] | None = None

    def start(self, start: Start, fd: int) -> None:
        if start.packed is not None:
            if self._sent is not None and self._sent[2]:
                os.close(self._sent[1])
            self._sent = (start.packed, fd, start.size)
        self._broken = None
        try:
            if start.fresh and self._sent is not None:
                self._recipe, self._init_fn = self._unpack_sent()
            assert self._recipe is not None
            recipe = replace(
                self._recipe, epoch_seed=start.epoch_seed, stream_epoch=start.stream_epoch
            )
            self._fetch = make_fetcher(recipe, all_streams)
            seed = mix(start.epoch_seed, self._id) >> 1
            set_worker_info(WorkerInfo(self._id, self._count, seed, recipe.dataset))
            if self._init_fn is not None and start.fresh:
                self._init_fn(self._id)
        except Exception as err:
            self._broken = _failure(err)

    def _unpack_sent(self) -> tuple[Recipe, Callable[[int], None] | None]:
        """A new copy of what was sent; its arrays are private, whatever is written to them."""
        assert self._sent is not None
        packed, fd, size = self._sent
        recipe, init_fn = unpack(packed, map_block(fd, size, private=True) if size else None)
        return recipe, init_fn

    def make(self, order: Order) -> None:
        self._blocks.release(order.freed)
        reply = Reply(order.run, order.task.number, failure=self._broken)
        fd = -1
        if reply.failure is None:
            try:
                assert self._fetch is not None
                reply.packed = pack(self._fetch(order.task))
            except EndOfStream:
                pass
            except Exception as err:
                reply.failure = _failure(err)
        if reply.packed is not None and reply.packed.size:
            reply.block, reply.new_size, fd = self._blocks.write(reply.packed)
            reply.packed.arrays = []
        self._connection.send(reply)
        if fd >= 0:
            reduction.send_handle(self._connection, fd, os.getppid())
            os.close(fd)


def _failure(err: Exception) -> tuple[bytes, str]:
    text = "".join(traceback.format_exception(err))
    try:
        return pickle.dumps(err), text
    except Exception:  # an exception may hold anything; its text is enough then
        return b"", text
