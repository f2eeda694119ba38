"""Samplers and streams take rank and number of ranks from the process group."""

from __future__ import annotations

from collections.abc import Iterator

from support.ranks import backward, network, on_ranks

import allgrad as ag
from allgrad import ddp
from allgrad.distributed import get_rank
from allgrad.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler
from allgrad.utils.data.distributed import DistributedSampler


class Count(IterableDataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


def test_each_rank_gets_its_share() -> None:
    def body() -> tuple[list[int], list[int], list[int], list[int]]:
        ag.manual_seed(get_rank())  # must not count
        batches = ddp.DistributedSamplerWrapper(
            BatchSampler(RandomSampler(range(12)), 3, drop_last=True)
        )
        return (
            [index for batch in batches for index in batch],
            list(ddp.DistributedIterableDataset(Count(5), pad=False)),
            list(ddp.DistributedWeightedSampler([0, 1], 4)),
            list(ddp.DistributedSampler(range(5), shuffle=False, pad=False)),
        )

    first, second = on_ranks(body)
    assert sorted(first[0] + second[0]) == list(range(12))
    assert (first[1], second[1]) == ([0, 2, 4], [1, 3])
    assert first[2] == second[2] == [1, 1]
    assert (first[3], second[3]) == ([0, 2, 4], [1, 3])
    assert ddp.DistributedSampler is DistributedSampler


def test_a_stream_with_uneven_shares_trains_on_all_ranks() -> None:
    """A rank whose stream has ended serves the others' steps, as with any loader."""

    def body() -> bytes:
        model = ddp.DistributedDataParallel(network())
        optimizer = ag.optim.SGD(model.parameters(), lr=0.1)
        stream = ddp.DistributedIterableDataset(Count(7), pad=False)
        for batch in DataLoader(stream, 1):
            optimizer.zero_grad()
            x = (batch.numpy()[:, None] + [0.0] * 6).astype("float32")
            backward(model, x, batch.numpy() % 3)
            optimizer.step()
        ddp.barrier()
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    first, second = on_ranks(body)
    assert first == second
