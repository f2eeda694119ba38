"""Hooks that send gradients as they are, or in half precision.

May import: `bucket`, `hook_marks`, `futures`, `process_group`, `communicators.base`, ``allgrad``.

Source: ``torch.distributed.algorithms.ddp_comm_hooks.default_hooks``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allgrad import Tensor, bfloat16, float16
from allgrad.ddp.comm_hooks.bucket import GradBucket, same_place
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.futures import Future, future_of
from allgrad.ddp.hook_marks import do_replicas_differ, lets_replicas_differ
from allgrad.ddp.process_group import ProcessGroup, default_group

Hook = Callable[[Any, GradBucket], Future[Tensor]]


def communicator_of(group: ProcessGroup | None) -> Communicator:
    """The communicator of a group; of the default group for None."""
    return (group or default_group()).communicator


def allreduce_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Average the bucket over the ranks: what happens without a hook.

    Args:
        process_group: the state given to `register_comm_hook`; None: the default group.
        bucket: this rank's gradients.
    """
    communicator, buffer = communicator_of(process_group), bucket.buffer()
    flat, op = buffer._array, ReduceOp.AVG
    if flat.dtype == np.float16:  # whose sum may overflow where the mean does not
        flat /= communicator.size
        op = ReduceOp.SUM
    work = communicator.of(flat).all_reduce(flat, op, async_op=True)
    return future_of(work, lambda: buffer)


def fp16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Average the bucket in float16: half the bytes, 11 bits of mantissa.

    Gradients are divided by the number of ranks before they are sent, so that their sum does not
    overflow where the mean would not (float16 ends at 65,504).
    """
    return _compressed(process_group, bucket, float16.numpy)


def bf16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Average the bucket in bfloat16: half the bytes, the range of float32, 8 bits of mantissa."""
    return _compressed(process_group, bucket, bfloat16.numpy)


def _compressed(
    process_group: ProcessGroup | None, bucket: GradBucket, dtype: np.dtype
) -> Future[Tensor]:
    communicator = communicator_of(process_group)
    buffer = bucket.buffer()
    flat = buffer._array
    with np.errstate(over="ignore"):  # inf then says so on all ranks, for GradScaler to see
        wire: Array = (flat / communicator.size).astype(dtype)
    work = communicator.of(wire).all_reduce(wire, ReduceOp.SUM, async_op=True)

    def decompress() -> Tensor:
        flat[...] = wire
        return buffer

    return future_of(work, decompress)


def fp16_compress_wrapper(hook: Hook) -> Hook:
    """A hook that gives `hook` the bucket in float16, and the result back in the bucket's dtype."""
    return _wrapper(hook, float16.numpy)


def bf16_compress_wrapper(hook: Hook) -> Hook:
    """A hook that gives `hook` the bucket in bfloat16; see `fp16_compress_wrapper`."""
    return _wrapper(hook, bfloat16.numpy)


def _wrapper(hook: Hook, dtype: np.dtype) -> Hook:
    def wrapped(state: Any, bucket: GradBucket) -> Future[Tensor]:
        buffer = bucket.buffer()
        flat = buffer._array

        def decompress(done: Future[Tensor]) -> Tensor:
            flat[...] = done.value()._canonical().reshape(-1)
            return buffer

        return hook(state, _Narrowed(bucket, dtype)).then(decompress)

    return lets_replicas_differ(wrapped) if do_replicas_differ(hook) else wrapped


class _Narrowed(GradBucket):
    """A bucket's gradients in another dtype, in memory of their own."""

    def __init__(self, bucket: GradBucket, dtype: np.dtype) -> None:
        super().__init__(bucket._bucket)
        flat = self._bucket.flat
        self._narrow: Array = flat.astype(dtype)

    def buffer(self) -> Tensor:
        return Tensor(self._narrow)

    def gradients(self) -> list[Tensor]:
        flat, views = self._bucket.flat, self._bucket.views
        return [Tensor(same_place(view, flat, self._narrow)) for view in views]

    def set_buffer(self, buffer: Tensor) -> None:
        self._narrow[...] = buffer._canonical().reshape(-1)
