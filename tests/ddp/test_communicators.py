"""The contract of communicators: one class of tests, run on every transport and number of ranks.

The MPI classes run when pytest itself was started by mpiexec; `test_contract_under_mpi` does that.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.communicator_contract import CommunicatorContract

from allgrad import dtypes
from allgrad.ddp import ReduceOp, run_ranks
from allgrad.ddp.communicators import shared
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.hierarchical import HierarchicalCommunicator
from allgrad.ddp.communicators.link import linked
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.communicators.operations import describe_signature, encode_signature
from allgrad.ddp.communicators.thread import ThreadCommunicator, current_thread_rank
from allgrad.errors import DistributedError

IN_MPI = "ALLGRAD_TEST_IN_MPI" in os.environ


class TestLocal(CommunicatorContract):
    def each(self, function: Callable[[Communicator], Any]) -> None:
        function(LocalCommunicator())


@pytest.fixture(params=[1, 2, 3, 4])
def thread_count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def as_threads(
    function: Callable[[Communicator], Any], size: int, timeout_s: float = 20.0
) -> list[Any]:
    def body() -> Any:
        place = current_thread_rank()
        assert place is not None
        return function(ThreadCommunicator(*place, timeout_s))

    return run_ranks(body, size)


class TestThread(CommunicatorContract):
    @pytest.fixture(autouse=True)
    def _size(self, thread_count: int) -> None:
        self.size = thread_count

    def each(self, function: Callable[[Communicator], Any]) -> None:
        as_threads(function, self.size)


class TestLinked(CommunicatorContract):
    """Over a link so fast that only its rules are left."""

    def each(self, function: Callable[[Communicator], Any]) -> None:
        as_threads(lambda c: function(linked(c, "100gb/s,1us")), 3)


# Ranks of each pretended host, for so many ranks: even, ragged, and one rank per host.
HOSTS = {1: [[0]], 2: [[0], [1]], 3: [[0, 2], [1]], 4: [[0, 1], [2, 3]], 5: [[0, 1, 2], [3, 4]]}


class TestHierarchical(CommunicatorContract):
    @pytest.fixture(autouse=True, params=[3, 5])
    def _size(self, request: pytest.FixtureRequest) -> None:
        self.size = request.param

    def each(self, function: Callable[[Communicator], Any]) -> None:
        def body(c: Communicator) -> None:
            function(HierarchicalCommunicator(c, HOSTS[c.size]))

        as_threads(body, self.size)


@pytest.mark.mpi
@pytest.mark.skipif(not IN_MPI, reason="runs inside mpiexec: see test_contract_under_mpi")
class TestMpiHierarchical(CommunicatorContract):
    def each(self, function: Callable[[Communicator], Any]) -> None:
        from allgrad.ddp.communicators import mpi

        flat = mpi.MpiCommunicator(mpi.world()[0], 20.0)
        communicator = HierarchicalCommunicator(flat, HOSTS[flat.size])
        function(communicator)
        communicator.close()


@pytest.mark.mpi
@pytest.mark.skipif(not IN_MPI, reason="runs inside mpiexec: see test_contract_under_mpi")
class TestShm(CommunicatorContract):
    def each(self, function: Callable[[Communicator], Any]) -> None:
        from allgrad.ddp.communicators import mpi, shm

        comm, one_host = mpi.world()
        assert one_host
        communicator = shm.ShmCommunicator(comm, 20.0)
        function(communicator)
        communicator.close()


@pytest.mark.mpi
@pytest.mark.skipif(not IN_MPI, reason="runs inside mpiexec: see test_contract_under_mpi")
class TestMpi(CommunicatorContract):
    def each(self, function: Callable[[Communicator], Any]) -> None:
        from allgrad.ddp.communicators import mpi

        communicator = mpi.MpiCommunicator(mpi.world()[0], 20.0)
        function(communicator)
        communicator.close()


@pytest.mark.mpi
@pytest.mark.skipif(IN_MPI, reason="is the one that starts mpiexec")
@pytest.mark.parametrize("ranks", [2, 4])  # of one rank, `open_communicator` makes a local one
def test_contract_under_mpi(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
    ranks: int,
    shared_files: Callable[[], list[Path]],
) -> None:
    argv = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    argv += ["-k", "TestShm or TestMpi", "--import-mode=importlib"]
    argv += ["-p", "no:pytest_mpi", "-o", "markers=mpi: needs an MPI"]
    done = mpirun(ranks, argv, 240, ALLGRAD_TEST_IN_MPI="1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count(" passed") == ranks
    assert not shared_files(), "MPI left shared memory behind"


# ---- what only communicators with shared memory promise: mistakes are named ----------------------


def test_mismatched_collectives_are_named() -> None:
    def body(c: Communicator) -> None:
        if c.rank == 1:
            c.all_reduce(np.ones(3, np.float32), "max")
        else:
            c.broadcast(np.ones(4), 1)

    with pytest.raises(DistributedError) as caught:
        as_threads(body, 3)
    assert "rank 1: calls all_reduce of 12 bytes (float32, max), at " in str(caught.value)
    assert "ranks 0, 2: calls broadcast of 32 bytes from rank 1, at " in str(caught.value)


def test_different_sizes_are_named() -> None:
    with pytest.raises(DistributedError, match=r"(?s)all_reduce of 8 bytes .*"
                       r"all_reduce of 16 bytes .*another size on rank 1"):  # fmt: skip
        as_threads(lambda c: c.all_reduce(np.ones(c.rank + 1)), 2)


def test_time_out_names_the_late_rank() -> None:
    def body(c: Communicator) -> None:
        if c.rank == 1:
            time.sleep(1.0)
        c.barrier()

    with pytest.raises(DistributedError, match=r"waited 0\.3 s in barrier.*not arrived .*rank 1:"):
        as_threads(body, 3, timeout_s=0.3)


def test_a_rank_that_ended_is_named_at_once() -> None:
    def body(c: Communicator) -> None:
        if c.rank != 2:
            c.barrier()

    begin = time.monotonic()
    with pytest.raises(DistributedError, match=r"rank 2 will never have arrived at"):
        as_threads(body, 3, timeout_s=60)
    assert time.monotonic() - begin < 10


def test_an_exception_in_one_rank_ends_the_others() -> None:
    seen: list[str] = []

    def body(c: Communicator) -> None:
        c.barrier()
        if c.rank == 1:
            raise KeyError("boom")
        try:
            c.barrier()
        except DistributedError as error:
            seen.append(str(error))
            raise

    with pytest.raises(KeyError, match="boom") as caught:
        as_threads(body, 3)
    assert caught.value.__notes__ == ["[rank 1/3]"]
    assert len(seen) == 2
    assert all("[rank 1/3] KeyError: 'boom'" in text for text in seen)


def test_run_ranks_returns_results_in_rank_order() -> None:
    assert as_threads(lambda c: c.rank * 10, 4) == [0, 10, 20, 30]
    assert run_ranks(lambda: exit(0), 2) == [None, None]
    with pytest.raises(SystemExit, match="3"):
        run_ranks(lambda: exit(3), 2)


def test_after_close_every_collective_is_refused() -> None:
    def body(c: Communicator) -> None:
        c.close()
        with pytest.raises(DistributedError, match="after the communicator was closed"):
            c.all_reduce(np.zeros(3))

    as_threads(body, 2)


def test_buckets_are_reduced_where_they_lie() -> None:
    """A view of allocated memory must not take the way of private arrays, which copies."""

    def body(c: Communicator) -> None:
        assert isinstance(c, shared.SharedMemoryCommunicator)
        memory = c.allocate(1 << 12)
        part = memory[256:2048].view(np.float32).reshape(7, -1)[2:5]
        views = c._shared_views(part)
        assert views is not None
        assert len(views) == c.size
        assert np.shares_memory(views[c.rank], part)
        assert c._shared_views(np.zeros(3)) is None

    as_threads(body, 2)


def test_memory_without_views_is_freed() -> None:
    def body(c: Communicator) -> None:
        assert isinstance(c, shared.SharedMemoryCommunicator)
        kept = c.allocate(100)
        for _ in range(5):
            c.allocate(100)
        assert len(c._windows) <= 2
        assert kept.size == 100

    as_threads(body, 2)


def test_groups_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        DistributedError, match=r"rank 0 names the group \[0, 1\], its member rank 1"
    ):
        as_threads(lambda c: c.split([0, 1] if c.rank == 0 else [1, 2]), 3)


def test_a_rank_that_ended_is_named_to_who_waits_for_its_message() -> None:
    def body(c: Communicator) -> None:
        if c.rank == 0:
            c.irecv(np.zeros(2), 1).wait()

    begin = time.monotonic()
    with pytest.raises(DistributedError, match="from rank 1, tag 0, but the program of rank 1 has"):
        as_threads(body, 3, timeout_s=60)
    assert time.monotonic() - begin < 10


def test_an_exchange_that_others_do_not_call_is_named() -> None:
    def body(c: Communicator) -> None:
        if c.rank == 0:
            c.gather(np.zeros(2), np.zeros((2, 2)), 0)
        else:
            c.all_to_all([np.zeros(1)] * 2, [np.zeros(1)] * 2)

    with pytest.raises(DistributedError) as caught:
        as_threads(body, 2)
    assert "gather of 16 bytes to rank 0" in str(caught.value)
    assert "calls all_to_all" in str(caught.value)


@pytest.mark.parametrize("kind", ["all_reduce", "broadcast", "barrier", "all_gather"])
def test_signatures_are_read_back(kind: str) -> None:
    signature = encode_signature(kind, 1 << 37, "f", ReduceOp.MAX, 1234)
    assert 0 < signature < 1 << 63
    text = describe_signature(signature)
    assert text.startswith(kind)
    assert kind == "barrier" or str(1 << 37) in text


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_signatures_name_the_dtype(name: str) -> None:
    signature = encode_signature("all_reduce", 8, dtypes.from_name(name).numpy.char)
    assert f"({name}, sum)" in describe_signature(signature)
