"""Group normalisation on the CPU, through oneDNN's batch normalisation of one sample at a time.

The statistics of one sample per channel, which batch norm computes, give those of its groups:
the mean of the means, and the mean of the variances plus the variance of the means. Batch norm with
given statistics then normalises each sample, and its gradient gives the sums that the gradient of
group norm needs. So activations stay channels-last.
"""

from __future__ import annotations

import numpy as np

from .cpu_base import F32, CpuBase, fast, require_elements, require_float32
from .layout import channels_last_strides
from .onednn_plan import (
    ARG_DIFF_DST,
    ARG_DIFF_SCALE,
    ARG_DIFF_SHIFT,
    ARG_DIFF_SRC,
    ARG_DST,
    ARG_MEAN,
    ARG_SCALE,
    ARG_SHIFT,
    ARG_SRC,
    ARG_SRC_1,
    ARG_VARIANCE,
    BINARY_ADD,
    Plan,
)
from .protocol import Array, Dims

_FORWARD_TRAINING, _FORWARD_INFERENCE, _BACKWARD = 64, 96, 128
_GIVEN_STATISTICS, _USE_SCALE, _USE_SHIFT = 1, 2, 4
_AFFINE = _USE_SCALE | _USE_SHIFT


class CpuGroupNorm(CpuBase):
    """Kernels `group_norm_*` of the backend protocol."""

    @fast
    def group_norm_forward(
        self, x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        require_float32(x, weight, bias)
        require_elements(x)
        n, c = x.shape[:2]
        y = np.ndarray(x.shape, F32, None, 0, channels_last_strides(x.shape, F32.itemsize))
        means, variances = np.empty((n, c), F32), np.empty((n, c), F32)
        self._group_plan("statistics", x).run(x, means, variances, y)
        grouped = means.reshape(n, num_groups, -1)
        mean = grouped.mean(axis=2)
        var = variances.reshape(n, num_groups, -1).mean(axis=2) + grouped.var(axis=2)
        rstd = 1 / np.sqrt(var + F32.type(eps))
        scale, shift = _vector(weight, self._ones(c)), _vector(bias, self._zeros(c))
        statistics = _spread(mean, c), _spread(1 / np.square(rstd), c)
        self._group_plan("normalise", x).run(x, *statistics, scale, shift, y)
        return y, mean, rstd

    @fast
    def group_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        num_groups: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        require_float32(grad_y, x, weight, mean, rstd)
        require_elements(x)
        n, c = x.shape[:2]
        grad_x = np.ndarray(x.shape, F32, None, 0, channels_last_strides(x.shape, F32.itemsize))
        scale = _vector(weight, self._ones(c))
        products, sums = np.empty((n, c), F32), np.empty((n, c), F32)
        statistics = _spread(mean, c), _spread(1 / np.square(rstd), c)
        plan = self._group_plan("gradient", x, grad_y)
        plan.run(x, grad_y, *statistics, scale, grad_x, products, sums)
        # grad_x is now weight * rstd * grad_y. What is missing, with all means over a group and
        # z = (x - mean) * rstd:  - rstd * (mean(weight * grad_y) + z * mean(weight * grad_y * z)).
        count = x.size // (n * num_groups)
        along = (products * scale).reshape(n, num_groups, -1).sum(axis=2) / count
        level = (sums * scale).reshape(n, num_groups, -1).sum(axis=2) / count
        factor = -rstd * rstd * along
        offset = -rstd * level - factor * mean
        self._group_plan("correct", x).run(x, _spread(factor, c), _spread(offset, c), grad_x)
        return grad_x, products.sum(axis=0), sums.sum(axis=0)

    def _group_plan(self, part: str, x: Array, grad_y: Array | None = None) -> Plan:
        key = ("group_norm", part, x.shape, x.strides, None if grad_y is None else grad_y.strides)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, _Samples(self.new_plan(), x).build(part, x, grad_y))
        return plan


