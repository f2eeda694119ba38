"""What every communicator must do: a class of tests, for subclasses that say how to get one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from allgrad import dtypes
from allgrad.ddp import ReduceOp
from allgrad.ddp.communicators.base import Communicator
from allgrad.errors import DistributedError, DtypeError, OptionError, ShapeError

# around the pieces (1 MiB) and slots (2) of the staging memory, and shares of odd sizes
LENGTHS = (1, 2, 3, 17, 1000, 65_537, 262_143, 262_145, 600_001)


def values(rank: int, length: int, dtype: str = "float32") -> np.ndarray:
    """Small integers, so that sums are exact in every dtype and order."""
    return ((np.arange(length) * (rank + 3)) % 7 + rank).astype(dtype)


class CommunicatorContract:
    """What every communicator must do; subclasses say how to get one."""

    def each(self, function: Callable[[Communicator], Any]) -> None:
        """Run the function on every rank, with that rank's communicator."""
        raise NotImplementedError

    @pytest.mark.parametrize("op", ["sum", "avg", "product", "min", "max"])
    @pytest.mark.parametrize("in_window", [False, True])
    def test_all_reduce(self, op: Any, in_window: bool) -> None:
        combine = {
            ReduceOp.SUM: lambda a: a.sum(0),
            ReduceOp.AVG: lambda a: a.mean(0),
            ReduceOp.PRODUCT: lambda a: a.prod(0),
            ReduceOp.MIN: lambda a: a.min(0),
            ReduceOp.MAX: lambda a: a.max(0),
        }[op]

        lengths = LENGTHS if op in ("sum", "avg") else LENGTHS[::4]

        def body(c: Communicator) -> None:
            for length in lengths:
                array = np.empty(length, np.float32)
                if in_window:
                    array = c.allocate(array.nbytes).view(np.float32)
                array[:] = values(c.rank, length)
                c.all_reduce(array, op)
                expected = combine(
                    np.stack([values(r, length).astype(np.float64) for r in range(c.size)])
                )
                np.testing.assert_array_equal(array, expected.astype(np.float32))

        self.each(body)

    @pytest.mark.parametrize(
        "dtype", ["float16", "bfloat16", "float64", "int32", "int64", "uint8", "bool"]
    )
    def test_all_reduce_keeps_the_dtype(self, dtype: Any) -> None:
        dtype = dtypes.from_name(dtype).numpy

        def body(c: Communicator) -> None:
            array = np.full((3, 4), c.rank + 1).astype(dtype)
            c.all_reduce(array, ReduceOp.MAX)
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, np.full((3, 4), c.size).astype(dtype))
            if dtype.name in ("float16", "bfloat16", "float64"):
                array[:] = 2 * c.rank
                c.all_reduce(array, ReduceOp.AVG)
                assert array.dtype == dtype
                assert (array == c.size - 1).all()

        self.each(body)

    @pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
    def test_all_reduce_of_bits(self, dtype: str) -> None:
        combine = {"band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor}

        def body(c: Communicator) -> None:
            rows = np.stack([values(r, 50, "int32") + 13 * r for r in range(c.size)])
            rows = (rows % 3 > 0) if dtype == "bool" else rows.astype(dtype)
            for op, ufunc in combine.items():
                array = rows[c.rank].copy()
                c.all_reduce(array, op)
                np.testing.assert_array_equal(array, ufunc.reduce(rows))
            with pytest.raises(DtypeError, match="'bor' needs an array of integers"):
                c.all_reduce(np.zeros(2), "bor")

        self.each(body)

    def test_gather_and_scatter_may_be_asynchronous(self) -> None:
        def body(c: Communicator) -> None:
            length = 400_000
            out, part = np.empty((c.size, length), np.int64), np.empty(length, np.float32)
            table = np.stack([values(c.rank, length) + r for r in range(c.size)])
            works = [
                c.all_gather_into(out, values(c.rank, length, "int64"), async_op=True),
                c.reduce_scatter_into(part, table, "avg", async_op=True),
                c.barrier(async_op=True),
            ]
            for work in reversed(works):
                work.wait()
            for rank in range(c.size):
                np.testing.assert_array_equal(out[rank], values(rank, length, "int64"))
            mean = np.mean([values(r, length) for r in range(c.size)], 0, dtype=np.float64)
            np.testing.assert_allclose(part, mean + c.rank, rtol=1e-6)
            with pytest.raises(ShapeError, match="needs an output of shape"):
                c.all_gather_into(np.zeros((c.size, 3)), np.zeros(2))
            with pytest.raises(ShapeError, match="needs an output like one of its rows"):
                c.reduce_scatter_into(np.zeros(3), np.zeros((c.size, 2)))

        self.each(body)

    @pytest.mark.parametrize("length", [0, 1, 17, 300_001])
    def test_reduce_gather_scatter_to_every_root(self, length: int) -> None:
        def body(c: Communicator) -> None:
            for root in range(c.size):
                array = values(c.rank, length)
                c.reduce(array, root)
                total = sum(values(r, length) for r in range(c.size))
                here = total if c.rank == root else values(c.rank, length)
                np.testing.assert_array_equal(array, here)
                rows = np.empty((c.size, length), np.float32) if c.rank == root else None
                c.gather(values(c.rank, length), rows, root)
                if rows is not None:
                    for rank in range(c.size):
                        np.testing.assert_array_equal(rows[rank], values(rank, length))
                    rows += np.arange(c.size, dtype=np.float32)[:, None]
                mine = np.empty(length, np.float32)
                c.scatter(mine, rows, root)
                np.testing.assert_array_equal(mine, values(c.rank, length) + c.rank)
            half = np.full(5, c.rank, np.float16)
            c.reduce(half, 0, "avg")
            assert half[0] == (c.rank or (c.size - 1) / 2)

        self.each(body)

    def test_all_to_all_with_sizes_of_each_pair(self) -> None:
        def body(c: Communicator) -> None:
            for scale in (1, 50_000):
                inputs = [values(c.rank, scale * (c.rank + 2 * r)) + r for r in range(c.size)]
                outputs = [np.empty(scale * (r + 2 * c.rank), np.float32) for r in range(c.size)]
                c.all_to_all(outputs, inputs)
                for rank, array in enumerate(outputs):
                    expected = values(rank, scale * (rank + 2 * c.rank)) + c.rank
                    np.testing.assert_array_equal(array, expected)

        self.each(body)

    def test_exchanges_may_be_asynchronous(self) -> None:
        def body(c: Communicator) -> None:
            n = 200_000
            rows = np.empty((c.size, n), np.float32)
            table = np.stack([values(0, n) + r for r in range(c.size)])
            mine, summed = np.empty(n, np.float32), values(c.rank, n)
            cubes = [np.empty(n, np.float32) for _ in range(c.size)]
            works = [
                c.gather(values(c.rank, n), rows if c.rank == 0 else None, 0, async_op=True),
                c.scatter(mine, table if c.rank == 0 else None, 0, async_op=True),
                c.reduce(summed, c.size - 1, "sum", async_op=True),
                c.all_to_all(cubes, [values(c.rank, n)] * c.size, async_op=True),
            ]
            c.barrier()
            for work in reversed(works):
                work.wait()
                assert work.test()
            for rank in range(c.size):
                np.testing.assert_array_equal(cubes[rank], values(rank, n))
                if c.rank == 0:
                    np.testing.assert_array_equal(rows[rank], values(rank, n))
            np.testing.assert_array_equal(mine, values(0, n) + c.rank)
            if c.rank == c.size - 1:
                total = sum(values(r, n) for r in range(c.size))
                np.testing.assert_array_equal(summed, total)

        self.each(body)

    @pytest.mark.parametrize("length", [0, 1, 1000, 300_001])
    def test_messages_go_round(self, length: int) -> None:
        def body(c: Communicator) -> None:
            if c.size == 1:
                with pytest.raises(DistributedError, match="this rank itself"):
                    c.isend(np.zeros(3), 0)
                return
            after, before = (c.rank + 1) % c.size, (c.rank - 1) % c.size
            got = np.empty(length, np.float64)
            sending = c.isend(values(c.rank, length, "float64"), after, 3)
            receiving = c.irecv(got, before, 3)
            c.barrier()  # has its place in the order of collectives, whatever is under way
            receiving.wait()
            sending.wait()
            np.testing.assert_array_equal(got, values(before, length, "float64"))

        self.each(body)

    def test_messages_keep_their_order_and_tags(self) -> None:
        def body(c: Communicator) -> None:
            if c.size == 1:
                return
            if c.rank == 0:
                for number in range(3):
                    c.isend(np.array([number]), 1, 7).wait()
                c.isend(np.full(40_000, 5.0), 1, 8).wait()
            elif c.rank == 1:
                late = np.empty(40_000)
                c.irecv(late, 0, 8).wait()  # passes by those that came before
                assert (late == 5).all()
                for number in range(3):
                    got = np.empty(1, np.int64)
                    c.irecv(got, None, 7).wait()
                    assert got[0] == number
            total = np.array([c.rank])
            c.all_reduce(total)
            assert total[0] == c.size * (c.size - 1) // 2

        self.each(body)

    def test_a_receive_from_anyone_tells_who_sent(self) -> None:
        def body(c: Communicator) -> None:
            if c.rank > 0:
                c.isend(np.array([c.rank, 10 * c.rank]), 0).wait()
                return
            seen = []
            for _ in range(c.size - 1):
                got = np.empty(2, np.int64)
                work: Any = c.irecv(got)
                work.wait()
                assert work.source == got[0]
                assert got[1] == 10 * got[0]
                seen.append(int(got[0]))
            assert sorted(seen) == list(range(1, c.size))

        self.each(body)

    def test_a_message_of_another_size_is_named(self) -> None:
        def body(c: Communicator) -> None:
            if c.rank == 0 and c.size > 1:
                c.isend(np.zeros(3), 1).wait()
            if c.rank == 1:
                with pytest.raises(ShapeError, match="expected 40 bytes, came 24"):
                    c.irecv(np.zeros(5), 0).wait()
            c.barrier()

        self.each(body)

    def test_a_message_that_does_not_come_times_out(self) -> None:
        def body(c: Communicator) -> None:
            if c.rank == 1:
                work: Any = c.irecv(np.zeros(5), 0, 9)
                with pytest.raises(
                    DistributedError, match=r"waited 0\.2 s in a receive of 40 bytes from rank 0"
                ):
                    work.wait(0.2)
            c.barrier()

        self.each(body)

    def test_split_makes_groups_of_their_own(self) -> None:
        def body(c: Communicator) -> None:
            group = [r for r in range(c.size) if r % 2 == c.rank % 2][::-1]
            part = c.split(group)
            assert part is not None
            assert (part.rank, part.size) == (group.index(c.rank), len(group))
            array = np.array([float(c.rank)])
            part.all_reduce(array)
            assert array[0] == sum(group)
            bucket = part.allocate(400).view(np.float32)
            bucket[:] = c.rank
            part.all_reduce(bucket, "max")
            assert bucket[0] == max(group)
            assert part.all_gather_object(c.rank) == group
            assert f"[rank {c.rank}/{c.size}, number {part.rank} of group" in part.where
            del bucket
            part.close()
            first = c.split([0] if c.rank == 0 else None)
            assert (first is None) == (c.rank != 0)
            if first is not None:
                first.close()
            with pytest.raises(DistributedError, match="root 99 is no rank"):
                c.split([c.rank, 99])
            c.barrier()

        self.each(body)

    def test_results_are_the_same_bits_and_private(self) -> None:
        def body(c: Communicator) -> None:
            for in_window in (False, True):
                size = 4 * 123_457
                memory = c.allocate(size) if in_window else np.zeros(size, np.uint8)
                array = memory.view(np.float32)
                array[:] = np.random.default_rng(c.rank).standard_normal(array.size)
                c.all_reduce(array, ReduceOp.AVG)
                rows = c.all_gather(array)
                assert (rows.view(np.uint32) == rows[0].view(np.uint32)).all()
                before = array.copy()
                c.barrier()
                if c.rank == 0:
                    array *= 0  # an in-place edit on one rank ...
                c.barrier()
                if c.rank != 0:  # ... is not seen by the others
                    np.testing.assert_array_equal(array, before)

        self.each(body)

    def test_window_and_private_arrays_give_the_same_bits(self) -> None:
        def body(c: Communicator) -> None:
            private = np.random.default_rng(c.rank).standard_normal(70_001).astype(np.float32)
            window = c.allocate(private.nbytes).view(np.float32)
            window[:] = private
            c.all_reduce(private, ReduceOp.AVG)
            c.all_reduce(window, ReduceOp.AVG)
            if c.name in ("thread", "shm", "local"):
                assert private.tobytes() == window.tobytes()
            else:
                np.testing.assert_allclose(private, window, rtol=1e-6)

        self.each(body)

    @pytest.mark.parametrize("length", LENGTHS)
    def test_broadcast_gather_scatter(self, length: int) -> None:
        def body(c: Communicator) -> None:
            for root in range(c.size):
                array = values(c.rank, length, "int64")
                c.broadcast(array, root)
                np.testing.assert_array_equal(array, values(root, length, "int64"))
            rows = c.all_gather(values(c.rank, length))
            assert rows.shape == (c.size, length)
            for rank in range(c.size):
                np.testing.assert_array_equal(rows[rank], values(rank, length))
            table = np.stack([values(c.rank, length) + r for r in range(c.size)])
            mine = c.reduce_scatter(table)
            expected = sum(values(r, length).astype(np.float64) + c.rank for r in range(c.size))
            np.testing.assert_array_equal(mine, expected)

        self.each(body)

    def test_shapes_and_empty_arrays(self) -> None:
        def body(c: Communicator) -> None:
            scalar = np.array(2.0)
            c.all_reduce(scalar)
            assert scalar == 2.0 * c.size
            assert c.all_gather(np.array(c.rank)).tolist() == list(range(c.size))
            empty = np.zeros((0, 3), np.float32)
            c.all_reduce(empty)
            c.broadcast(empty)
            assert c.all_gather(empty).shape == (c.size, 0, 3)
            assert c.allocate(0).size == 0
            cube = np.full((2, 3, 4), float(c.rank))
            c.broadcast(cube, c.size - 1)
            assert (cube == c.size - 1).all()

        self.each(body)

    def test_objects(self) -> None:
        def body(c: Communicator) -> None:
            value = {"rank": c.rank, "text": "x" * (c.rank * 1000)}
            everywhere = c.all_gather_object(value)
            assert [v["rank"] for v in everywhere] == list(range(c.size))
            assert len(everywhere[-1]["text"]) == 1000 * (c.size - 1)
            assert c.broadcast_object(("from", c.rank), c.size - 1) == ("from", c.size - 1)

        self.each(body)

    def test_many_asynchronous_collectives_in_any_mixture(self) -> None:
        def body(c: Communicator) -> None:
            private = [values(c.rank, n) for n in (10, 300_000, 5, 70_000)] * 30
            windows = [c.allocate(4 * n).view(np.float32) for n in (100, 200_000)]
            works = []
            for number, array in enumerate(private):
                works.append(c.all_reduce(array := array.copy(), async_op=True))
                private[number] = array
            for window in windows:
                window[:] = values(c.rank, window.size)
                works.append(c.all_reduce(window, ReduceOp.MAX, async_op=True))
            c.barrier()
            token = np.array([float(c.rank)])
            works.append(c.broadcast(token, 0, async_op=True))
            for work in reversed(works):
                work.wait()
                assert work.test()
            for array in private:
                expected = sum(values(r, array.size) for r in range(c.size))
                np.testing.assert_array_equal(array, expected)
            for window in windows:
                rows = np.stack([values(r, window.size) for r in range(c.size)])
                np.testing.assert_array_equal(window, rows.max(0))
            assert token[0] == 0

        self.each(body)

    def test_large_asynchronous_collectives_keep_their_order_whatever_is_asked(self) -> None:
        def body(c: Communicator) -> None:
            first, second = values(c.rank, 3_000_000), 2 * values(c.rank, 3_000_000)
            one = c.all_reduce(first, async_op=True)
            c.barrier(async_op=True)
            for _ in range(5 * c.rank):  # some ranks have come further when the next one begins
                one.test()
                time.sleep(0.001)
            two = c.all_reduce(second, async_op=True)
            two.wait()
            one.wait()
            total = sum(values(r, 3_000_000) for r in range(c.size))
            np.testing.assert_array_equal(first, total)
            np.testing.assert_array_equal(second, 2 * total)

        self.each(body)

    def test_test_alone_makes_progress(self) -> None:
        def body(c: Communicator) -> None:
            array = values(c.rank, 1_000_000)
            work = c.all_reduce(array, async_op=True)
            deadline = time.monotonic() + 20
            while not work.test():
                assert time.monotonic() < deadline
                time.sleep(0)
            expected = sum(values(r, array.size) for r in range(c.size))
            np.testing.assert_array_equal(array, expected)

        self.each(body)

    def test_memory_is_aligned_zeroed_and_outlives_the_communicator(self) -> None:
        def body(c: Communicator) -> None:
            memory = c.allocate(1000)
            assert memory.ctypes.data % 64 == 0
            assert not memory.any()
            memory[:] = 7
            c.close()
            c.close()
            assert (memory == 7).all()

        self.each(body)

    def test_bad_arguments(self) -> None:
        def body(c: Communicator) -> None:
            where = rf"\[rank {c.rank}/{c.size}\]"
            with pytest.raises(ShapeError, match=f"{where} all_reduce needs a C-contiguous array"):
                c.all_reduce(np.zeros((4, 4))[:, ::2])
            with pytest.raises(DtypeError, match="Python objects"):
                c.broadcast(np.array([None]))
            with pytest.raises(DtypeError, match="floating-point array, got int64"):
                c.all_reduce(np.zeros(2, np.int64), "avg")
            with pytest.raises(OptionError, match="unknown reduction 'median'; known: 'sum', "):
                c.all_reduce(np.zeros(2), "median")
            with pytest.raises(DistributedError, match=f"root {c.size} is no rank"):
                c.broadcast(np.zeros(2), c.size)
            with pytest.raises(ShapeError, match="one row per rank"):
                c.reduce_scatter(np.zeros((c.size + 1, 2)))
            locked = np.zeros(2)
            locked.flags.writeable = False
            with pytest.raises(ShapeError, match="read-only"):
                c.all_reduce(locked)
            c.barrier()

        self.each(body)
