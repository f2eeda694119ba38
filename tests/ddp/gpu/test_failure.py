"""What goes wrong between GPUs ends the job with a report: hangs, NCCL's errors, too few GPUs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import allgrad as ag
from allgrad import ddp
from allgrad.ddp.communicators import gpu as choice
from allgrad.ddp.communicators.gpu import GpuFacts, obstacle
from allgrad.ddp.communicators.thread import current_thread_rank
from allgrad.ddp.process_group import default_group
from allgrad.errors import DeviceError, DistributedError, DtypeError, OptionError


@pytest.fixture
def quick(gpus, monkeypatch):
    """The watch thread looks often."""
    from allgrad.ddp.communicators import nccl_watch

    monkeypatch.setattr(nccl_watch, "PERIOD_S", 0.02)
    return gpus


def test_a_rank_that_does_not_come(quick):
    def main():
        ddp.init_process_group("nccl", timeout=1.0)
        x = ag.ones(3, device="cuda")
        ddp.all_reduce(x)
        if ddp.get_rank() == 1:
            world, _ = current_thread_rank()
            while world.error is None:
                time.sleep(0.01)  # busy elsewhere
            return
        ddp.all_reduce(x)  # the line that is named

    begin = time.monotonic()
    with pytest.raises(DistributedError) as caught:
        ddp.run_ranks(main, 2)
    assert time.monotonic() - begin < 10
    text = str(caught.value)
    assert (
        "waited 1 s in GPU all_reduce of 12 bytes (float32, sum); not arrived at it: rank 1" in text
    )
    assert "test_failure.py" in text
    assert "the line that is named" in text


@pytest.mark.parametrize(
    ("code", "words"),
    [(6, "NCCL_ERROR_REMOTE_ERROR"), (8, "NCCL error 8: the connection timed out")],
)
def test_an_error_of_nccl(quick, code, words):
    """Codes above 6 have no name in CuPy's binding: its exception cannot even be made."""

    def main():
        ddp.init_process_group("nccl", timeout=600.0)
        x = ag.ones(3, device="cuda")
        ddp.all_reduce(x)
        part = default_group().communicator.gpu_part
        if ddp.get_rank() == 0:
            part.comm.fail(code)
            ddp.all_reduce(x)  # the other rank does not come
        world, _ = current_thread_rank()
        while world.error is None:
            time.sleep(0.01)

    with pytest.raises(DistributedError, match=words):
        ddp.run_ranks(main, 2)


def test_after_a_failure_nothing_goes_on(quick):
    """The host may be far ahead, or come out of a wait for kernels that were aborted."""

    def main():
        ddp.init_process_group("nccl", timeout=600.0)
        x = ag.ones(3, device="cuda")
        part = default_group().communicator.gpu_part
        comm = part.comm
        comm.fail(2)
        while part.failure is None:
            time.sleep(0.01)
        with pytest.raises(DistributedError, match="NCCL_ERROR_SYSTEM_ERROR"):
            part.all_reduce(x._array)
        assert comm.comm == 0  # aborted: destroy would wait for the other ranks

    with pytest.raises(DistributedError, match="NCCL_ERROR_SYSTEM_ERROR"):
        ddp.run_ranks(main, 2)


def test_an_error_of_a_call(gpus):
    def main():
        ddp.init_process_group("nccl")
        part = default_group().communicator.gpu_part

        def fails(*_):
            raise gpus.cuda.nccl.NcclError(5)

        part.comm.allReduce = fails
        ddp.all_reduce(ag.ones(3, device="cuda"))

    with pytest.raises(
        DistributedError, match=r"NCCL failed in GPU all_reduce of 12 bytes.*INVALID_USAGE"
    ):
        ddp.run_ranks(main, 2)


# ---- which GPU, and whether there are enough -----------------------------------------------------


def fact(host="a", gpu="0000:01", visible=1, nccl=22809, problem="", shares=False):
    return GpuFacts(host, gpu, visible, nccl, problem, shares)


def test_fewer_gpus_than_ranks(gpu):
    def main():
        ddp.init_process_group("nccl")

    with pytest.raises(
        DistributedError,
        match=r"has 1 GPU for 2 ranks, and NCCL wants one for each \(ranks 0 and 1 would share "
        r"one\)\. Start 1 rank there, or leave backend out, or use init_process_group\('mpi'\)",
    ):
        ddp.run_ranks(main, 2)


