"""Collectives, messages and objects on tensors, as PyTorch's scripts call them; groups of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn
from allgrad.errors import DistributedError, OptionError, ShapeError


def in_group(function: Callable[[], Any], size: int = 3, timeout: float = 30) -> list[Any]:
    def body() -> Any:
        ddp.init_process_group("gloo", timeout=timeout)
        return function()

    return ddp.run_ranks(body, size)


def full(value: float, n: int = 2) -> ag.Tensor:
    return ag.full((n,), float(value))


def test_every_collective_on_tensors() -> None:
    def body() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()
        x = full(rank + 1)
        ddp.reduce(x, 1)
        assert x.tolist() == [6.0 if rank == 1 else rank + 1] * 2
        parts = [full(-1) for _ in range(size)] if rank == 2 else None
        ddp.gather(full(rank), parts, dst=2)
        assert parts is None or [p.tolist() for p in parts] == [[r] * 2 for r in range(size)]
        mine = ag.zeros(2, 2).t()
        ddp.scatter(mine, [ag.full((2, 2), 10.0 + r) for r in range(size)] if rank == 0 else None)
        assert mine.tolist() == [[10.0 + rank] * 2] * 2
        outputs = [ag.zeros(r + 1) for r in range(size)]
        ddp.all_to_all(outputs, [full(rank, rank + 1) for _ in range(size)])
        assert [o.tolist() for o in outputs] == [[float(r)] * (r + 1) for r in range(size)]
        joined = ag.zeros(sum(range(1, size + 1)), 2)
        source = ag.full((size * (rank + 1), 2), float(rank))
        ddp.all_to_all_single(joined, source, list(range(1, size + 1)), [rank + 1] * size)
        assert joined[:, 1].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 2.0]
        even = ag.zeros(size)
        ddp.all_to_all_single(even, ag.arange(size, dtype=ag.float32) + 10 * rank)
        assert even.tolist() == [10.0 * r + rank for r in range(size)]
        several = [full(rank), full(2 * rank)]
        ddp.all_reduce_coalesced(several)
        assert [s.tolist() for s in several] == [[3.0] * 2, [6.0] * 2]
        bits = ag.tensor([1 << rank, 0])
        ddp.all_reduce(bits, ddp.ReduceOp.BOR)
        assert bits.tolist() == [7, 0]

    in_group(body)


def test_asynchronous_collectives_and_their_futures() -> None:
    def body() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()
        x = ag.full((3, 2), float(rank)).t()
        parts = [full(-1) for _ in range(size)]
        flat = ag.zeros(2 * size)
        out = ag.zeros(1)
        works = [
            ddp.all_reduce(x, async_op=True),
            ddp.all_gather(parts, full(rank), async_op=True),
            ddp.all_gather_into_tensor(flat, full(rank), async_op=True),
            ddp.reduce_scatter_tensor(out, ag.ones(size), async_op=True),
            ddp.reduce_scatter(out, [ag.ones(1)] * size, async_op=True),
            ddp.barrier(async_op=True),
        ]
        mean = works[0].get_future().then(lambda f: f.value()[0] / size)
        assert mean.wait().tolist() == [[1.0] * 3] * 2
        for work in reversed(works):
            assert work.wait()
            assert work.is_completed()
        assert [p.tolist() for p in parts] == [[float(r)] * 2 for r in range(size)]
        assert flat.tolist() == [float(r) for r in range(size) for _ in range(2)]
        assert out.tolist() == [float(size)]
        ddp.barrier(timeout=10)

    in_group(body)


def test_messages() -> None:
    def body() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()
        if rank == 0:
            ddp.send(full(7), 1, tag=3)
            got = ag.zeros(2)
            assert ddp.recv(got) == 2  # from whoever comes first
            assert got.tolist() == [8.0] * 2
        elif rank == 1:
            got = ag.zeros(2, 2)[:, 0]
            work = ddp.irecv(got, 0, tag=3)
            work.wait()
            assert (got.tolist(), work.source_rank()) == ([7.0] * 2, 0)
        else:
            ddp.send(full(8), 0)
        to, source = (rank + 1) % size, (rank - 1) % size
        got = ag.zeros(2)
        ops = [ddp.P2POp(ddp.isend, full(rank), to), ddp.P2POp(ddp.irecv, got, source)]
        for work in ddp.batch_isend_irecv(ops):
            work.wait()
        assert got.tolist() == [float(source)] * 2
        with pytest.raises(OptionError, match="tag -1: expected 0 to 4194303"):
            ddp.send(got, to, tag=-1)
        with pytest.raises(OptionError, match="op must be isend or irecv"):
            ddp.P2POp(ddp.broadcast, got)

    in_group(body)


def test_objects() -> None:
    def body() -> None:
        rank, size = ddp.get_rank(), ddp.get_world_size()
        places: list[Any] | None = [None] * size if rank == 1 else None
        ddp.gather_object({"rank": rank, "x": "y" * rank}, places, dst=1)
        assert places is None or [p["rank"] for p in places] == [0, 1, 2]
        mine: list[Any] = [None]
        ddp.scatter_object_list(mine, ["a", {"b": 2}, [3] * 100] if rank == 0 else None)
        assert mine[0] == ("a", {"b": 2}, [3] * 100)[rank]
        if rank == 0:
            ddp.send_object_list(["first", None, {"k": 1}], 2)
        if rank == 2:
            got: list[Any] = [None] * 3
            assert ddp.recv_object_list(got) == 0
            assert got == ["first", None, {"k": 1}]
        with pytest.raises(ShapeError, match="needs an output list with a place"):
            ddp.scatter_object_list([])

    in_group(body)


def test_wrong_arguments_are_named() -> None:
    def body() -> None:
        with pytest.raises(ShapeError, match=r"4 rows of the input cannot be cut into 3 equal"):
            ddp.all_to_all_single(ag.zeros(3), ag.zeros(4))
        with pytest.raises(ShapeError, match=r"output_split_sizes \[1, 1\] must be 3 numbers"):
            ddp.all_to_all_single(ag.zeros(3), ag.zeros(3), [1, 1])
        with pytest.raises(DistributedError, match="rank 5 is not in the group of the ranks"):
            ddp.broadcast(ag.zeros(3), src=5)
        with pytest.raises(DistributedError, match="not both"):
            ddp.broadcast(ag.zeros(3), src=1, group_src=1)

    in_group(body)


def test_monitored_barrier_names_who_is_missing() -> None:
    seen: list[str] = []

    def body() -> None:
        ddp.monitored_barrier(timeout=20)
        if ddp.get_rank() != 2:
            try:
                ddp.monitored_barrier(timeout=0.3)
            except DistributedError as error:
                seen.append(str(error))

    in_group(body)
    assert len(seen) == 2
    assert all("not there after 0.3 s: rank 2" in text for text in seen)


# ---- groups --------------------------------------------------------------------------------------


def test_groups_of_some_ranks() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        odd = ddp.new_group([3, 1], timeout=25)
        assert ddp.get_rank(odd) == {1: 0, 3: 1}.get(rank, -1)
        assert ddp.get_world_size(odd) == (2 if rank % 2 else -1)
        x = full(rank)
        ddp.all_reduce(x, group=odd)
        assert x.tolist() == [4.0 if rank % 2 else rank] * 2
        ddp.broadcast(x, src=3, group=odd)
        if rank % 2:
            assert odd.communicator.timeout_s == 25
            assert ddp.get_process_group_ranks(odd) == [1, 3]
            assert (ddp.get_group_rank(odd, 3), ddp.get_global_rank(odd, 0)) == (1, 1)
            assert f"[rank {rank}/4, number {rank // 2} of group (1, 3)]" in odd.where
            with pytest.raises(DistributedError, match="rank 0 is not in the group"):
                ddp.reduce(x, 0, group=odd)
            other = 4 - rank
            got = ag.zeros(2)
            work = ddp.irecv(got, other, group=odd)
            ddp.send(full(rank), other, group=odd)
            work.wait()
            assert got.tolist() == [float(other)] * 2
            assert ddp.get_backend(odd) == "gloo"
        else:
            assert odd is ddp.GroupMember.NON_GROUP_MEMBER
            assert ddp.recv(x, 1, group=odd) == -1
        mine, groups = ddp.new_subgroups(2)
        assert ddp.get_process_group_ranks(mine) == [rank // 2 * 2, rank // 2 * 2 + 1]
        assert sum(g is ddp.GroupMember.NON_GROUP_MEMBER for g in groups) == 1
        part = ddp.split_group(None, [[2, 0]])
        assert (part is None) == bool(rank % 2)
        assert part is None or part.ranks == [2, 0]
        assert ddp.group.WORLD.size == 4
        ddp.destroy_process_group(mine)
        assert ddp.get_pg_count() == 2
        with pytest.raises(DistributedError, match=r"\[7\] are no ranks"):
            ddp.new_group([0, 7])
        with pytest.raises(DistributedError, match="cannot be cut into groups of 3"):
            ddp.new_subgroups(3)
        ddp.destroy_process_group()
        assert ddp.group.WORLD is None

    in_group(body, 4)


def test_two_models_train_on_two_halves_of_the_ranks() -> None:
    def train(half: int, rank: int, group: Any) -> bytes:
        ag.manual_seed(half)
        model = ddp.DistributedDataParallel(nn.Linear(3, 2), process_group=group)
        optimizer = ag.optim.SGD(model.parameters(), lr=0.1)
        rng = np.random.default_rng(rank)
        for _ in range(3 + half):  # the halves need not make the same number of steps
            x = ag.tensor(rng.standard_normal((4, 3)).astype(np.float32))
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
        return model.module.weight._array.tobytes()

    def body() -> bytes:
        rank = ddp.get_rank()
        group, _ = ddp.new_subgroups(2)
        bits = train(rank // 2, rank, group)
        ddp.barrier()
        return bits

    bits = in_group(body, 4)
    assert bits[0] == bits[1]
    assert bits[2] == bits[3]
    assert bits[0] != bits[2]


# ---- PyTorch's spellings -------------------------------------------------------------------------


def test_backends_and_init_methods_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("gloo", "GLOO", "cpu:gloo,cuda:nccl", "mpi"):
        if backend == "mpi":
            pytest.importorskip("mpi4py")
        ddp.init_process_group(backend)
        assert ddp.get_backend() == ("mpi" if backend == "mpi" else ddp.Backend.GLOO)
        ddp.destroy_process_group()
    ddp.init_process_group("gloo", "tcp://127.0.0.1:29500", rank=0, world_size=1)
    ddp.destroy_process_group()
    with pytest.raises(DistributedError, match=r"by NCCL: .*use init_process_group\('gloo'\)"):
        ddp.init_process_group("nccl")
    with pytest.raises(DistributedError, match="needs rank and world_size"):
        ddp.init_process_group("gloo", "tcp://127.0.0.1:29500")
    with pytest.raises(DistributedError, match=r"start the script with `allgrad run -n N"):
        ddp.init_process_group("gloo", rank=1, world_size=2)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pytest.importorskip("mpi4py")
    with pytest.raises(DistributedError, match=r"torchrun .*Start the same script with `allgrad"):
        ddp.init_process_group()
    assert ddp.is_available()
    assert ddp.is_gloo_available()
    assert not ddp.is_nccl_available()
    assert ddp.get_node_local_rank(fallback_rank=3) == 3
