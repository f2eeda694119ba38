"""Batches of images from a data set that lies whole in the memory of the device that trains.

Stage: in place of a `DataLoader` where the images are small enough, as CIFAR's and MNIST's are: the
bytes are moved once, and one kernel gathers, augments and normalises each batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import devices, dtypes
from ..backend.cuda.kernels.twins import images as twins
from ..errors import DatasetError, OptionError
from ..tensors import Tensor
from ..utils.data.distributed import DistributedSampler
from ..utils.data.streams import mix

__all__ = ["DeviceLoader"]

_FLIPS = ("none", "random", "alternate")
_PADDINGS = ("zeros", "reflect")
_VECTOR = 8  # channels that a GPU reads at a time in 16 bits


class DeviceLoader:
    """Batches (images, labels) from uint8 images in the memory of a device, augmented there.

    A batch's images are logical (N, C, H, W), channels-last in memory. Which samples a rank gets,
    and in which order, is `DistributedSampler`'s choice. What happens to an image depends on seed,
    rank, epoch and place in the epoch, and is the same on the CPU and on a GPU.

    On a GPU nothing waits: the order of the epoch and the number of the batch lie there, too, so
    `next_batch` can be part of a captured step, which then fetches another batch at every replay.

    Args:
        dataset: ``data`` uint8 (N, H, W, C) or (N, H, W) and ``targets`` (N,), as `CIFAR10` and
            `MNIST` have, or a pair of such arrays. Its own transforms are not used.
        batch_size: images per batch.
        device: where; default: the default device.
        shuffle: a new order every epoch.
        drop_last: leave out the last batch if it is smaller.
        crop_padding: crop at random from the image padded by so many pixels on every side.
        padding_mode: "zeros" or "reflect".
        flip: "none", "random" (mirrored with probability 1/2) or "alternate": half of the images
            in even epochs, the other half in odd ones (Jordan 2024, "94% on CIFAR-10 in 3.29
            Seconds on a Single GPU", section 3.6).
        cutout: side of a square at a random place that becomes the mean (DeVries & Taylor 2017).
        mean, std: per channel, of pixels within 0..1; None: 0 and 1.
        dtype: of the images: float32, float16 or bfloat16.
        pad_channels: whether channels are filled up with zeros to a multiple of 8, which suits
            convolutions in 16 bits.
        num_replicas, rank, seed: as `DistributedSampler`; without a process group one rank.
        pad: as `DistributedSampler`: repeat samples so that all ranks get equally many.

    Raises:
        DatasetError: the data set has no such arrays.
        OptionError: an unknown setting, or a number out of range.

    >>> pixels = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    >>> loader = DeviceLoader((pixels, np.arange(4)), 3, device="cpu", shuffle=False)
    >>> [(tuple(x.shape), y.tolist()) for x, y in loader]
    [((3, 1, 2, 2), [0, 1, 2]), ((1, 1, 2, 2), [3])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        device: Any = None,
        shuffle: bool = True,
        drop_last: bool = False,
        crop_padding: int = 0,
        padding_mode: str = "zeros",
        flip: str = "none",
        cutout: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: dtypes.dtype = dtypes.float32,
        pad_channels: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        pad: bool = True,
    ) -> None:
        images, labels = _arrays(dataset)
        _check(batch_size, flip, padding_mode, crop_padding, cutout, images.shape, dtype)
        if num_replicas is None and rank is None and not _in_group():
            num_replicas, rank = 1, 0
        self.batch_size, self.drop_last, self.dtype = batch_size, drop_last, dtype
        self.sampler = DistributedSampler(
            range(len(images)), num_replicas, rank, shuffle=shuffle, seed=seed, pad=pad
        )
        channels = images.shape[-1]
        padded = -(-channels // _VECTOR) * _VECTOR if pad_channels else channels
        reflect = int(padding_mode == "reflect")
        self._look = (padded, crop_padding, reflect, _FLIPS.index(flip), cutout)
        scale, shift = _normalisation(channels, mean, std)
        self.device = devices.indexed(devices.require(device))
        key = mix(seed, self.sampler.rank)
        rest = (self.sampler.num_samples, batch_size, key)
        if self.device.type == "cuda":
            from ..backend.cuda.augment import Images  # noqa: PLC0415 - needs CuPy

            assert self.device.index is not None
            self._images: Any = Images(images, labels, scale, shift, *rest, self.device.index)
        else:
            self._images = _HostImages(images, labels, scale, shift, *rest)
        self._total = self.sampler.num_samples

    def __len__(self) -> int:
        """Batches of the next epoch."""
        return self._batches(self.sampler.num_samples)

    def _batches(self, samples: int) -> int:
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next `iter()`; not needed, it counts by itself."""
        self.sampler.set_epoch(epoch)

    def begin_epoch(self) -> int:
        """Start the next epoch for `next_batch`. Returns how many batches it has."""
        order = self.sampler.indices(self.sampler.epoch)
        epoch, _ = self.sampler.begin_epoch()
        self._total = len(order)
        self._images.begin(order, epoch)
        return self._batches(self._total)

    def next_batch(self, size: int | None = None) -> tuple[Tensor, Tensor]:
        """The next batch of the epoch, of `batch_size` images unless told otherwise.

        Behind the last sample of the epoch it repeats that one. `iter` does both calls for you;
        use them where the step is captured.
        """
        n = self.batch_size if size is None else size
        x, y = self._images.batch(n, self._total, self.dtype.numpy, self._look)
        return Tensor(x.transpose(0, 3, 1, 2)), Tensor(y)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.begin_epoch()
        total = self._total
        for number in range(batches):
            yield self.next_batch(min(self.batch_size, total - number * self.batch_size))

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch depends on."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any], done: int = 0) -> None:
        """Return to a state; see `DistributedSampler.load_state_dict`."""
        self.sampler.load_state_dict(state, done)


class _HostImages:
    """`backend.cuda.augment.Images` in main memory."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        samples: int,
        size: int,
        seed: int,
    ) -> None:
        self.shape, self.size, self.seed = images.shape[1:], size, seed
        self.images, self.labels, self.scale, self.shift = images, labels, scale, shift
        self.order, self.position = np.zeros(samples, np.int64), np.zeros(2, np.int64)

    def begin(self, order: np.ndarray, epoch: int) -> None:
        self.order[: len(order)] = order
        self.position[:] = epoch, 0

    def batch(
        self, n: int, total: int, dtype: np.dtype[Any], look: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width, channels = self.shape
        out = np.empty((n, height, width, look[0]), dtype)
        targets = np.empty(n, np.int64)
        twins.image_batch(
            self.images, self.labels, self.order, self.position, out.reshape(-1), targets, n,
            self.size, total, self.scale, self.shift, self.seed, height, width, channels, *look,
        )  # fmt: skip
        twins.next_batch(self.position)
        return out, targets


def _in_group() -> bool:
    """Whether there is a process group, which the samplers ask; see `utils/data/share.py`."""
    return bool(importlib.import_module("allgrad.distributed").is_initialized())


def _arrays(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = dataset if isinstance(dataset, tuple) else None
    found = pair or (getattr(dataset, "data", None), getattr(dataset, "targets", None))
    images, labels = (v.numpy() if isinstance(v, Tensor) else v for v in found)
    if images is None or labels is None:
        raise DatasetError(
            "DeviceLoader: expected a data set with `data` and `targets`, or a pair of arrays, "
            f"came {type(dataset).__name__}"
        )
    images, labels = np.asarray(images), np.asarray(labels, np.int64)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise DatasetError(
            "DeviceLoader: expected uint8 images (N, H, W, C) or (N, H, W) and N labels, came "
            f"{images.dtype} {images.shape} and {labels.shape}"
        )
    return np.ascontiguousarray(images), labels


def _check(
    batch_size: int,
    flip: str,
    padding_mode: str,
    pad: int,
    cutout: int,
    shape: tuple[int, ...],
    dtype: dtypes.dtype,
) -> None:
    if flip not in _FLIPS:
        raise OptionError.unknown("flip", flip, _FLIPS)
    if padding_mode not in _PADDINGS:
        raise OptionError.unknown("padding_mode", padding_mode, _PADDINGS)
    if dtype not in (dtypes.float32, dtypes.float16, dtypes.bfloat16):
        raise OptionError(f"DeviceLoader: expected float32, float16 or bfloat16, came {dtype}")
    if batch_size < 1:
        raise OptionError(f"DeviceLoader: expected batch_size of 1 or more, came {batch_size}")
    most = min(shape[1:3])
    for name, value in (("crop_padding", pad), ("cutout", cutout)):
        if not 0 <= value < most:
            raise OptionError(f"DeviceLoader: expected {name} within 0..{most - 1}, came {value}")


def _normalisation(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    centre = np.asarray([0.0] * channels if mean is None else mean, np.float64)
    spread = np.asarray([1.0] * channels if std is None else std, np.float64)
    if centre.shape != (channels,) or spread.shape != (channels,) or not (spread > 0).all():
        raise OptionError(
            f"DeviceLoader: expected {channels} means and as many positive deviations, came "
            f"{mean} and {std}"
        )
    return (1 / (255 * spread)).astype(np.float32), (-centre / spread).astype(np.float32)
