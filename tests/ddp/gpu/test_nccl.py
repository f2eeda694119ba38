"""Collectives of GPUs by NCCL: contract, order of streams, groups, messages."""

from __future__ import annotations

import pytest

import allgrad as ag
from allgrad import ddp


def on_gpu(values, dtype=ag.float32):
    return ag.tensor(values, dtype=dtype, device="cuda")


def ranks(body, size=2, backend="nccl"):
    def main():
        ddp.init_process_group(backend)
        result = body(ddp.get_rank())
        ddp.destroy_process_group()
        return result

    return ddp.run_ranks(main, size)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("backend", ["nccl", "gloo", None])
def test_collectives(gpus, size, backend):
    def body(rank):
        x = on_gpu([rank + 1.0, 2.0])
        ddp.all_reduce(x)
        mean = on_gpu([float(rank)])
        ddp.all_reduce(mean, ddp.ReduceOp.AVG)
        b = on_gpu([rank, rank], ag.int64)
        ddp.broadcast(b, src=size - 1)
        out = ag.zeros(size * 2, device="cuda")
        ddp.all_gather_into_tensor(out, on_gpu([rank, -rank]))
        part = ag.zeros(1, device="cuda")
        ddp.reduce_scatter_tensor(part, on_gpu(list(range(size))))
        rows = [ag.zeros(1, device="cuda") for _ in range(size)]
        ddp.all_to_all(rows, [on_gpu([10 * rank + to]) for to in range(size)])
        r = on_gpu([1.0])
        ddp.reduce(r, dst=0)
        g = [ag.zeros(1, device="cuda") for _ in range(size)]
        ddp.gather(on_gpu([rank]), g if rank == 0 else None, dst=0)
        s = ag.zeros(1, device="cuda")
        ddp.scatter(s, [on_gpu([7 + to]) for to in range(size)] if rank == 0 else None, src=0)
        ddp.barrier()
        rows_there = [t.item() for t in rows]
        return x, mean, b, out, part, rows_there, r, [t.item() for t in g], s

    for rank, (x, mean, b, out, part, rows, r, g, s) in enumerate(ranks(body, size, backend)):
        assert x.tolist() == [size * (size + 1) / 2, 2 * size]
        assert mean.item() == pytest.approx((size - 1) / 2)
        assert b.tolist() == [size - 1, size - 1]
        assert out.tolist() == [v for other in range(size) for v in (other, -other)]
        assert part.item() == size * rank
        assert rows == [10 * other + rank for other in range(size)]
        assert r.item() == (size if rank == 0 else 1)
        assert g == (list(range(size)) if rank == 0 else [0] * size)
        assert s.item() == 7 + rank
