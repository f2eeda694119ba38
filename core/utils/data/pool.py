"""The side of the loader: start worker processes, hand out tasks, collect batches in order.

Stage: between data set and loader. Every worker has a connection of its own and there is no lock
between processes, so a worker that is killed can neither block another one nor go unnoticed.

Note [Start of workers]
    A worker is a fresh interpreter by default. It inherits no thread, no OpenMP team and no MPI
    state, all of which `fork` would copy in an unusable condition, and it imports the user's
    script only if the data set refers to objects defined there. A script that has no
    ``if __name__ == "__main__":`` cannot be imported, and some data sets cannot be pickled (a
    lambda in a transform); then `fork` is used, and the logger says so. Either can be asked for.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from ...errors import DatasetError, OptionError
from .fetch import Recipe, Task
from .shared import Leases, Packed, map_block, new_block, pack
from .worker import Order, Reply, Start, serve

_log = logging.getLogger(__name__)

# All connections of this process to its workers, and a lock while workers are being started: file
# descriptors belong to the process, whatever the thread.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
_launching = threading.RLock()  # a worker that is forked meanwhile may start workers itself

METHODS = ("spawn", "fork")
_MAX_LEASES = 64
_EXIT_PATIENCE_S = 5.0
# Connections of this rank to its launcher: a worker that happens to import MPI must not use them.
_LAUNCHER_VARIABLES = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "HYDI_")
# The processes are the parallelism; a team of threads in each would only fight over the cores.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


class _Worker:
    """One process and its connection."""

    def __init__(self, connection: Connection, pid: int, process: subprocess.Popen[bytes] | None):
        self.connection = connection
        self.pid = pid
        self.leases = Leases(_MAX_LEASES)
        self._process = process

    def exit_code(self, patience_s: float = _EXIT_PATIENCE_S) -> int | None:
        """Its exit code, negative for a signal; None if it does not end in time."""
        if self._process is not None:
            try:
                return self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                return None
        import time

        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None


def _close(workers: list[_Worker]) -> None:
    """End all workers: closing the connection is the signal, killing the last resort."""
    with _launching:  # a worker forked half-way through would close what the number belongs to next
        for worker in workers:
            worker.connection.close()
    for worker in workers:
        if worker.exit_code() is None:
            os.kill(worker.pid, signal.SIGKILL)
            worker.exit_code()
    workers.clear()


class WorkerPool:
    """Worker processes of one loader.

    Args:
        num_workers: how many.
        depth: tasks given to each worker in advance.
        method: "spawn", "fork", or None to choose, see Note [Start of workers].
        timeout_s: longest wait for a batch; 0 waits for ever.
        init_fn: called in every worker with its number before the first batch of an epoch.
        persistent: the data set is sent once, not at every epoch.
    """

    def __init__(
        self,
        num_workers: int,
        depth: int,
        method: str | None,
        timeout_s: float,
        init_fn: Callable[[int], None] | None,
        persistent: bool,
    ) -> None:
        if method is not None and method not in METHODS:
            raise OptionError.unknown("multiprocessing_context", method, METHODS)
        self._count, self._depth = num_workers, depth
        self._method, self._timeout_s = method, timeout_s
        self._init_fn, self._persistent = init_fn, persistent
        self._workers: list[_Worker] = []
        self._run = -1
        self._sent: tuple[Packed, Any] | None = None
        self._owner_pid = os.getpid()
        self._finalizer = weakref.finalize(self, _close, self._workers)

    def close(self) -> None:
        """End the workers."""
        self._finalizer()

    def discard_in_child(self) -> None:
        """Forget the workers of the parent, after a fork."""
        self._finalizer.detach()

    @property
    def usable(self) -> bool:
        """False in a process that only inherited the pool, or after it was closed."""
        return self._finalizer.alive and self._owner_pid == os.getpid()

    def start(self, recipe: Recipe) -> None:
        """Begin an epoch; abandons what is left of the one before."""
        self._run += 1
        epoch = recipe.epoch_seed, recipe.stream_epoch
        recipe = replace(recipe, epoch_seed=0, stream_epoch=None)
        if not self._workers:
            packed, method = self._choose(recipe)
            needs_script = packed is not None and b"__main__" in packed.payload
            self._launch(method, recipe, _preparation(needs_script))
            self._reusable = method == "spawn" or self._persistent
            self._broadcast(epoch, True, packed)
        elif self._persistent:
            self._broadcast(epoch, False, None)
        else:
            packed = pack((recipe, self._init_fn))
            unchanged = self._sent is not None and packed.equals(*self._sent)
            self._broadcast(epoch, True, None if unchanged else packed)

    @property
    def reusable(self) -> bool:
        """False if the next epoch needs new processes, because the data set came by fork."""
        return self._reusable

    def _choose(self, recipe: Recipe) -> tuple[Packed | None, str]:
        if self._method == "fork":
            return None, "fork"
        try:
            packed = pack((recipe, self._init_fn))
        except (pickle.PicklingError, AttributeError, TypeError) as err:
            if self._method == "spawn":
                raise DatasetError(
                    f"DataLoader: the data set cannot be sent to worker processes: {err}. Define "
                    "its classes and functions at the top of a module, use "
                    "multiprocessing_context='fork', or num_workers=0 with prefetch_factor=2"
                ) from err
            _log.info("DataLoader forks its workers: the data set cannot be pickled (%s)", err)
            return None, "fork"
        if b"__main__" in packed.payload and not _script_is_importable():
            if self._method == "spawn":
                raise DatasetError(
                    "DataLoader: the data set uses objects of a script that workers cannot "
                    "import; put its training under: if __name__ == '__main__':"
                )
            _log.info("DataLoader forks its workers: the script has no __name__ guard")
            return None, "fork"
        return packed, "spawn"

    def _launch(self, method: str, recipe: Recipe, preparation: dict[str, Any]) -> None:
        # a worker forked while another thread has made a connection, but not yet passed it on,
        # would keep it open for ever
        with _launching:
            self._launch_all(method, recipe, preparation)

    def _launch_all(self, method: str, recipe: Recipe, preparation: dict[str, Any]) -> None:
        for worker_id in range(self._count):
            ours, theirs = socket.socketpair()
            connection = Connection(ours.detach())
            _connections.add(connection)
            if method == "fork":
                self._fork(connection, theirs, worker_id, recipe)
            else:
                self._spawn(connection, theirs)
                connection.send((worker_id, self._count, preparation))

    def _spawn(self, connection: Connection, theirs: socket.socket) -> None:
        fd = theirs.fileno()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from allgrad.utils.data.worker import main; main({fd})"
        )
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER_VARIABLES)
        } | _ONE_THREAD
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._workers.append(_Worker(connection, process.pid, process))

    def _fork(
        self, connection: Connection, theirs: socket.socket, worker_id: int, recipe: Recipe
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():  # forking was asked for, or logged with its reason
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                # of other loaders and of other ranks' threads, too: their workers end when the last
                # copy of the connection closes
                for other in list(_connections):
                    other.close()
                self.discard_in_child()
                serve(Connection(theirs.detach()), worker_id, self._count, (recipe, self._init_fn))
            except BaseException:  # whatever it is, the child must not return into user code
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        theirs.close()
        self._workers.append(_Worker(connection, pid, None))

    def _broadcast(
        self, epoch: tuple[int, int | None], fresh: bool, packed: Packed | None
    ) -> None:
        size, fd = 0, -1
        if packed is not None:
            memory = None
            if packed.size:
                fd, size = new_block(packed.size)
                memory = map_block(fd, size)
                packed.write(memory)
                packed.arrays = []
            self._sent = (packed, memory)  # the workers map the same pages, so this costs nothing
        try:
            for worker in self._workers:
                try:
                    worker.connection.send(Start(self._run, *epoch, fresh, packed, size))
                    if size:
                        reduction.send_handle(worker.connection, fd, worker.pid)
                except OSError:
                    raise self._death(worker, None) from None
        finally:
            if size:
                os.close(fd)

    def batches(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
        """Hand the tasks to the workers in turn and yield their batches in the same order."""
        turn = deque(range(len(self._workers)))
        waiting: deque[tuple[Task, int]] = deque()
        run, more = self._run, True
        while True:
            while more and turn and len(waiting) < self._depth * len(turn):
                task = next(tasks, None)
                if task is None:
                    more = False
                    break
                self._send(turn[0], Order(run, task, self._workers[turn[0]].leases.take_free()))
                waiting.append((task, turn[0]))
                turn.rotate(-1)
            if not waiting:
                return
            task, worker_id = waiting.popleft()
            reply = self._receive(worker_id, task)
            if reply.packed is None:  # this worker's part of the stream is over
                if worker_id in turn:
                    turn.remove(worker_id)
                continue
            yield task, self._workers[worker_id].leases.unpack(reply.packed, reply.block)

    def _send(self, worker_id: int, order: Order) -> None:
        # A dead worker is reported when its first missing batch is due, not here: the ones it
        # finished before are still to be had.
        with contextlib.suppress(OSError):
            self._workers[worker_id].connection.send(order)

    def _receive(self, worker_id: int, task: Task) -> Reply:
        worker = self._workers[worker_id]
        while True:
            if self._timeout_s and not worker.connection.poll(self._timeout_s):
                raise self._lateness(worker, task)
            try:
                reply = self._next_reply(worker)
            except (EOFError, ConnectionError):
                raise self._death(worker, task) from None
            if reply.failure is not None and reply.run in (self._run, -1):
                raise _failure(reply.failure, worker_id, worker.pid)
            if reply.run == self._run:
                return reply
            worker.leases.drop(reply.block)  # left over from an abandoned epoch

    def _next_reply(self, worker: _Worker) -> Reply:
        try:
            reply: Reply = worker.connection.recv()
        except ConnectionResetError:  # it died with orders unread; its last replies come now
            reply = worker.connection.recv()
        if reply.new_size:
            fd = reduction.recv_handle(worker.connection)
            worker.leases.add(reply.block, fd, reply.new_size)
        return reply

    def _lateness(self, worker: _Worker, task: Task) -> DatasetError:
        os.kill(worker.pid, signal.SIGKILL)
        self.close()
        return DatasetError(
            f"DataLoader: worker process {worker.pid} gave no result for {task} within "
            f"timeout={self._timeout_s} s; it was ended. Raise timeout, or look at what "
            "the data set does there"
        )

    def _death(self, worker: _Worker, task: Task | None) -> DatasetError:
        code = worker.exit_code()
        self.close()
        if code is None:
            how = "closed its connection"
        elif code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            how = f"was killed by signal {name}"
            if -code == signal.SIGKILL:
                how += " (out of memory, or by hand)"
        else:
            how = f"exited with code {code}; its own message stands above"
        doing = f"while making {task}" if task is not None else "before the first batch"
        return DatasetError(f"DataLoader: worker process {worker.pid} {how} {doing}")


def _failure(failure: tuple[bytes, str], worker_id: int, pid: int) -> Exception:
    """The worker's exception again, with the worker's traceback as a note."""
    pickled, text = failure
    try:
        err = pickle.loads(pickled) if pickled else None
    except Exception:  # its class may not survive pickling; the text does
        err = None
    if not isinstance(err, Exception):
        err = DatasetError("DataLoader: a worker process failed; its traceback follows")
    err.add_note(f"raised in DataLoader worker {worker_id} (process {pid}):\n{text}")
    return err


def _preparation(needs_script: bool) -> dict[str, Any]:
    """What `multiprocessing.spawn.prepare` needs; the script only if objects live in it."""
    data: dict[str, Any] = {"sys_argv": sys.argv, "dir": os.getcwd()}
    if needs_script:
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            data["init_main_from_name"] = spec.name
        else:
            data["init_main_from_path"] = os.path.abspath(str(main.__file__))
    return data


def _script_is_importable() -> bool:
    """True if the main module has a file with an ``if __name__ ...`` at its top level."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    return any(
        isinstance(name, ast.Name) and name.id == "__name__"
        for node in tree.body
        if isinstance(node, ast.If)
        for name in ast.walk(node.test)
    )
