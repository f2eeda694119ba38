"""Communication hooks with PyTorch's signature: ``hook(state, bucket) -> Future[Tensor]``.

Stage of the flow: a `Reduction` that asks the user's hook. May import: `bucket`, `reduction`,
`comm_hooks.bucket`, `allgrad`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allgrad import Tensor
from allgrad.backend.arrays import address_of
from allgrad.ddp.bucket import Bucket
from allgrad.ddp.communicators.base import Communicator, Work
from allgrad.ddp.futures import Future
from allgrad.ddp.reduction import Reduction
from allgrad.errors import DistributedError, ShapeError

CommHook = Callable[[Any, Any], Any]


class HookReduction(Reduction):
    """Gives every bucket to a hook and takes what its future holds as the mean.

    Args:
        communicator: whose ranks call the hook, in the same order for the same buckets.
        state: handed to the hook as it is.
        hook: called as ``hook(state, bucket)`` with a `GradBucket`; the values of its buffer are
            this rank's gradients. It returns a future of the mean, a tensor or array with as many
            elements as the buffer, or the buffer itself, changed in place.

    Attributes:
        name: of the hook, for messages.
    """

    def __init__(self, communicator: Communicator, state: Any, hook: CommHook) -> None:
        self._communicator, self._state, self._hook = communicator, state, hook
        self.name: str = getattr(hook, "__name__", repr(hook))

    def reduce(self, bucket: Bucket) -> Work:
        from allgrad.ddp.comm_hooks.bucket import GradBucket  # noqa: PLC0415 - hooks are optional

        future = self._hook(self._state, GradBucket(bucket))
        if not hasattr(future, "wait"):
            raise DistributedError(
                f"{self._communicator.where} the communication hook {self.name} must return a "
                f"Future, came {type(future).__name__}; return the future of the collective, or "
                "future.then(function)"
            )
        return _HookWork(self._communicator, bucket, future)


class _HookWork:
    """Takes the future's value into the bucket."""

    def __init__(self, communicator: Communicator, bucket: Bucket, future: Any) -> None:
        self._communicator, self._bucket, self._future = communicator, bucket, future

    def test(self) -> bool:
        # What follows in a chain of futures may issue collectives, whose order must not depend on
        # when others have arrived: so the chain is followed in `wait`, bucket by bucket.
        if isinstance(self._future, Future):
            self._future.push()
        return False

    def wait(self) -> None:
        value = self._future.wait()
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        array = value._canonical() if isinstance(value, Tensor) else value
        flat = self._bucket.flat
        if array.size != flat.size:
            raise ShapeError(
                f"{self._communicator.where} the communication hook gave {array.size} elements for "
                f"{self._bucket.note}, which has {flat.size}"
            )
        if address_of(array) != address_of(flat):
            flat[...] = array.reshape(-1)
