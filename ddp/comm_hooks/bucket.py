"""What a communication hook sees of one bucket. May import: `ddp.bucket`, ``allgrad``."""

from __future__ import annotations

from allgrad import Tensor
from allgrad.ddp.bucket import Bucket, elements_between
from allgrad.ddp.communicators.base import Array
from allgrad.errors import DtypeError, ShapeError


class GradBucket:
    """Gradients of some parameters in one flat tensor; methods as ``torch.distributed.GradBucket``.

    All tensors share the bucket's memory: changing them in place changes the gradients.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def index(self) -> int:
        """Position in the order in which the buckets of a step are reduced, from 0."""
        return self._bucket.index

    def is_last(self) -> bool:
        """Whether no bucket of this step follows."""
        return self._bucket.is_last

    def buffer(self) -> Tensor:
        """All gradients one after the other: shape (elements,), with gaps of zeros between them.

        Each gradient starts on a multiple of 64 bytes, so there are more elements than in
        PyTorch's bucket of the same parameters.
        """
        return Tensor(self._bucket.flat)

    def gradients(self) -> list[Tensor]:
        """The gradients in their own shapes, in the order of `buffer`."""
        return [Tensor(view) for view in self._bucket.views]

    def parameters(self) -> list[Tensor]:
        """The parameters that they belong to, in the same order."""
        return list(self._bucket.params)

    def set_buffer(self, buffer: Tensor) -> None:
        """Replace the values of all gradients.

        Raises:
            ShapeError: another number of elements than `buffer()` has.
            DtypeError: another dtype.
        """
        flat, array = self._bucket.flat, buffer._canonical()
        if array.size != flat.size:
            raise ShapeError(
                f"set_buffer: {self._bucket.note} has {flat.size} elements, came {array.size}"
            )
        if array.dtype != flat.dtype:
            raise DtypeError(
                f"set_buffer: {self._bucket.note} is {flat.dtype}, came {array.dtype}; cast it"
            )
        flat[...] = array.reshape(-1)

    def layout(self) -> tuple[str, ...]:
        """The names of the parameters: what a hook that remembers something of a bucket goes by.

        Buckets are cut anew when the order in which gradients become ready has changed.
        """
        return tuple(self._bucket.names)


def same_place(view: Array, flat: Array, other: Array) -> Array:
    """The part of `other` that lies where `view` lies in `flat`, in the shape of `view`."""
    start = elements_between(flat, view)
    return other[start : start + view.size].reshape(view.shape)
