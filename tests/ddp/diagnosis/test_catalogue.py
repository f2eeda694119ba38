"""The catalogue of faults: what allgrad says to each, on ranks that are threads.

`docs/faults.md` is the table for users; `test_catalogue_mpi.py` repeats faults on processes and has
those that only processes know.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn
from allgrad.ddp.communicators.tree import TreeSum
from allgrad.ddp.process_group import default_group
from allgrad.errors import DistributedError

HERE = r"test_catalogue\.py:\d+ in \w+"


@dataclass(frozen=True)
class Fault:
    """One row: `words` are patterns that the text of every rank that raises must have."""

    body: Callable[[int], Any]
    words: tuple[str, ...]
    ranks: tuple[int, ...] = (0, 1, 2)  # all of these must raise
    timeout_s: float = 20.0


FAULTS: dict[str, Fault] = {}


def fault(*words: str, ranks: tuple[int, ...] = (0, 1, 2), timeout_s: float = 20.0) -> Any:
    def add(body: Callable[[int], Any]) -> Callable[[int], Any]:
        FAULTS[body.__name__] = Fault(body, words, ranks, timeout_s)
        return body

    return add


def ones(count: int = 4, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(count, dtype)


# ---- collectives that differ ---------------------------------------------------------------------


@fault(
    rf"rank 1: calls barrier, at .*{HERE}: ddp\.barrier\(\)",
    rf"ranks 0, 2: calls all_reduce of 16 bytes \(float32, sum\), at .*{HERE}: ddp\.all_reduce",
    "Likely cause: rank 1 took another branch than the others",
    r"under `if rank == 1` \(line \d+\)",
)
def different_collective(rank: int) -> None:
    if rank == 1:
        ddp.barrier()
    else:
        ddp.all_reduce(ones())


@fault("of 16 bytes", "of 20 bytes", "another size on rank 2", "drop_last=True")
def different_size(rank: int) -> None:
    ddp.all_reduce(ones(5 if rank == 2 else 4))


@fault("float32", "float64", "another dtype on rank 1: autocast", "same precision")
def different_dtype(rank: int) -> None:
    ddp.all_reduce(ones(4, np.float64 if rank == 1 else np.float32))


@fault("another dtype on rank 1: autocast")
def autocast_on_one_rank(rank: int) -> None:
    x = ag.tensor(np.ones((2, 8), np.float32))
    with ag.autocast("cpu", dtype=ag.bfloat16, enabled=rank == 1):
        y = nn.Linear(8, 4)(x)
    ddp.all_reduce(y.detach())


@fault("rank 1 reduces with 'max', the others with 'sum'", "same op on all ranks")
def different_reduction(rank: int) -> None:
    ddp.all_reduce(ones(), "max" if rank == 1 else "sum")


@fault("different sources", "`src` must be the same number on all ranks")
def different_root(rank: int) -> None:
    ddp.broadcast(ones(), src=rank)  # every rank is its own source, and waits for nobody
    ddp.barrier()


@fault(r"rank 7 is not in the group of the ranks \[0, 1, 2\]", ranks=(0, 1, 2))
def root_that_is_no_rank(rank: int) -> None:
    ddp.broadcast(ones(), src=7)


@fault("two calls in another order", HERE)
def other_order(rank: int) -> None:
    if rank == 2:
        ddp.broadcast(ones())
        ddp.all_reduce(ones())
    else:
        ddp.all_reduce(ones())
        ddp.broadcast(ones())


@fault("rank 1: calls barrier", HERE)
def sum_over_a_tree_on_some_ranks(rank: int) -> None:
    if rank == 1:
        ddp.barrier()
    else:
        communicator = default_group().communicator
        communicator.reduce_tree(TreeSum.of(3, 3), ones(), [], mean=True).wait()


@fault(r"rank 1 skipped the call at .*after `if rank == 1 and step == 2: continue`")
def skipped_by_continue(rank: int) -> None:
    for step in range(4):
        ddp.all_reduce(ones())
        if rank == 1 and step == 2:
            continue
        ddp.broadcast(ones())


def _prepare(rank: int, step: int) -> None:
    if (rank, step) == (1, 3):
        raise ValueError("a bad sample")


@fault("rank 1 is one collective ahead: it did not make the call at", "A branch was skipped")
def skipped_by_a_caught_exception(rank: int) -> None:
    for step in range(4):
        try:
            _prepare(rank, step)
            ddp.all_reduce(ones())
        except ValueError:
            pass
        ddp.broadcast(ones())


@fault("rank 0 made an extra call at|rank 0 took another branch", r"under `if rank == 0.*` \(line")
def extra_collective(rank: int) -> None:
    for step in range(4):
        ddp.all_reduce(ones())
        if rank == 0 and step == 2:
            ddp.barrier()


@fault(
    r"\[rank [12]/3, number [01] of group \(1, 2\)\] ranks call different collectives",
    "rank 1: calls barrier",
    "rank 2: calls all_reduce of 16 bytes",
    ranks=(1, 2),
)
def mismatch_in_a_group(rank: int) -> None:
    group = ddp.new_group([1, 2])
    if rank == 0:
        return
    if rank == 1:
        ddp.barrier(group)
    else:
        ddp.all_reduce(ones(), group=group)


@fault("rank", "group", ranks=(0, 1, 2))
def groups_that_do_not_fit(rank: int) -> None:
    ddp.new_group([0, 1] if rank == 0 else [0, 1, 2])


# ---- ranks that end ------------------------------------------------------------------------------


@fault(
    "waits in all_reduce of 16 bytes .*which rank 2 will never have arrived at: the program ended",
    "rank 2: has ended; its last collective was all_reduce",
    "same number of batches",
    ranks=(0, 1),
)
def fewer_iterations(rank: int) -> None:
    for _ in range(3 if rank == 2 else 4):
        ddp.all_reduce(ones())


@fault("rank 1 will never", r"stands after `if rank == 1: return` \(line", ranks=(0, 2))
def early_return(rank: int) -> None:
    ddp.barrier()
    if rank == 1:
        return
    ddp.all_reduce(ones())


@fault(r"ranks? [02](, 2)? will never have arrived at", "under `if rank == 1` ", ranks=(1,))
def collective_on_one_rank(rank: int) -> None:
    if rank == 1:
        ddp.barrier()


@fault("rank 0 will never have arrived at", "has ended", ranks=(1, 2))
def exit_with_zero(rank: int) -> None:
    if rank == 0:
        raise SystemExit(0)
    ddp.barrier()


@fault(r"rank 1/3\]|boom|SystemExit")
def exit_with_three(rank: int) -> None:
    if rank == 1:
        raise SystemExit("boom")
    ddp.barrier()


@fault("boom in the third batch")
def exception_on_one_rank(rank: int) -> None:
    ddp.barrier()
    if rank == 1:
        raise ValueError("boom in the third batch")
    ddp.barrier()


# ---- ranks that do not come ----------------------------------------------------------------------


@fault(
    r"waited 0\.5 s in barrier; not arrived at it: rank 1:",
    rf"rank 1: computes at .*{HERE}: .*; it has made no collective",
    "an endless loop",
    ranks=(0, 2),
    timeout_s=0.5,
)
def endless_loop(rank: int) -> None:
    stop = time.thread_time() + 0.9  # of the processor: lasts longer where others want it, too
    while rank == 1 and time.thread_time() < stop:
        sum(range(1000))
    ddp.barrier()


@fault(rf"rank 1: sleeps at .*{HERE}: time\.sleep\(1\.5\)", ranks=(0, 2), timeout_s=0.5)
def asleep(rank: int) -> None:
    if rank == 1:
        time.sleep(1.5)
    ddp.barrier()


@fault(
    rf"rank 1: waits in a receive of 16 bytes from rank 2, tag 3 at .*{HERE}: default_group",
    "rank 1 waits in a receive .* for which nobody has done the other half",
    "before the other side goes on to a collective",
    timeout_s=1.0,
)
def receive_without_a_send(rank: int) -> None:
    x = ones()
    if rank == 1:
        default_group().communicator.irecv(x, 2, 3).wait(30.0)  # the others' time is over before
    ddp.barrier()


class _Hanging(ag.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        time.sleep(1.5)
        return np.zeros(1, np.float32)


@fault(
    rf"rank 1: sleeps in the data loader at .*{HERE}: time\.sleep",
    rf"called from .*{HERE}: for _ in loader",
    "the data set or its source hangs there",
    ranks=(0, 2),
    timeout_s=0.5,
)
def data_loader_hangs(rank: int) -> None:
    if rank == 1:
        loader = ag.utils.data.DataLoader(_Hanging(), batch_size=1)
        for _ in loader:
            break
    ddp.barrier()


@fault(
    rf"rank 1: waits for a lock or another thread at .*{HERE}: lock\.acquire",
    "a lock is held by another thread or taken twice",
    ranks=(0, 2),
    timeout_s=0.5,
)
def deadlock_on_a_lock(rank: int) -> None:
    if rank == 1:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire(timeout=1.5)
    ddp.barrier()


# ---- models that differ --------------------------------------------------------------------------


def wrapped(
    rank: int, model: Callable[[], nn.Module], other: Callable[[], nn.Module], **o: Any
) -> Any:
    ag.manual_seed(0)
    return ddp.DistributedDataParallel(other() if rank == 1 else model(), **o)


@fault("different models", r"'weight' of shape \(2, 3\)", r"\(2, 5\)", "rank 1", "rank 0, 2")
def other_shape(rank: int) -> None:
    wrapped(rank, lambda: nn.Linear(3, 2), lambda: nn.Linear(5, 2))


@fault("different models", "float64", "float32")
def other_dtype_of_parameters(rank: int) -> None:
    wrapped(rank, lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 2).double())


@fault("different models", "'bias'", "none, the model ends before it")
def other_number_of_parameters(rank: int) -> None:
    wrapped(rank, lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 2, bias=False))


def _frozen() -> nn.Module:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    return model


@fault("different models", "requires_grad=False", "requires_grad=True")
def other_frozen_parameters(rank: int) -> None:
    wrapped(rank, lambda: nn.Linear(3, 2), _frozen)


# ---- training that goes apart --------------------------------------------------------------------


def train(rank: int, change: Callable[[nn.Module, int], None], **options: Any) -> None:
    """Six steps; `change` may do something to the model after each."""
    ag.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = ddp.DistributedDataParallel(module, check_replicas_every=2)
    optimizer = ag.optim.SGD(model.parameters(), lr=options.get("lr", 0.1))
    x = ag.tensor(np.random.default_rng(rank).standard_normal((3, 4)).astype(np.float32))
    for step in range(6):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        change(module, step)


@fault(
    r"replicas of Sequential .* differ at step 4: parameter '2\.weight' is the first of 1 that",
    r"ranks 0, 2 agree, rank 1 do(es)? not: rank 1: 1 of 16 elements, by at most .*one bit of elem",
    "Likely cause: a bit flipped in the memory of rank 1: faulty memory",
    r"at .*test_catalogue\.py:\d+",
)
def bit_flip(rank: int) -> None:
    def change(module: nn.Module, step: int) -> None:
        if (rank, step) == (1, 2):
            module[2].weight._array.view(np.uint32)[0, 3] ^= 1 << 12

    train(rank, change)


@fault("differ at step 2: parameter '0.weight' is the first of 4", "another learning rate")
def learning_rate_that_depends_on_the_rank(rank: int) -> None:
    train(rank, lambda module, step: None, lr=0.1 if rank else 0.2)


@fault("differ at step 4", "'0.bias' is the first of 1", "code that changed these parameters")
def parameter_changed_on_one_rank(rank: int) -> None:
    def change(module: nn.Module, step: int) -> None:
        if (rank, step) == (2, 2):
            module[0].bias._array[:2] += 1

    train(rank, change)


@fault("replicas differ: parameter 'weight' is the first of 1", "rank 2: 8 of 8 elements")
def replicas_checked_by_hand(rank: int) -> None:
    ag.manual_seed(0)
    model = nn.Linear(4, 2)
    ddp.check_replicas(model)
    if rank == 2:
        model.weight._array *= 2
    ddp.check_replicas(model)


@fault("backward of .* a different number of times", "enter no_sync.* the same backward calls")
def no_sync_off_by_one(rank: int) -> None:
    model = ddp.DistributedDataParallel(nn.Linear(4, 2))
    x = ag.tensor(np.ones((3, 4), np.float32))
    for step in range(4):
        if step % 2 == 0 and not (rank == 1 and step == 2):
            with model.no_sync():
                model(x).sum().backward()
        else:
            model(x).sum().backward()


@fault("rank 1 makes no further step while", r"model\.join", r"at .*test_catalogue\.py:\d+")
def fewer_batches_without_join(rank: int) -> None:
    model = ddp.DistributedDataParallel(nn.Linear(4, 2))
    x = ag.tensor(np.ones((3, 4), np.float32))
    for _ in range(2 if rank == 1 else 3):
        model(x).sum().backward()
    ddp.barrier()


@fault("different models or options|bucket_cap_mb|options", "rank 1")
def other_bucket_cap(rank: int) -> None:
    cap = 1.0 if rank == 1 else 2.0
    ddp.DistributedDataParallel(nn.Linear(4, 2), bucket_cap_mb=cap)


# ---- numbers and set-up --------------------------------------------------------------------------


@fault("loss is not finite at step 7: nan on rank 2", "first bad batch")
def nan_on_one_rank(rank: int) -> None:
    ddp.check_finite(float("nan") if rank == 2 else 1.0, step=7)


@fault("was told rank=-1, world_size=4", "started rank . of 3")
def other_world_size(rank: int) -> None:
    ddp.destroy_process_group()
    ddp.init_process_group(world_size=4)


@fault("init_process_group was called before; call destroy_process_group first")
def initialised_twice(rank: int) -> None:
    ddp.init_process_group()


@fault("no process group: call allgrad.ddp.init_process_group")
def after_destroy(rank: int) -> None:
    ddp.destroy_process_group()
    ddp.barrier()


@fault("no process group", "this thread is no rank")
def from_another_thread(rank: int) -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            ddp.barrier()
        except DistributedError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise caught[0]


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_diagnosed(name: str, diagnose: Any) -> None:
    row = FAULTS[name]
    raised = diagnose(row.body, timeout=row.timeout_s)
    assert set(raised) >= set(row.ranks), raised
    for rank in row.ranks:
        text = str(raised[rank])
        for words in row.words:
            assert re.search(words, text), f"rank {rank} lacks {words!r}:\n{text}"


def test_the_catalogue_is_large_enough() -> None:
    assert len(FAULTS) >= 30
