"""Images that lie where the network is trained, as bytes, and batches of them in one pass.

`Augmentation` says what is done to an image; `ImageStore` holds the images and makes batches, here
in main memory and in `cuda.augment` on a GPU, with the same random numbers and the same bits.

Note [Draws of images]: where an image is cut, whether it is mirrored and what is cut out of it
depend on the seed, the epoch and the image's number alone: Philox4x32-10 of the counter (image,
epoch, site) under the seed. Neither the batch size, nor the number of ranks, nor a resume in the
middle of an epoch changes them. For orders that repeat images (`by_place`) the place in the epoch
takes the number's place, so that repeated ones look different; alternating flips stay the image's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import OptionError, ShapeError
from .cuda.kernels.twins import augment as twins
from .protocol import Array

FLIPS = ("none", "random", "alternate")
PADDING_MODES = ("zeros", "reflect")
# Calls of a step that draw from a GPU's generator count from 0; these are out of their way.
SITE = 0xFFFFFF00


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to an image (H, W, C) of bytes.

    Attributes:
        size: (height, width) of the result; None: that of the images.
        padding: pixels added to each side before a window of that size is cut at random.
        padding_mode: "zeros" (black before normalisation) or "reflect".
        flip: "none", "random" (each image with probability 1/2), or "alternate" (in every other
            epoch, half of the images beginning with the first one).
        cutout: side of a square around a random pixel that is set to 0 after normalisation; what
            lies outside of the image is lost. 0: none.
        mean, std: per channel, of pixels scaled to [0, 1]; None: 0 and 1.
        channels: the results have at least so many, the added ones being 0; as 8 suits tensor
            cores.

    Raises:
        OptionError: a setting that makes no sense.

    Source: flips Jordan 2024, arXiv 2404.00498; cutout DeVries and Taylor 2017, arXiv 1708.04552.
    """

    size: tuple[int, int] | None = None
    padding: int = 0
    padding_mode: str = "zeros"
    flip: str = "none"
    cutout: int = 0
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    channels: int = 1

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise OptionError.unknown("flip", self.flip, FLIPS)
        if self.padding_mode not in PADDING_MODES:
            raise OptionError.unknown("padding_mode", self.padding_mode, PADDING_MODES)
        if self.padding < 0 or self.cutout < 0:
            raise OptionError(
                f"expected padding and cutout of 0 pixels or more, came {self.padding} and "
                f"{self.cutout}"
            )

    def windows(self, height: int, width: int) -> tuple[int, int, int, int, int, int]:
        """Where windows begin in images of this size.

        Returns:
            (rows, columns, first row, how many first rows, first column, how many).

        Raises:
            ShapeError: the padded image is smaller than a window, or too small to be reflected.
        """
        rows, columns = self.size or (height, width)
        border = self.padding
        if self.padding_mode == "reflect" and border >= min(height, width):
            raise ShapeError(
                f"reflecting {border} pixels needs images larger than that, came {height} x {width}"
            )
        free = (height + 2 * border - rows, width + 2 * border - columns)
        if min(rows, columns) < 1 or min(free) < 0:
            raise ShapeError(
                f"expected a size of at least 1 x 1 and at most that of the images with their "
                f"padding, {height + 2 * border} x {width + 2 * border}; came {rows} x {columns}"
            )
        return rows, columns, -border, free[0] + 1, -border, free[1] + 1

    def table(self, channels: int, dtype: np.dtype[Any]) -> np.ndarray:
        """What becomes of each byte: (258, channels).

        Row 256 is the padding's, row 257 that of what is cut out. The values are those of
        ``ToTensor`` and ``Normalize``, rounded to `dtype` at the end.

        Raises:
            ShapeError: mean or std for another number of channels.
            OptionError: a std that is not positive.
        """
        values = np.zeros((258, channels), np.float32)
        values[:256] = (np.arange(256, dtype=np.float32) / np.float32(255))[:, None]
        if self.mean is not None or self.std is not None:
            mean = self._per_channel("mean", 0.0 if self.mean is None else self.mean, channels)
            std = self._per_channel("std", 1.0 if self.std is None else self.std, channels)
            if not (std > 0).all():
                raise OptionError(f"expected a std above 0, came {self.std}")
            values[:256] = (values[:256] - mean) / std
        values[256] = values[0]
        return values.astype(dtype)

    def _per_channel(self, name: str, value: Any, channels: int) -> np.ndarray:
        given = np.atleast_1d(np.asarray(value, np.float64))
        if given.ndim != 1 or len(given) not in (1, channels):
            raise ShapeError(
                f"expected one {name}, or {channels} for images of {channels} channels, came "
                f"{value}"
            )
        return np.broadcast_to(given.astype(np.float32), channels)