def test_without_a_backend_few_gpus_are_shared(gpu, caplog):
    def main():
        ddp.init_process_group()
        x = ag.ones(2, device="cuda")
        ddp.all_reduce(x)
        part = default_group().communicator.gpu_part
        return x.tolist(), part.name

    assert ddp.run_ranks(main, 2) == [([2, 2], "staged")] * 2
    (told,) = [r.getMessage() for r in caplog.records]
    assert told.startswith("arrays of GPUs travel through main memory, not by NCCL: host")


def test_obstacles():
    assert obstacle([fact(), fact(gpu="0000:02", visible=2)]) == ""
    assert obstacle([fact("a"), fact("b")]) == ""  # two hosts have the same numbers
    assert "ranks 0 and 1 use one and the same" in obstacle([fact(visible=2), fact(visible=2)])
    assert "host a has 2 GPUs for 3 ranks" in obstacle(
        [fact(visible=2), fact(gpu="0000:02", visible=2), fact(visible=2)]
    )
    assert obstacle([fact(nccl=23007, shares=True)] * 2) == ""
    assert obstacle([fact(nccl=22809, shares=True)] * 2)  # cannot share before 2.30
    assert obstacle([fact(), fact(problem="no library")]).startswith("rank 1: no library. Or leave")


def test_missing_library(gpu, monkeypatch):
    monkeypatch.setattr(gpu.cuda.nccl, "available", False)
    with pytest.raises(DistributedError, match=r"by NCCL: the library NCCL \(libnccl.so.2\)"):
        ddp.init_process_group("nccl")
    assert not ddp.is_nccl_available()


@pytest.mark.parametrize(
    ("local_rank", "visible", "index"), [(0, 4, 0), (3, 4, 3), (3, 1, 0), (5, 4, 1), (None, 2, 0)]
)
def test_which_gpu_a_rank_takes(local_rank, visible, index):
    assert choice.index_of(local_rank, visible) == index


def test_each_rank_takes_its_own(gpus):
    def main():
        ddp.init_process_group("nccl")
        return ag.cuda.current_device(), default_group().communicator.gpu_part.index

    assert ddp.run_ranks(main, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]


# ---- what cannot be asked ------------------------------------------------------------------------


def test_what_nccl_cannot_do(gpus):
    def main():
        ddp.init_process_group("nccl")
        rank = ddp.get_rank()
        whole = ag.ones(2, dtype=ag.int32, device="cuda")
        with pytest.raises(DtypeError, match="NCCL has no reduction 'bor'; use min, max or sum"):
            ddp.all_reduce(whole, ddp.ReduceOp.BOR)
        with pytest.raises(DtypeError, match="NCCL cannot reduce int16 by 'sum'; it knows int8, "):
            ddp.all_reduce(whole.to(ag.int16))
        with pytest.raises(OptionError, match=r"NCCL knows no tags \(came 3\)"):
            ddp.isend(whole, 1 - rank, tag=3)
        with pytest.raises(DistributedError, match="NCCL receives from a rank that is named"):
            ddp.recv(whole)
        with pytest.raises(DeviceError, match=r"must lie on one device, came cuda:[01] and"):
            ddp.all_gather_into_tensor(ag.zeros(4, dtype=ag.int32), whole)
        part = default_group().communicator.gpu_part
        with pytest.raises(DeviceError, match="an array of main memory where an array of"):
            part.all_reduce(whole.cpu()._array)
        ddp.destroy_process_group()
        with pytest.raises(DistributedError, match="all_reduce after the communicator was closed"):
            part.all_reduce(whole._array)

    ddp.run_ranks(main, 2)


def test_cupy_is_not_imported_for_the_cpu():
    """Ranks of the CPU must not pay for CuPy, and start without a driver."""
    program = (
        "import sys; from allgrad import ddp; import allgrad as ag\n"
        "def main():\n"
        "    ddp.init_process_group(); ddp.all_reduce(ag.ones(2))\n"
        "    ddp.DistributedDataParallel(ag.nn.Linear(2, 2))\n"
        "ddp.run_ranks(main, 2); print('cupy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
