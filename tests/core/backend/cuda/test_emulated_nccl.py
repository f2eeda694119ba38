"""The stand-in for NCCL: ranks are threads, and those that disagree are told so."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

if os.environ.get("ALLGRAD_TEST_GPU") == "1":
    pytest.skip("the stand-in itself is tested", allow_module_level=True)

from support.emulated_gpu import emulated_gpu, state
from support.emulated_gpu.errors import StreamHazard
from support.emulated_gpu.exchange import RanksDisagree
from support.emulated_gpu.state import thread

RANKS = 3


@pytest.fixture
def cupy():
    before = thread.device, dict(thread.streams)
    with emulated_gpu(devices=RANKS) as module:
        thread.device, thread.streams = 0, {}
        yield module
        thread.device, thread.streams = before


@pytest.fixture
def nccl(cupy):
    return cupy.cuda.nccl


def on_ranks(cupy, work, ranks=RANKS):
    """What `work(rank, comm, stream)` returns or raises, by rank; each a thread with its device."""
    unique = cupy.cuda.nccl.get_unique_id()
    results = [None] * ranks

    def run(rank):
        try:
            cupy.cuda.Device(rank).use()
            stream = cupy.cuda.Stream(non_blocking=True).use()
            comm = cupy.cuda.nccl.NcclCommunicator(ranks, unique, rank)
            results[rank] = work(rank, comm, stream)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert not any(each.is_alive() for each in threads)
    return results


def test_all_reduce(cupy, nccl):
    def work(rank, comm, stream):
        assert (comm.rank_id(), comm.size(), comm.device_id()) == (rank, RANKS, rank)
        x = cupy.arange(5, dtype=np.float32) + rank
        out = cupy.empty(5, np.float32)
        comm.allReduce(x.data.ptr, out.data.ptr, 5, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
        comm.allReduce(x.data.ptr, x.data.ptr, 5, nccl.NCCL_FLOAT32, nccl.NCCL_MAX, stream.ptr)
        return out.tolist(), x.tolist()

    for result in on_ranks(cupy, work):
        assert result == ([3.0, 6.0, 9.0, 12.0, 15.0], [2.0, 3.0, 4.0, 5.0, 6.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_means_are_scaled_before_the_sum(cupy, nccl, dtype):
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    number = getattr(nccl, f"NCCL_{dtype.upper()}")

    def work(rank, comm, stream):
        x = cupy.asarray(np.full(4, 30000 + rank, kind))
        comm.allReduce(x.data.ptr, x.data.ptr, 4, number, nccl.NCCL_AVG, stream.ptr)
        return x.get()

    third = np.asarray(1 / 3).astype(kind)
    parts = [(np.full(4, 30000 + r, kind) * third).astype(kind) for r in range(RANKS)]
    expected = ((parts[0] + parts[1]).astype(kind) + parts[2]).astype(kind)
    for result in on_ranks(cupy, work):
        np.testing.assert_array_equal(result.astype(np.float64), expected.astype(np.float64))
        assert np.isfinite(result.astype(np.float64)).all()


def test_other_collectives(cupy, nccl):
    kind = nccl.NCCL_INT32

    def work(rank, comm, stream):
        x = cupy.arange(6, dtype=np.int32) + 10 * rank
        part, whole = cupy.empty(2, np.int32), cupy.empty(18, np.int32)
        comm.reduceScatter(x.data.ptr, part.data.ptr, 2, kind, nccl.NCCL_SUM, stream.ptr)
        comm.allGather(x.data.ptr, whole.data.ptr, 6, kind, stream.ptr)
        told = x.copy()
        comm.bcast(told.data.ptr, 6, kind, 1, stream.ptr)
        mean = cupy.zeros(6, np.int32)
        comm.reduce(x.data.ptr, mean.data.ptr, 6, kind, nccl.NCCL_AVG, 2, stream.ptr)
        return part.tolist(), whole.tolist(), told.tolist(), mean.tolist()

    whole = [*range(6), *range(10, 16), *range(20, 26)]
    for rank, result in enumerate(on_ranks(cupy, work)):
        assert result[0] == [30 + 6 * rank, 33 + 6 * rank]
        assert result[1:3] == (whole, list(range(10, 16)))
        assert result[3] == (list(range(10, 16)) if rank == 2 else [0] * 6)


def test_messages_in_a_group(cupy, nccl):
    def work(rank, comm, stream):
        x, y = cupy.full(3, rank, np.float32), cupy.empty(3, np.float32)
        nccl.groupStart()
        comm.send(x.data.ptr, 3, nccl.NCCL_FLOAT32, (rank + 1) % RANKS, stream.ptr)
        comm.recv(y.data.ptr, 3, nccl.NCCL_FLOAT32, (rank - 1) % RANKS, stream.ptr)
        nccl.groupEnd()
        return y.tolist()

    for rank, result in enumerate(on_ranks(cupy, work)):
        assert result == [float((rank - 1) % RANKS)] * 3


def test_one_thread_with_several_devices(cupy, nccl):
    comms, arrays, streams = nccl.NcclCommunicator.initAll(2), [], []
    for index in range(2):
        with cupy.cuda.Device(index):
            streams.append(cupy.cuda.Stream(non_blocking=True))
            with streams[-1]:
                arrays.append(cupy.ones(3, np.float64) * (index + 1))
    nccl.groupStart()
    for comm, x, stream in zip(comms, arrays, streams, strict=True):
        comm.allReduce(x.data.ptr, x.data.ptr, 3, nccl.NCCL_FLOAT64, nccl.NCCL_SUM, stream.ptr)
    nccl.groupEnd()
    for index, (x, stream) in enumerate(zip(arrays, streams, strict=True)):
        with cupy.cuda.Device(index), stream:
            assert x.tolist() == [3.0] * 3


def test_the_host_goes_on_while_others_are_awaited(cupy, nccl):
    came = threading.Event()

    def work(rank, comm, stream):
        x = cupy.ones(3, np.float32)
        if rank == 0:
            came.wait(10)
        comm.allReduce(x.data.ptr, x.data.ptr, 3, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
        event = stream.record()
        if rank == 1:
            assert not event.done
            assert not stream.done
            came.set()
        event.synchronize()
        assert event.done
        return x.tolist()

    assert on_ranks(cupy, work) == [[3.0] * 3] * 3


def test_collectives_are_ordered_with_streams(cupy, nccl):
    def work(rank, comm, stream):
        x = cupy.ones(3, np.float32)
        side = cupy.cuda.Stream(non_blocking=True)
        said = None
        try:
            comm.allReduce(x.data.ptr, x.data.ptr, 3, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, side.ptr)
        except StreamHazard as error:
            said = str(error)
        side.wait_event(stream.record())
        comm.allReduce(x.data.ptr, x.data.ptr, 3, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, side.ptr)
        with pytest.raises(StreamHazard, match="ncclAllReduce"):
            x + 1
        stream.wait_event(side.record())
        return said, x.tolist()

    for said, values in on_ranks(cupy, work):
        assert "ncclAllReduce(3 float32, sum)" in said
        assert values == [3.0] * 3


@pytest.mark.parametrize("other", ["count", "type", "operation", "kind"])
def test_ranks_that_disagree(cupy, nccl, other):
    def work(rank, comm, stream):
        x = cupy.ones(4, np.float32)
        count = 3 if other == "count" and rank == 1 else 4
        kind = nccl.NCCL_INT32 if other == "type" and rank == 1 else nccl.NCCL_FLOAT32
        op = nccl.NCCL_MAX if other == "operation" and rank == 1 else nccl.NCCL_SUM
        if other == "kind" and rank == 1:
            comm.bcast(x.data.ptr, 4, kind, 0, stream.ptr)
        else:
            comm.allReduce(x.data.ptr, x.data.ptr, count, kind, op, stream.ptr)
        stream.synchronize()

    results = on_ranks(cupy, work)
    assert all(isinstance(r, RanksDisagree) for r in results)
    assert "rank 1 calls nccl" in str(results[0])


def test_a_rank_that_never_comes(cupy, nccl, monkeypatch):
    monkeypatch.setattr(state, "TIMEOUT_S", 0.2)

    def work(rank, comm, stream):
        x = cupy.ones(4, np.float32)
        if rank != 2:
            comm.allReduce(x.data.ptr, x.data.ptr, 4, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
            stream.synchronize()

    results = on_ranks(cupy, work)
    assert results[2] is None
    assert "not: ranks [2]" in str(results[0])


def test_abort_ends_what_would_never_end(cupy, nccl):
    def work(rank, comm, stream):
        x = cupy.ones(4, np.float32)
        if rank == 0:
            comm.allReduce(x.data.ptr, x.data.ptr, 4, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
            threading.Timer(0.1, comm.abort).start()
            stream.synchronize()
            with pytest.raises(nccl.NcclError, match="INVALID_ARGUMENT"):
                comm.size()
        return "ended"

    assert on_ranks(cupy, work) == ["ended"] * 3


def test_parts_of_a_communicator(cupy, nccl):
    def work(rank, comm, stream):
        part = comm.commSplit(-1 if rank == 1 else 0, -rank)
        if rank == 1:
            return part.comm
        x = cupy.full(2, rank, np.float32)
        assert part.rank_id() == (1 if rank == 0 else 0)
        part.bcast(x.data.ptr, 2, nccl.NCCL_FLOAT32, 0, stream.ptr)
        return x.tolist()

    assert on_ranks(cupy, work) == [[2.0, 2.0], 0, [2.0, 2.0]]


def test_collectives_in_graphs(cupy, nccl):
    def work(rank, comm, stream):
        x = cupy.ones(2, np.float32)
        side = cupy.cuda.Stream(non_blocking=True)
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            y = x * 2
            side.wait_event(stream.record())
            comm.allReduce(y.data.ptr, y.data.ptr, 2, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, side.ptr)
            stream.wait_event(side.record())
            x += y
            graph = stream.end_capture()
        assert x.tolist() == [1.0] * 2
        for _ in range(2):
            graph.launch()
        return x.tolist()

    assert on_ranks(cupy, work) == [[49.0, 49.0]] * 3


def test_what_nccl_refuses(cupy, nccl):
    unique = nccl.get_unique_id()
    assert isinstance(unique, bytes)
    assert len(unique) == 128
    with pytest.raises(ValueError, match="commId length 3 != 128"):
        nccl.NcclCommunicator(1, b"abc", 0)
    with pytest.raises(KeyError):
        nccl.NcclError(7)
    comm = nccl.NcclCommunicator(1, unique, 0)
    x, stream = cupy.ones(3, np.float32), cupy.cuda.Stream(non_blocking=True)
    with pytest.raises(TypeError, match="an integer is required"):
        comm.allReduce(x.data.ptr, x.data.ptr, 3, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream)
    with pytest.raises(nccl.NcclError, match="Duplicate GPU"):
        nccl.NcclCommunicator.initAll([0, 0])
    comm.fail(6)
    with pytest.raises(nccl.NcclError, match="remote process exited"):
        comm.check_async_error()