class _Samples:
    """Builds a plan that treats the samples of a batch one after the other."""

    def __init__(self, plan: Plan, x: Array) -> None:
        self.plan, self.n, self.shape = plan, x.shape[0], _flat(x)
        self.sample = plan.channels_last((1, *self.shape[1:]))
        self.vector = plan.dense((x.shape[1],))
        self.whole = plan.channels_last(self.shape)
        self.rows = plan.dense(x.shape[:2])

    def build(self, part: str, x: Array, grad_y: Array | None) -> Plan:
        """Add what `part` does to every sample."""
        plan = self.plan
        source = plan.activation(x.reshape(self.shape) if x.ndim != 4 else x)[1]
        if part == "statistics":
            kind = self._forward(_FORWARD_TRAINING, 0, 0.0)
            self._each(kind, (ARG_SRC,), source, rows=(ARG_MEAN, ARG_VARIANCE), last=ARG_DST)
        elif part == "normalise":
            kind = self._forward(_FORWARD_INFERENCE, _GIVEN_STATISTICS | _AFFINE, 0.0)
            rows, shared = (ARG_MEAN, ARG_VARIANCE), (ARG_SCALE, ARG_SHIFT)
            self._each(kind, (ARG_SRC,), source, rows=rows, shared=shared, last=ARG_DST)
        elif part == "gradient" and grad_y is not None:
            self._gradient(source, grad_y)
        else:
            self._correction(source)
        return plan

    def _forward(self, prop: int, flags: int, eps: float) -> int:
        plan, sample = self.plan, self.sample
        return plan.describe(
            "batch_normalization_forward", prop, sample, sample, eps, flags, plan.attributes()
        )

    def _each(
        self,
        kind: int,
        inputs: tuple[int, ...],
        *sources: int,
        rows: tuple[int, ...] = (),
        shared: tuple[int, ...] = (),
        last: int,
        after: tuple[int, ...] = (),
    ) -> None:
        """Call `kind` for every sample; external arrays come in the order of the arguments."""
        plan = self.plan
        tables = {a: plan.external(self.rows) for a in rows}
        common = {a: plan.external(self.vector) for a in shared}
        target = plan.external(self.whole)
        tables.update({a: plan.external(self.rows) for a in after})
        for index in range(self.n):
            arguments = {a: self._of(s, index) for a, s in zip(inputs, sources, strict=True)}
            arguments.update({a: self._row(t, index) for a, t in tables.items()})
            plan.call(kind, {**arguments, **common, last: self._of(target, index)})

    def _of(self, memory: int, index: int) -> int:
        """The memory of one sample."""
        return self.plan.part(memory, self.sample, index * self.plan.nbytes(self.sample))

    def _row(self, table: int, index: int) -> int:
        """The memory of one sample's row of a table (N, C)."""
        return self.plan.part(table, self.vector, index * self.plan.nbytes(self.vector))

    def _gradient(self, source: int, grad_y: Array) -> None:
        plan, sample = self.plan, self.sample
        grad = plan.activation(grad_y.reshape(self.shape) if grad_y.ndim != 4 else grad_y)[1]
        flags = _GIVEN_STATISTICS | _AFFINE
        hint = self._forward(_FORWARD_TRAINING, flags, 0.0)
        kind = plan.describe(
            "batch_normalization_backward", _BACKWARD, sample, sample, sample, 0.0, flags, hint,
            plan.attributes(),
        )  # fmt: skip
        self._each(
            kind, (ARG_SRC, ARG_DIFF_DST), source, grad, rows=(ARG_MEAN, ARG_VARIANCE),
            shared=(ARG_SCALE,), last=ARG_DIFF_SRC, after=(ARG_DIFF_SCALE, ARG_DIFF_SHIFT),
        )  # fmt: skip

    def _correction(self, source: int) -> None:
        """Add factor * x + offset to the gradient, both given per sample and channel."""
        plan, sample, channels = self.plan, self.sample, self.shape[1]
        scaled = self._forward(_FORWARD_INFERENCE, _GIVEN_STATISTICS | _AFFINE, 0.0)
        add = plan.describe("binary", BINARY_ADD, sample, sample, sample, plan.attributes())
        factor, offset = plan.external(self.rows), plan.external(self.rows)
        target, product = plan.external(self.whole), plan.internal(sample)
        mean = plan.constant(np.zeros(channels, F32))
        var = plan.constant(np.ones(channels, F32))
        for index in range(self.n):
            arguments = {ARG_SRC: self._of(source, index), ARG_MEAN: mean, ARG_VARIANCE: var}
            arguments[ARG_SCALE] = self._row(factor, index)
            arguments[ARG_SHIFT] = self._row(offset, index)
            plan.call(scaled, {**arguments, ARG_DST: product})
            place = self._of(target, index)
            plan.call(add, {ARG_SRC: place, ARG_SRC_1: product, ARG_DST: place})


def _flat(x: Array) -> Dims:
    """(N, C, *S) as (N, C, 1, prod S), or unchanged with two or three spatial dimensions."""
    if x.ndim > 3:
        return x.shape
    return (*x.shape[:2], 1, x.size // (x.shape[0] * x.shape[1]))


def _vector(array: Array | None, default: Array) -> Array:
    return default if array is None else np.ascontiguousarray(array)


def _spread(groups: Array, channels: int) -> Array:
    """(N, G) as (N, C): each group's value for all its channels."""
    return np.repeat(groups, channels // groups.shape[1], axis=1)
