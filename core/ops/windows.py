"""Ops on windows of a tensor: sliding windows, strided memory, unfold and fold (im2col, col2im)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ..backend import Array, ufuncs
from ..backend.arrays import address_of, contiguous, strided
from .base import Op
from .elementwise import Grads

Pair = tuple[int, int]


class Windows(Op):
    """Windows of `size` elements along an axis, every `step`, as a new last axis: a view."""

    def __init__(self, axis: int, size: int, step: int) -> None:
        self.axis, self.size, self.step = axis, size, step

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        if not x.ndim:
            return x.reshape(1)[: self.size]
        count = x.shape[self.axis] - self.size + 1
        shape = (*x.shape[: self.axis], count, *x.shape[self.axis + 1 :], self.size)
        y = strided(x, shape, (*x.strides, x.strides[self.axis]))
        return y[(slice(None),) * self.axis + (slice(None, None, self.step),)]

    def backward(self, grad: Array) -> Grads:
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        if not full.ndim:
            full += grad.sum()
            return (full,)
        count = grad.shape[self.axis]
        for k in range(self.size):
            stop = k + (count - 1) * self.step + 1
            full[(slice(None),) * self.axis + (slice(k, stop, self.step),)] += grad[..., k]
        return (full,)


class Strided(Op):
    """A view of the memory around the input, given by sizes, strides and an offset.

    Args:
        storage: the array that owns the memory, from its first element.
        size, strides, offset: of the view; in elements, from the first element of `storage`.
    """

    def __init__(
        self, storage: Array, size: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> None:
        self.storage: Array | None = storage
        self.size, self.strides, self.offset = size, strides, offset

    def forward(self, x: Array) -> Array:
        storage, self.storage = self.storage, None  # the graph need not keep it alive
        assert storage is not None
        step = x.itemsize
        self.input_shape, self.input_strides = x.shape, tuple(s // step for s in x.strides)
        self.start = (address_of(x) - address_of(storage)) // step
        self.extent = extent_of(storage)
        flat = strided(storage, (self.extent,), (step,))
        return strided(flat[self.offset :], self.size, tuple(s * step for s in self.strides))

    def backward(self, grad: Array) -> Grads:
        flat = np.zeros(self.extent, grad.dtype, like=grad)
        ufuncs.at(np.add, flat, places(self.size, self.strides, self.offset, grad), grad)
        return (flat[places(self.input_shape, self.input_strides, self.start, grad)],)


def extent_of(array: Array) -> int:
    """Number of elements from the first to the last of `array` in memory."""
    if not array.size:
        return 0
    steps = zip(array.shape, array.strides, strict=True)
    return 1 + sum((n - 1) * step for n, step in steps) // array.itemsize


def places(size: tuple[int, ...], strides: tuple[int, ...], offset: int, like: Array) -> Array:
    """The position in flat memory of every element of a strided view, on the device of `like`."""
    index = np.full_like(like, offset, np.int64, shape=(1,) * len(size), order="C")
    for axis, (n, step) in enumerate(zip(size, strides, strict=True)):
        index = index + (np.arange(n, like=like) * step).reshape(
            (-1,) + (1,) * (len(size) - 1 - axis)
        )
    return index


class Blocks:
    """How kernels lie on a padded (N, C, H, W) image: what unfold and fold agree on.

    Args:
        image: (H, W) without padding.
        kernel, dilation, padding, stride: two numbers each.
    """

    def __init__(
        self, image: Pair, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair
    ) -> None:
        self.image, self.kernel, self.dilation = image, kernel, dilation
        self.padding, self.stride = padding, stride
        sizes = zip(image, kernel, dilation, padding, stride, strict=True)
        self.counts = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sizes)

    def _pixels(self) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        """(row, column, key of the pixels that meet it) of every kernel element."""
        for at in itertools.product(range(self.kernel[0]), range(self.kernel[1])):
            key = [
                slice(k * d, k * d + (n - 1) * s + 1, s)
                for k, d, n, s in zip(at, self.dilation, self.counts, self.stride, strict=True)
            ]
            yield at[0], at[1], (slice(None), slice(None), *key)

    def _padded(self, batch: tuple[int, ...], like: Array) -> tuple[Array, Array]:
        """(zeros of the padded image, the part of it without padding)."""
        (h, w), (ph, pw) = self.image, self.padding
        whole = np.zeros((*batch, h + 2 * ph, w + 2 * pw), like.dtype, like=like)
        return whole, whole[:, :, ph : ph + h, pw : pw + w]

    def columns(self, image: Array) -> Array:
        """(N, C, H, W) -> (N, C * kernel, blocks)."""
        n, c = image.shape[:2]
        whole, inner = self._padded((n, c), image)
        inner[...] = image
        y = np.empty((n, c, *self.kernel, *self.counts), image.dtype, like=image)
        for i, j, key in self._pixels():
            y[:, :, i, j] = whole[key]
        return y.reshape(n, c * self.kernel[0] * self.kernel[1], self.counts[0] * self.counts[1])

    def picture(self, columns: Array) -> Array:
        """(N, C * kernel, blocks) -> (N, C, H, W), overlapping blocks summed."""
        n, c = columns.shape[0], columns.shape[1] // (self.kernel[0] * self.kernel[1])
        blocks = columns.reshape(n, c, *self.kernel, *self.counts)
        whole, inner = self._padded((n, c), columns)
        for i, j, key in self._pixels():
            whole[key] += blocks[:, :, i, j]
        return contiguous(inner)


class Unfold(Op):
    """Blocks of an image as columns (im2col)."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def forward(self, x: Array) -> Array:
        return self.blocks.columns(x)

    def backward(self, grad: Array) -> Grads:
        return (self.blocks.picture(grad),)


class Fold(Op):
    """Columns put back as blocks of an image, overlapping ones summed (col2im)."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def forward(self, x: Array) -> Array:
        return self.blocks.picture(x)

    def backward(self, grad: Array) -> Grads:
        return (self.blocks.columns(grad),)
