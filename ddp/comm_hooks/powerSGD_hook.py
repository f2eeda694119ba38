# ruff: noqa: N999 - PyTorch's name
"""PowerSGD: gradients travel as products of two thin matrices, and what is lost comes later.

May import: `bucket`, `default_hooks`, `low_rank`, `futures`, ``allgrad``. Names, arguments and
defaults as ``torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook``.

Source: Vogels, Karimireddy, Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for
Distributed Optimization", NeurIPS 2019, algorithms 1 (compression) and 2 (error feedback).

Note [Order of a hook's collectives]
    The second product can be sent only when the first has arrived. The reducer follows such chains
    bucket by bucket after all buckets were launched, so all ranks issue the same collectives in the
    same order, whenever messages arrive.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from allgrad import Tensor, devices
from allgrad.backend import arrays
from allgrad.ddp.comm_hooks.bucket import GradBucket, same_place
from allgrad.ddp.comm_hooks.default_hooks import allreduce_hook, communicator_of
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.futures import Future, future_of
from allgrad.ddp.process_group import ProcessGroup
from allgrad.errors import OptionError

_log = logging.getLogger("allgrad.ddp")


class PowerSGDState:
    """Options and memory of `powerSGD_hook` and `batched_powerSGD_hook`; one per wrapped model.

    Args:
        process_group: None: the default group.
        matrix_approximation_rank: columns of the thin matrices: more send more and lose less.
        start_powerSGD_iter: steps that are sent uncompressed before; early gradients are
            sensitive. With error feedback or warm start at least 2: buckets may be cut anew after
            the first step.
        min_compression_rate: a matrix is compressed if that saves at least this factor.
        use_error_feedback: add what one step's compression lost to the next step's gradient.
        warm_start: begin from the last step's right matrix instead of a random one.
        orthogonalization_epsilon: added to the norm of each column by Gram-Schmidt's method; 0
            takes a QR decomposition, which needs none.
        random_seed: of the right matrices; the same on all ranks.
        compression_stats_logging_frequency: steps between log lines about the compression rate.
        batch_tensors_with_same_shape: multiply matrices of one shape in one call.

    Raises:
        OptionError: start_powerSGD_iter is below 2 although errors or matrices are kept.

    The state can be pickled and so saved with a checkpoint of this rank; errors are the rank's own.
    """

    def __init__(
        self,
        process_group: ProcessGroup | None,
        matrix_approximation_rank: int = 1,
        start_powerSGD_iter: int = 1_000,  # noqa: N803 - PyTorch's name
        min_compression_rate: float = 2,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        orthogonalization_epsilon: float = 0,
        random_seed: int = 0,
        compression_stats_logging_frequency: int = 10_000,
        batch_tensors_with_same_shape: bool = False,
    ) -> None:
        if start_powerSGD_iter < 2 and (use_error_feedback or warm_start):
            raise OptionError(
                f"PowerSGDState: start_powerSGD_iter={start_powerSGD_iter}: expected at least 2 "
                "with use_error_feedback or warm_start, because buckets may be cut anew after the "
                "first step"
            )
        self.process_group = process_group
        self.matrix_approximation_rank = matrix_approximation_rank
        self.start_powerSGD_iter = start_powerSGD_iter
        self.min_compression_rate = min_compression_rate
        self.use_error_feedback = use_error_feedback
        self.warm_start = warm_start
        self.orthogonalization_epsilon = orthogonalization_epsilon
        self.compression_stats_logging_frequency = max(1, compression_stats_logging_frequency)
        self.batch_tensors_with_same_shape = batch_tensors_with_same_shape
        self.rng = np.random.default_rng(random_seed)
        self.iter = 0
        self.total_numel_before_compression = 0
        self.total_numel_after_compression = 0
        # by bucket; the layout of the bucket is kept with them, for buckets may be cut anew
        self.errors: dict[int, tuple[tuple[str, ...], Array]] = {}
        self.right: dict[int, tuple[tuple[str, ...], list[Array]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "process_group"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.process_group = None
        self.__dict__.update(state)

    def compression_stats(self) -> tuple[float, int, int]:
        """(rate, elements before, elements after) over all compressed steps so far."""
        before, after = self.total_numel_before_compression, self.total_numel_after_compression
        return (before / after if after else 0.0), before, after

    def begin_bucket(self, bucket: GradBucket) -> bool:
        """Count steps; whether this bucket is to be compressed."""
        compress = self.iter >= self.start_powerSGD_iter
        if (
            compress
            and bucket.is_last()
            and self.iter % self.compression_stats_logging_frequency == 0
        ):
            rate, before, after = self.compression_stats()
            _log.info(
                "PowerSGD, step %d: %d elements became %d (%.1fx)", self.iter, before, after, rate
            )
        if bucket.is_last():
            self.iter += 1
        return compress

    def error_of(self, bucket: GradBucket, flat: Array) -> Array | None:
        """Add what earlier steps lost to `flat`; the memory for what this one loses, or None."""
        if not self.use_error_feedback:
            return None
        layout, error = self.errors.get(bucket.index(), ((), None))
        if error is None or layout != bucket.layout() or error.size != flat.size:
            error = np.zeros_like(flat)
            self.errors[bucket.index()] = (bucket.layout(), error)
        flat += error
        error[...] = 0
        return error

    def right_matrices(
        self, bucket: GradBucket, shapes: Sequence[tuple[int, int]], like: Array
    ) -> list[Array]:
        """The matrices Q of this bucket, (columns, rank): the last step's, or random ones.

        They lie where `like` does, in its dtype.
        """
        layout, kept = self.right.get(bucket.index(), ((), []))
        if not self.warm_start or layout != bucket.layout() or [q.shape for q in kept] != shapes:
            # one draw per bucket and step on every rank, so that all draw the same
            drawn = [self.rng.standard_normal(shape).astype(like.dtype) for shape in shapes]
            kept = [devices.moved(q, devices.of(like)) for q in drawn]
            self.right[bucket.index()] = (bucket.layout(), kept)
            for q in kept:
                orthogonalize(q, self.orthogonalization_epsilon)
        return kept


def powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Future[Tensor]:  # noqa: N802 - PyTorch's
    """Average each matrix of the bucket as a product of two thin ones; vectors go uncompressed.

    Args:
        state: the same options on all ranks.
        bucket: gradients of 2 and more dimensions count as matrices (first dimension, the rest).

    Returns:
        The future of the bucket's buffer, which then holds the approximate mean.
    """
    if not state.begin_bucket(bucket):
        return allreduce_hook(state.process_group, bucket)
    buffer = bucket.buffer()
    flat = buffer._array
    communicator = communicator_of(state.process_group)
    error = state.error_of(bucket, flat)
    matrices, vectors = _divide(state, bucket)
    losses = None if error is None else [same_place(m, flat, error) for m in matrices]
    return _LowRank(state, bucket, communicator, matrices, vectors, losses).start(buffer)


def batched_powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Future[Tensor]:  # noqa: N802
    """Average the whole bucket as one square matrix: faster than `powerSGD_hook`, loses more.

    Source: Vogels et al. compress matrix by matrix; this variant is PyTorch's.
    """
    if not state.begin_bucket(bucket):
        return allreduce_hook(state.process_group, bucket)
    buffer = bucket.buffer()
    flat = buffer._array
    communicator = communicator_of(state.process_group)
    side = math.ceil(math.sqrt(flat.size))
    square = np.zeros_like(flat, shape=(side, side))
    square.reshape(-1)[: flat.size] = flat
    error = state.error_of(bucket, square.reshape(-1))
    losses = None if error is None else [error.reshape(square.shape)]

    def copy_back(done: Future[Tensor]) -> Tensor:
        flat[...] = square.reshape(-1)[: flat.size]
        return done.value()

    work = _LowRank(state, bucket, communicator, [square], [], losses)
    return work.start(buffer).then(copy_back)


class _LowRank:
    """One bucket on its way: P = M Q, mean, orthonormal; Q = M^T P, mean; result P Q^T.

    What a rank loses, M - P (M^T P)^T with its own M, goes into `losses`, shaped as the matrices.
    """

    def __init__(
        self,
        state: PowerSGDState,
        bucket: GradBucket,
        communicator: Communicator,
        matrices: list[Array],
        vectors: list[Array],
        losses: list[Array] | None,
    ) -> None:
        self._state, self._communicator, self._losses = state, communicator, losses
        self._matrices, self._vectors = matrices, vectors
        self._flat = bucket.buffer()._array
        rank = state.matrix_approximation_rank
        shapes = [(m.shape[1], min(rank, *m.shape)) for m in matrices]
        self._right = state.right_matrices(bucket, shapes, self._flat)
        self._count(matrices, vectors, shapes)

    def _count(
        self, matrices: list[Array], vectors: list[Array], shapes: list[tuple[int, int]]
    ) -> None:
        whole = sum(v.size for v in vectors)
        self._state.total_numel_before_compression += whole + sum(m.size for m in matrices)
        self._state.total_numel_after_compression += whole + sum(
            (m.shape[0] + m.shape[1]) * r for m, (_, r) in zip(matrices, shapes, strict=True)
        )

    def start(self, buffer: Tensor) -> Future[Tensor]:
        """Send the vectors with the left matrices; the rest follows in the chain."""
        left = self._products(self._matrices, self._right)
        self._left_wire, self._left = _pack(
            [arrays.contiguous(v).reshape(-1) for v in self._vectors] + left, self._flat
        )
        wire = self._left_wire
        work = self._communicator.of(wire).all_reduce(wire, ReduceOp.AVG, async_op=True)
        first: Future[Tensor] = future_of(work, lambda: buffer)
        return first.then(self._second).then(self._third)

    def _second(self, done: Future[Tensor]) -> Tensor:
        count = len(self._vectors)
        for vector, mean in zip(self._vectors, self._left[:count], strict=True):
            vector[...] = mean.reshape(vector.shape)
        left = self._left[count:]
        for p in left:
            orthogonalize(p, self._state.orthogonalization_epsilon)
        right = self._products([m.T for m in self._matrices], left)
        for loss, matrix, p, q in zip(
            self._losses or (), self._matrices, left, right, strict=False
        ):
            np.subtract(matrix, p @ q.T, out=loss)
        wire, views = _pack(right, self._flat)
        if wire.size:
            self._communicator.of(wire).all_reduce(wire, ReduceOp.AVG)
        for q, mean in zip(self._right, views, strict=True):
            q[...] = mean
        return done.value()

    def _third(self, done: Future[Tensor]) -> Tensor:
        for matrix, p, q in zip(
            self._matrices, self._left[len(self._vectors) :], self._right, strict=True
        ):
            np.matmul(p, q.T, out=matrix)
        return done.value()

    def _products(self, matrices: Sequence[Array], right: Sequence[Array]) -> list[Array]:
        """The matrices times their thin ones; those of one shape in one call if wanted."""
        if not self._state.batch_tensors_with_same_shape:
            return [m @ q for m, q in zip(matrices, right, strict=True)]
        products: list[Array] = [np.empty(0)] * len(matrices)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, matrix in enumerate(matrices):
            groups.setdefault(matrix.shape, []).append(index)
        for indices in groups.values():
            stack = np.stack([matrices[i] for i in indices]) @ np.stack([right[i] for i in indices])
            for index, product in zip(indices, stack, strict=True):
                products[index] = product
        return products


def _divide(state: PowerSGDState, bucket: GradBucket) -> tuple[list[Array], list[Array]]:
    """The bucket's gradients as matrices worth compressing, and the others, as views."""
    matrices, vectors = [], []
    for gradient in bucket.gradients():
        array = gradient._array
        matrix = array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)
        rows, columns = matrix.shape
        rank = min(state.matrix_approximation_rank, rows, columns)
        if (rows + columns) * rank * state.min_compression_rate < matrix.size:
            matrices.append(matrix)
        else:
            vectors.append(array)
    return matrices, vectors


