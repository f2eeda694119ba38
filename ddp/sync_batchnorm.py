"""Batch norm over the batches of all ranks; names as ``torch.nn.SyncBatchNorm``.

Stage of the flow: a layer of the user's model. May import: `process_group`, `communicators.base`,
``allgrad``.

Note [Sums of other ranks' losses]
    The statistics of all ranks stand in every rank's output, so the gradient of a rank's input
    holds terms of the other ranks' losses. `DistributedDataParallel` afterwards counts each rank by
    its samples n_r, and those terms must count by the samples of the rank that they come from. So
    where the numbers differ, the two sums per channel are weighted by n_r before they are added up
    over the ranks, and divided by this rank's own number afterwards; then all gradients are those
    of one rank with the whole batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allgrad import Tensor, backend
from allgrad.autograd.engine import backward_is_running
from allgrad.backend import arrays
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.process_group import ProcessGroup, default_group, is_initialized
from allgrad.errors import ArgumentError
from allgrad.nn import Module
from allgrad.nn.modules.norm import _BatchNorm
from allgrad.ops.base import Op
from allgrad.tensors.graph import apply


class SyncBatchNorm(_BatchNorm):
    """Batch norm of (N, C, ...) whose statistics are those of all ranks' batches together.

    In training the ranks exchange mean, variance and number of their elements in forward, and two
    sums per channel in backward; the batches may be of different sizes. In evaluation, and with one
    rank, it is a plain batch norm. All ranks must call it the same number of times: a rank that
    runs out of batches while others train is an error on all ranks.

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats: as `BatchNorm2d`.
        process_group: whose ranks share statistics; default: the default group.

    Raises:
        ArgumentError: (in forward) fewer than 2 dimensions, or one value per channel on all ranks
            together.

    Source: Ioffe & Szegedy 2015; statistics are combined as in Chan, Golub, LeVeque, "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group

    def _check(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ArgumentError(
                f"SyncBatchNorm: expected at least 2 dimensions (N, C, ...), came "
                f"{tuple(input.shape)}"
            )
        if input.shape[1] != self.num_features:
            raise ArgumentError(
                f"SyncBatchNorm: expected {self.num_features} channels, came {tuple(input.shape)}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; see the class."""
        group = self._group()
        if group is None or not (self.training or not self.track_running_stats):
            return super().forward(input)
        self._check(input)
        op = _SyncBatchNorm(self.eps, group)
        y: Tensor = apply(op, input, self.weight, self.bias)
        if self.training and self.track_running_stats:
            self._track(op)
        return y

    def _group(self) -> ProcessGroup | None:
        """The group, if it has several ranks."""
        group = self.process_group
        if group is None and is_initialized():
            group = default_group()
        return None if group is None or group.size == 1 else group

    def _track(self, op: _SyncBatchNorm) -> None:
        self.num_batches_tracked._array += 1
        self.num_batches_tracked._bump_version()
        momentum = self.momentum
        factor = 1.0 / float(self.num_batches_tracked) if momentum is None else momentum
        unbiased = op.var * (op.count / (op.count - 1))
        for running, now in ((self.running_mean, op.mean), (self.running_var, unbiased)):
            held = running._array
            held *= 1 - factor
            held += (factor * now).astype(held.dtype, copy=False)
            running._bump_version()

    @classmethod
    def convert_sync_batchnorm(
        cls, module: Module, process_group: ProcessGroup | None = None
    ) -> Module:
        """Replace every batch norm in the module by one over all ranks, keeping its parameters.

        Args:
            module: changed in place, unless it is itself a batch norm.
            process_group: see the class.

        Returns:
            The module, or the layer that takes its place. Optimizers made before keep working: the
            parameters are the same objects.
        """
        result = module
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            result = cls(
                module.num_features,
                module.eps,
                module.momentum,
                affine=False,
                track_running_stats=module.track_running_stats,
                process_group=process_group,
            )
            result.affine = module.affine
            result._parameters.update(module._parameters)
            result._buffers.update(module._buffers)
            result.training = module.training
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


class _SyncBatchNorm(Op):
    """Training batch norm (x, weight, bias) over all ranks.

    Attributes:
        mean, var: statistics of all ranks, (C,) in float64; the variance is biased.
        count: elements per channel on all ranks.
    """

    takes_half = True

    def __init__(self, eps: float, group: ProcessGroup) -> None:
        self.eps, self._group = eps, group
        self.mean: Array = np.empty(0)
        self.var: Array = np.empty(0)
        self.count = 0
        self._samples = np.empty(0)  # per rank, the size of its batch

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        self._combine(*self._gather(x), x)
        kind = x.dtype if x.dtype == np.float64 else np.dtype(np.float32)
        mean, var = self.mean.astype(kind), self.var.astype(kind)
        kernels = backend.of(x)
        y: Array = kernels.batch_norm_inference(x, weight, bias, mean, var, self.eps, None)
        if any(self.needs):
            self.saved = (x, weight, mean, var)
        return y

    def _gather(self, x: Array) -> tuple[Array, Array]:
        """Per rank: (elements per channel, batch size), and (mean and variance of each channel).

        The first are always in main memory: on a GPU they travel by themselves, so that the host
        knows them without waiting for the GPU.
        """
        channels = x.shape[1]
        mine: Array = np.zeros_like(x, np.float64, order="C", shape=(2 + 2 * channels,))
        if x.size:
            _, mean, var, _ = backend.of(x).batch_norm_forward(x, None, None, self.eps, None)
            mine[2 : 2 + channels], mine[2 + channels :] = mean, var
        counts = np.array([x.size // channels, x.shape[0]] if x.size else [0, 0], np.float64)
        communicator = _ready(self._group)
        communicator.note = "statistics of SyncBatchNorm"
        if arrays.on_device(x):
            numbers = communicator.all_gather(counts)
            rows = communicator.of(mine).all_gather(mine)
        else:
            mine[:2] = counts
            rows = communicator.all_gather(mine)
            numbers = rows[:, :2]
        communicator.note = ""
        return numbers, rows[:, 2:]

    def _combine(self, numbers: Array, rows: Array, x: Array) -> None:
        """Chan et al.'s formula over the ranks in order: the same bits on all of them."""
        channels = x.shape[1]
        self._samples = numbers[:, 1]
        mean = np.zeros_like(rows, shape=(channels,))
        square, count = mean, 0.0
        for place, here in enumerate(numbers[:, 0].tolist()):
            if here == 0:
                continue
            row = rows[place]
            delta = row[:channels] - mean
            total = count + here
            mean = mean + delta * (here / total)
            square = square + row[channels:] * here + delta**2 * (count * here / total)
            count = total
        if count <= 1:
            raise ArgumentError(
                f"{self._group.where} SyncBatchNorm: expected more than one value per channel on "
                f"all ranks together in training, came {int(count)}; this rank's input is {x.shape}"
            )
        self.mean, self.var, self.count = mean, square / count, int(count)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, weight, mean, var = self.saved
        channels = x.shape[1]
        if x.size:
            kernels = backend.of(grad)
            grad_x, grad_weight, grad_bias = kernels.batch_norm_backward(
                grad, x, weight, mean, var, self.eps, None, None
            )
        else:
            grad_x, grad_weight, grad_bias = grad, np.zeros_like(mean), np.zeros_like(mean)
        if self.needs[0]:
            sums = self._sum(np.stack([grad_bias, grad_weight]).astype(np.float64))
            if x.size:
                local = max(x.size // channels, 1)
                grad_x = self._correct(grad_x, sums, (grad_bias, grad_weight), local)
        weight_dtype = mean.dtype if weight is None else weight.dtype
        return (
            grad_x if self.needs[0] else None,
            grad_weight.astype(weight_dtype, copy=False) if self.needs[1] else None,
            grad_bias.astype(weight_dtype, copy=False) if self.needs[2] else None,
        )

    def _sum(self, sums: Array) -> Array:
        """Add up over the ranks. See Note [Sums of other ranks' losses]."""
        samples = self._samples
        mine = samples[self._group.rank]
        equal = (samples == samples[0]).all()
        if not equal:
            sums *= float(mine)
        communicator = _ready(self._group)
        communicator.note = "gradients of SyncBatchNorm"
        communicator.of(sums).all_reduce(sums, ReduceOp.SUM)
        communicator.note = ""
        if not equal and mine:
            sums /= float(mine)
        return sums

    def _correct(self, grad_x: Array, sums: Array, mine: tuple[Array, Array], local: int) -> Array:
        """Put the sums of all ranks in the place of this rank's, which the kernel has subtracted.

        The kernel gives scale * (grad - bias_sum / n - normalised * weight_sum / n), with
        normalised = (x - mean) * rstd, where sums and n are this rank's.
        """
        x, weight, mean, var = self.saved
        rstd = (var.astype(np.float64) + self.eps) ** -0.5
        scale = rstd if weight is None else rstd * weight
        bias_term, weight_term = (
            own.astype(np.float64) / local - both / self.count
            for own, both in zip(mine, (sums[0], sums[1]), strict=True)
        )
        slope = scale * weight_term * rstd
        offset = scale * bias_term - slope * mean
        across = (1, -1, *(1,) * (x.ndim - 2))
        wide = mean.dtype
        correction = x * slope.astype(wide).reshape(across)
        correction += offset.astype(wide).reshape(across)
        return np.add(grad_x, correction, dtype=wide).astype(x.dtype, copy=False)


def _ready(group: ProcessGroup) -> Communicator:
    """The group's communicator; in backward, after all buckets that come before are launched."""
    if backward_is_running():
        group.meet()  # see Note [Order of collectives] in `gate`
    return group.communicator