class ImageStore:
    """Images and their classes in main memory, and the batches made of them.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).
        augmentation: what is done to them.
        dtype: of the results: float32, float16 or bfloat16.
        by_place: see Note [Draws of images].

    Raises:
        ShapeError, OptionError: settings that do not suit the images.
    """

    xp: Any = np

    def __init__(
        self,
        images: Array,
        labels: Array,
        augmentation: Augmentation,
        dtype: np.dtype[Any],
        by_place: bool = False,
    ) -> None:
        _, height, width, channels = images.shape
        rows, columns, top, tops, left, lefts = augmentation.windows(height, width)
        self.dtype = dtype
        self.lanes = max(channels, augmentation.channels)
        self.size = rows, columns
        self._images, self._labels = self._placed(images), self._placed(labels)
        self._table = self._placed(augmentation.table(channels, dtype).reshape(-1))
        self._table_bytes = self._table.nbytes
        self._state = self._lasting(4, np.uint64)
        self._order: Any = self._lasting(len(images), np.int64)
        vector = self.lanes * dtype.itemsize % 16 == 0
        shape = (height, width, channels, rows, columns, self.lanes, vector)
        self._numbers = (
            *map(np.int32, shape), np.int32(top), np.uint32(tops), np.int32(left),
            np.uint32(lefts), np.int32(augmentation.padding_mode == "reflect"),
            np.int32(FLIPS.index(augmentation.flip)), np.uint32(1 << 31),
            np.int32(augmentation.cutout), np.int32(by_place),
        )  # fmt: skip

    def begin(self, order: np.ndarray, seed: int, epoch: int, passed: int = 0) -> None:
        """The batches from now on are the images of `order`, int64 (n,), from its first on.

        Before it, `passed` images of the epoch were passed over.
        """
        if len(order) > len(self._order):
            self._grow(len(order))
        self._copy(order)
        numbers = map(np.uint64, (seed, epoch, passed))
        self._run("augment_set", None, 1, (self._state, *numbers))

    def fetch(self, count: int) -> tuple[Array, Array]:
        """The next `count` images of the order.

        Returns:
            Images (count, lanes, rows, columns), channels-last in memory, and labels int64
            (count,).
        """
        rows, columns = self.size
        made = self.xp.empty((count, rows, columns, self.lanes), self.dtype)
        classes = self.xp.empty(count, np.int64)
        args = (
            self._images, self._labels, self._order, self._state, np.uint32(SITE), self._table,
            made, classes, np.int64(count), *self._numbers,
        )  # fmt: skip
        if count:
            self._run("augment", self.dtype, count, args)
            self._run("augment_advance", None, 1, (self._state, np.uint64(count)))
        return made.transpose(0, 3, 1, 2), classes

    def recording(self) -> Any:
        """The `Capture` of a CUDA graph that is being recorded where the images lie, or None."""
        return None

    def on_replay(self, callback: Callable[[], None]) -> None:
        """Call it before every launch of that graph, which also keeps the images alive."""
        raise AssertionError("graphs are recorded on a GPU alone")

    # -- what a device does in another way ---------------------------------------------------------
    def _placed(self, array: Array) -> Array:
        return np.ascontiguousarray(array)

    def _copy(self, order: np.ndarray) -> None:
        self._order[: len(order)] = order

    def _lasting(self, size: int, dtype: Any) -> Array:
        return np.empty(size, dtype)

    def _grow(self, size: int) -> None:
        self._order = self._lasting(size, np.int64)

    def _run(self, name: str, dtype: Any, blocks: int, args: tuple[Any, ...]) -> None:
        flat = (a.reshape(-1) if isinstance(a, np.ndarray) else a for a in args)
        twins.TWINS[name](*flat)
