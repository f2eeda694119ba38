"""Joining the ranks: what the launcher says, what MPI sees, and the messages where they differ."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp
from allgrad.ddp import connecting, process_group
from allgrad.errors import DistributedError, OptionError, ShapeError


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    prefixes = ("PMI_", "OMPI_", "SLURM_", "ALLGRAD_", "MV2_")
    for name in list(os.environ):
        if name.startswith(prefixes) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    yield
    if ddp.is_initialized():
        ddp.destroy_process_group()


def test_without_a_launcher_there_is_one_rank_and_no_mpi() -> None:
    code = (
        "import sys; from allgrad import ddp; ddp.init_process_group();"
        "assert ddp.get_world_size() == 1 and ddp.get_rank() == 0 and ddp.get_local_rank() == 0;"
        "assert ddp.get_backend() == 'local';"
        "ddp.barrier(); ddp.destroy_process_group();"
        "assert not ddp.is_initialized() and 'mpi4py' not in sys.modules"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PMI_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_order_of_calls_is_checked() -> None:
    assert not ddp.is_initialized()
    for call in (ddp.get_rank, ddp.get_world_size, ddp.barrier, ddp.destroy_process_group):
        with pytest.raises(DistributedError, match=r"call allgrad\.ddp\.init_process_group\(\)"):
            call()
    ddp.init_process_group()
    with pytest.raises(DistributedError, match="was called before"):
        ddp.init_process_group()


def test_bad_arguments() -> None:
    with pytest.raises(OptionError, match="unknown backend 'ucc'; known: 'gloo', 'mpi', 'nccl'"):
        ddp.init_process_group("ucc")
    with pytest.raises(OptionError, match=r"unknown init_method 'udp://x'; known: None, 'env://"):
        ddp.init_process_group(init_method="udp://x")
    with pytest.raises(OptionError, match=r"timeout -1: expected seconds > 0"):
        ddp.init_process_group(timeout=-1)
    with pytest.raises(DistributedError, match="this thread is no rank"):
        ddp.init_process_group("thread")
    with pytest.raises(DistributedError, match=r"world_size=4.*started rank 0 of 1"):
        ddp.init_process_group(world_size=4)
    assert not ddp.is_initialized()
    ddp.init_process_group(world_size=1, rank=0, timeout=timedelta(seconds=5))
    assert process_group.default_group().communicator.timeout_s == 5.0


def test_local_backend_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(DistributedError, match="'pmi' started 2; leave backend out"):
        ddp.init_process_group("local")


def test_missing_mpi_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "allgrad.ddp.communicators.mpi", raising=False)
    if hasattr(sys.modules["allgrad.ddp.communicators"], "mpi"):
        monkeypatch.delattr(sys.modules["allgrad.ddp.communicators"], "mpi")
    with pytest.raises(DistributedError, match=r"\[rank 1/2\] cannot load MPI .*pip install"):
        ddp.init_process_group()


@pytest.mark.mpi
def test_the_wrong_launcher_is_named() -> None:
    """Four jobs of one rank each, where one job of four was announced, must not run."""
    pytest.importorskip("mpi4py")
    announced = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    done = subprocess.run(
        [sys.executable, "-c", "from allgrad import ddp; ddp.init_process_group()"],
        env=os.environ | announced,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "announced rank 2 of 4, but" in done.stderr
    assert "sees rank 0 of 1" in done.stderr


def test_a_job_of_another_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from allgrad.ddp.environment import RankEnvironment

    place = RankEnvironment(2, 4, 2, 4, None, None, "slurm")
    with pytest.raises(DistributedError) as caught:
        connecting.check_world(place, 0, 1, "MPICH Version: 5.0.2")
    text = str(caught.value)
    assert "'slurm' announced rank 2 of 4, but MPICH Version: 5.0.2 sees rank 0 of 1" in text
    assert "srun --mpi=pmi2" in text


def test_rank_threads_have_groups_of_their_own() -> None:
    def body() -> tuple[int, int, str]:
        assert not ddp.is_initialized()
        ddp.init_process_group()
        found = (ddp.get_rank(), ddp.get_local_rank(), ddp.get_backend())
        assert ddp.get_world_size() == 3
        ddp.destroy_process_group()
        assert not ddp.is_initialized()
        return found

    assert ddp.run_ranks(body, 3) == [(r, r, "thread") for r in range(3)]
    assert not ddp.is_initialized()


# ---- collectives on tensors ---------------------------------------------------------------------


def in_group(function: Callable[[], Any], size: int = 2) -> list[Any]:
    def body() -> Any:
        ddp.init_process_group(timeout=20)
        return function()

    return ddp.run_ranks(body, size)


def test_collectives_on_tensors_of_any_layout() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        plain = ag.full((2, 3), float(rank + 1))
        assert ddp.all_reduce(plain) is None
        assert plain.tolist() == [[3.0] * 3] * 2
        turned = ag.full((2, 3), float(rank)).t()
        ddp.all_reduce(turned, op=ddp.ReduceOp.MAX)
        assert turned.tolist() == [[1.0] * 2] * 3
        strided = np.full((4, 4), float(rank))
        ddp.broadcast(strided[:, ::2], src=1)
        assert strided.tolist() == [[1.0, rank, 1.0, rank]] * 4
        column = np.full((4, 4), float(rank))[:, ::2]
        work = ddp.all_reduce(column, async_op=True)
        assert work is not None
        work.wait()
        assert work.test()
        assert (column == 1).all()

    in_group(body)


def test_an_in_place_collective_is_seen_by_autograd() -> None:
    def body() -> None:
        w = ag.ones(3, requires_grad=True)
        x = ag.ones(3)
        y = (w * x).sum()
        ddp.all_reduce(x)
        with pytest.raises(RuntimeError, match=r"in.?place"):
            y.backward()

    in_group(body)


def test_a_pending_result_is_computed_before_its_input_changes() -> None:
    def body() -> None:
        layer = ag.nn.Linear(3, 2)
        with ag.no_grad():
            x = ag.ones(4, 3)
            expected = layer(x).tolist()
            y = layer(x)  # may not be computed before it is looked at
            ddp.all_reduce(x)
            assert y.tolist() == expected

    in_group(body)


def test_gather_and_scatter_on_tensors() -> None:
    def body() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()
        parts = [ag.zeros(2) for _ in range(size)]
        ddp.all_gather(parts, ag.full((2,), float(rank)))
        assert [p.tolist() for p in parts] == [[float(r)] * 2 for r in range(size)]
        flat = ag.zeros(2 * size)
        ddp.all_gather_into_tensor(flat, ag.full((2,), float(rank)))
        assert flat.tolist() == [float(r) for r in range(size) for _ in range(2)]
        out = ag.zeros(2)
        ddp.reduce_scatter_tensor(out, ag.arange(2 * size, dtype=ag.float32))
        assert out.tolist() == [size * (2.0 * rank), size * (2.0 * rank + 1)]
        ddp.reduce_scatter(out, [ag.full((2,), float(r)) for r in range(size)])
        assert out.tolist() == [float(size * rank)] * 2
        objects: list[Any] = [None] * size
        ddp.all_gather_object(objects, {"rank": rank})
        assert objects == [{"rank": r} for r in range(size)]
        assert ddp.broadcast_object(rank, src=size - 1) == size - 1
        listed: list[Any] = [rank, "x" * rank]
        ddp.broadcast_object_list(listed, src=1)
        assert listed == [1, "x"]
        ddp.barrier()

    in_group(body, 3)


def test_wrong_sizes_are_named() -> None:
    def body() -> None:
        with pytest.raises(ShapeError, match="list of 2 tensors, got 1"):
            ddp.all_gather([ag.zeros(2)], ag.zeros(2))
        with pytest.raises(ShapeError, match=r"input of shape \(3,\) must have 2 times"):
            ddp.reduce_scatter_tensor(ag.zeros(2), ag.zeros(3))
        with pytest.raises(ShapeError, match="list of 2 places, got 0"):
            ddp.all_gather_object([], 1)
        with pytest.raises(ShapeError, match="needs a list of 2 tensors, got 3"):
            ddp.reduce_scatter(ag.zeros(2), [ag.zeros(2)] * 3)
        with pytest.raises(ShapeError, match=r"result of shape \(2, 2\) does not fit"):
            ddp.all_gather_into_tensor(ag.zeros(3), ag.zeros(2))

    in_group(body)