def _pack(parts: list[Array], like: Array) -> tuple[Array, list[Array]]:
    """One flat array with the values of all, beside `like`, and views of their shapes in it."""
    wire = np.empty_like(like, shape=(sum(part.size for part in parts),))
    views, start = [], 0
    for array in parts:
        view = wire[start : start + array.size].reshape(array.shape)
        view[...] = array
        views.append(view)
        start += array.size
    return wire, views


def orthogonalize(matrix: Array, epsilon: float = 0) -> None:
    """Make the columns of a tall matrix (rows, rank) orthonormal, in place.

    Args:
        matrix: floating-point; columns that depend on others become some orthonormal ones. Half
            precision is computed in float32.
        epsilon: above 0: Gram-Schmidt's method, with epsilon added to each norm; 0: Householder's
            QR decomposition.
    """
    if matrix.dtype.itemsize < 4:
        wide = matrix.astype(np.float32)
        orthogonalize(wide, epsilon)
        matrix[...] = wide
        return
    if epsilon == 0:
        matrix[...] = np.linalg.qr(matrix)[0]
        return
    for column in range(matrix.shape[1]):
        vector = matrix[:, column]
        vector /= np.linalg.norm(vector) + epsilon
        rest = matrix[:, column + 1 :]
        rest -= np.outer(vector, vector @ rest)
