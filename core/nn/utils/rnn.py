"""Batches of sequences of different lengths, packed for recurrent layers or padded.

The names and results are those of `torch.nn.utils.rnn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backend.arrays import on, to_host
from ...errors import OptionError, ShapeError
from ...tensors import Tensor
from ...tensors.creation import full
from ...tensors.joining import cat, stack

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences of different lengths as one tensor, time step after time step.

    Made by `pack_padded_sequence` and `pack_sequence`; recurrent layers take and return it.

    Attributes:
        data: (sum of lengths, ...): the first step of all sequences, the longest sequence first,
            then the second step of those that have one, and so on.
        batch_sizes: int64, how many sequences have a step 0, 1, ...
        sorted_indices: the sequences in order of length, or None if they were given so.
        unsorted_indices: the inverse of it.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        """The fields; `unsorted_indices` follows from `sorted_indices`."""
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with its data cast or moved; itself if nothing changes."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        given = (self.sorted_indices, self.unsorted_indices)
        ordered, back = (None if t is None else t.to(data.device) for t in given)
        return self._replace(data=data, sorted_indices=ordered, unsorted_indices=back)

    def float(self) -> PackedSequence:
        """The same in float32."""
        return self.to(self.data.float().dtype)

    def double(self) -> PackedSequence:
        """The same in float64."""
        return self.to(self.data.double().dtype)

    def cpu(self) -> PackedSequence:
        """The same in main memory; itself if it is there."""
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same on a GPU, its `batch_sizes` still in main memory; itself if it is there."""
        return self.to(self.data.cuda(*args, **kwargs).device)

    def pin_memory(self) -> PackedSequence:
        """The same in pinned memory."""
        return PackedSequence(*(None if t is None else t.pin_memory() for t in self))  # type: ignore[arg-type]

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes `permutation`."""
    return None if permutation is None else Tensor(np.argsort(permutation._array, kind="stable"))


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack padded sequences (T, N, ...), or (N, T, ...) with `batch_first`.

    Args:
        lengths: of the sequences, each at least 1; best in main memory, where they are read.
        enforce_sorted: the lengths must be in decreasing order; False sorts them.

    Raises:
        RuntimeError: lengths that are not positive, not sorted, or do not fit the input.

    >>> import allgrad as ag
    >>> packed = pack_padded_sequence(ag.tensor([[1, 2, 3], [4, 5, 0]]), [3, 2], batch_first=True)
    >>> packed.data, packed.batch_sizes
    (tensor([1, 4, 2, 5, 3]), tensor([2, 2, 1]))
    """
    name = "pack_padded_sequence"
    counts = _counts(lengths)
    if input.ndim < 2:
        raise ShapeError(f"{name}: expected at least 2 dimensions, came {tuple(input.shape)}")
    x = input.transpose(0, 1) if batch_first else input
    steps, n = x.shape[:2]
    if len(counts) != n:
        raise ShapeError(f"{name}: expected one length for each of {n} sequences, came {counts}")
    if (counts <= 0).any() or (counts > steps).any():
        raise ShapeError(f"{name}: expected lengths within 1..{steps}, came {counts.tolist()}")
    order = None
    if enforce_sorted:
        if (np.diff(counts) > 0).any():
            raise ShapeError(
                f"{name}: expected lengths in decreasing order, came {counts.tolist()}; sort the "
                "sequences or pass enforce_sorted=False"
            )
    else:
        order = np.argsort(-counts, kind="stable")
        counts, x = counts[order], x.index_select(1, _beside(order, x))
    sizes = (counts[None] > np.arange(counts.max(initial=0))[:, None]).sum(axis=1)
    taken = np.concatenate([t * n + np.arange(size) for t, size in enumerate(sizes)])
    data = x.flatten(0, 1).index_select(0, _beside(taken, x))
    return PackedSequence(data, Tensor(sizes), None if order is None else _beside(order, x))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The inverse of `pack_padded_sequence`: (padded, lengths), in the original order.

    Args:
        total_length: of the result; by default that of the longest sequence.

    Raises:
        ValueError: `total_length` is less than the length of the longest sequence.
    """
    sizes = to_host(sequence.batch_sizes._array)
    n, steps = int(sizes[0]), len(sizes)
    if total_length is not None and total_length < steps:
        raise OptionError(
            f"pad_packed_sequence: expected total_length of at least {steps}, the length of the "
            f"longest sequence, came {total_length}"
        )
    total, data = total_length or steps, sequence.data
    places = np.full((total, n), len(data._array))  # the row of padding behind the data
    ends = np.cumsum(sizes)
    for t, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        places[t, :size] = np.arange(end - size, end)
    lengths = (sizes[:, None] > np.arange(n)).sum(axis=0)
    if sequence.unsorted_indices is not None:
        back = to_host(sequence.unsorted_indices._array)
        places, lengths = places[:, back], lengths[back]
    if batch_first:
        places = np.ascontiguousarray(places.T)
    padding = full((1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    rows = cat([data, padding]).index_select(0, _beside(places.ravel(), data))
    return rows.reshape(*places.shape, *data.shape[1:]), Tensor(lengths)


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences (T_i, ...) as one tensor (T, N, ...), padded to the longest.

    Raises:
        RuntimeError: no sequence, or an unknown side.

    >>> import allgrad as ag
    >>> pad_sequence([ag.tensor([1, 2, 3]), ag.tensor([4])], batch_first=True)
    tensor([[1, 2, 3],
            [4, 0, 0]])
    """
    parts = list(sequences)
    if padding_side not in ("left", "right"):
        raise ShapeError(f"pad_sequence: expected padding_side left or right, came {padding_side}")
    if not parts:
        raise ShapeError("pad_sequence: expected at least one sequence, came none")
    longest = max(len(p) for p in parts)
    padded = []
    for part in parts:
        missing = longest - len(part)
        if missing:
            fill = full(
                (missing, *part.shape[1:]), padding_value, dtype=part.dtype, device=part.device
            )
            part = cat([part, fill] if padding_side == "right" else [fill, part])
        padded.append(part)
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """The sequences of a padded batch, each cut to its length."""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [x[i, :count] for i, count in enumerate(_counts(lengths).tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (T_i, ...); see `pack_padded_sequence`."""
    lengths = [len(s) for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch, in the original order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)


def _counts(lengths: Tensor | Sequence[int]) -> Any:
    if isinstance(lengths, Tensor):
        return to_host(lengths._array).astype(np.int64)
    return np.asarray([int(n) for n in lengths]).astype(np.int64)


def _beside(indices: np.ndarray, x: Tensor) -> Tensor:
    return Tensor(on(indices, x._array))
