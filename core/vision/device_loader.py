"""Batches of images from a data set that lies whole in the memory of the device that trains.

Stage: in place of a `DataLoader` where the images are small enough, as CIFAR's and MNIST's are: the
bytes are moved once, and one kernel gathers, augments and normalises each batch. Orders, epochs and
resuming are the `DataLoader`'s.
"""

from __future__ import annotations

import importlib
import itertools
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import devices, dtypes
from ..backend.images import Augmentation, ImageStore
from ..errors import DatasetError, DeviceError, OptionError
from ..moments import moment
from ..tensors import Tensor
from ..timeline import active
from ..utils.data import DataLoader
from ..utils.data.distributed import DistributedSampler
from ..utils.data.progress import Progress, note_hand_out, pass_over
from ..utils.data.streams import mix

__all__ = ["DeviceLoader"]

_VECTOR = 8  # channels that a GPU reads at a time in 16 bits


class DeviceLoader(DataLoader[tuple[Tensor, Tensor]]):
    """Batches (images, labels) from uint8 images in the memory of a device, augmented there.

    A batch's images are logical (N, C, H, W), channels-last in memory. Without augmentation they
    are those of ``ToTensor`` and ``Normalize`` to the bit, the same on the CPU and on a GPU. What
    happens to an image depends on `seed`, the epoch and its number in the data set: not on ranks,
    batches or where a run was resumed. Samplers with replacement have it depend on the place in
    the rank's epoch instead, so that repeated images look different.

    Iterate over it epoch by epoch, or ask for `next_batch()`, which goes on from epoch to epoch and
    can be part of a captured step. `state_dict` and `load_state_dict` are those of `DataLoader`:
    they keep the place within the epoch, also on another number of ranks.

    Args:
        dataset: ``data`` uint8 (N, H, W, C) or (N, H, W) and ``targets`` (N,), as `CIFAR10` and
            `MNIST` have, or a pair of such arrays or tensors; tensors that lie on the device are
            not copied. Its own transforms are not used.
        batch_size: images per batch.
        device: where; default: the default device.
        shuffle: a new order every epoch (default, unless a sampler is given).
        drop_last: leave out the last batch if it is smaller.
        crop_size: (height, width) cut out at random; default: that of the images.
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
        num_replicas, rank: as `DistributedSampler`; without a process group one rank.
        seed: of the augmentation, and of the order unless a sampler is given.
        pad: as `DistributedSampler`: repeat samples so that all ranks get equally many.
        sampler: order of the indices, instead of shuffle, num_replicas, rank and pad.
        batch_sampler: lists of indices, instead of those, batch_size and drop_last.

    Raises:
        DatasetError: the data set has no such arrays, or is empty.
        OptionError: an unknown setting, a number out of range, or arguments that contradict.
        ShapeError: settings that do not suit the images.

    >>> pixels = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    >>> loader = DeviceLoader((pixels, np.arange(4)), 3, device="cpu", shuffle=False)
    >>> [(tuple(x.shape), y.tolist()) for x, y in loader]
    [((3, 1, 2, 2), [0, 1, 2]), ((1, 1, 2, 2), [3])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = None,
        *,
        device: Any = None,
        shuffle: bool | None = None,
        drop_last: bool = False,
        crop_size: tuple[int, int] | None = None,
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
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[list[int]] | None = None,
    ) -> None:
        self.device = devices.indexed(devices.require(device))
        images, labels = _arrays(dataset, self.device.type == "cuda")
        if dtype not in (dtypes.float32, dtypes.float16, dtypes.bfloat16):
            raise OptionError(f"DeviceLoader: expected float32, float16 or bfloat16, came {dtype}")
        if sampler is None and batch_sampler is None:
            if num_replicas is None and rank is None and not _in_group():
                num_replicas, rank = 1, 0
            sampler = DistributedSampler(
                range(len(images)), num_replicas, rank, shuffle=shuffle is not False, seed=seed,
                pad=pad,
            )  # fmt: skip
        elif shuffle is not None or num_replicas is not None or rank is not None or not pad:
            raise OptionError(
                "DeviceLoader: sampler or batch_sampler replaces shuffle, num_replicas, rank, pad"
            )
        if (batch_size is None) == (batch_sampler is None):
            raise OptionError("DeviceLoader: expected a batch_size or a batch_sampler, one of them")
        super().__init__(
            range(len(images)), 1 if batch_size is None else batch_size, sampler=sampler,
            batch_sampler=batch_sampler, drop_last=drop_last,
        )  # fmt: skip
        self.dataset, self.dtype, self.seed = dataset, dtype, seed
        channels = -(-images.shape[-1] // _VECTOR) * _VECTOR if pad_channels else 1
        look = Augmentation(
            crop_size, crop_padding, padding_mode, flip, cutout, mean, std, channels
        )
        self._by_place = bool(getattr(self._seeded_sampler(), "replacement", False))
        self._store = _store(images, labels, look, dtype, self.device, self._by_place)
        self._epoch: _Epoch | None = None
        self._launches: _Launches | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next `iter()`; not needed, it counts by itself.

        Raises:
            OptionError: the sampler that was given has no epochs.
        """
        sampler = self._seeded_sampler()
        if not hasattr(sampler, "set_epoch"):
            raise OptionError(
                f"DeviceLoader.set_epoch: {type(sampler).__name__} has no set_epoch; it is not "
                "needed either, epochs count by themselves"
            )
        sampler.set_epoch(epoch)

    # ---------------------------------------------------------------- batches
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._rest(self._begin_epoch())

    def _rest(self, epoch: _Epoch) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            if self._epoch is not epoch:
                raise DatasetError(
                    "DeviceLoader: another epoch has begun while this one was iterated; a loader "
                    "has one place at a time"
                )
            if not epoch.left:
                epoch.finish()
                return
            yield self._next(epoch)

    def begin_epoch(self) -> int:
        """Start the next epoch for `next_batch`, or the rest of one after `load_state_dict`.

        To leave an epoch before its end, or to tell data parallelism that the last one has ended;
        `next_batch` begins epochs by itself.

        Returns:
            How many batches it has.
        """
        return len(self._begin_epoch().sizes)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The next batch; behind the last one of an epoch the first of the next epoch.

        Called inside of a captured step, it is a part of the graph: every launch gets the batch
        that an eager step would get. All batches must then have one size (``drop_last=True``).

        Raises:
            DeviceError: a captured step does not get batches of its size, or batches of two epochs.
        """
        recording = self._store.recording()
        if recording is not None:
            return self._record(recording)
        return self._next(self._current())

    def _next(self, epoch: _Epoch) -> tuple[Tensor, Tensor]:
        moment("batch")
        timeline = active()
        begin = 0.0 if timeline is None else timeline.begin("batch")
        try:
            x, y = self._store.fetch(self._take(epoch))
        finally:
            if timeline is not None:
                timeline.end(begin, "batch", "data")
        return Tensor(x), Tensor(y)

    # ---------------------------------------------------------------- captured steps
    def _record(self, recording: Any) -> tuple[Tensor, Tensor]:
        """A batch as a part of a graph; nothing is handed out before its first launch."""
        sizes = set(self._current().sizes)
        if len(sizes) > 1:
            raise DeviceError(
                f"DeviceLoader.next_batch: a captured step needs batches of one size, this epoch "
                f"has some of {sorted(sizes)} images; use drop_last=True"
            )
        if self._launches is None or self._launches.recording() is not recording:
            self._launches = _Launches(self, recording)
            self._store.on_replay(self._launches)
        self._launches.sizes += sizes
        x, y = self._store.fetch(*sizes)
        return Tensor(x), Tensor(y)

    def _launch(self, sizes: list[int]) -> None:
        """Before every launch of a graph that takes batches of these sizes."""
        epoch = self._current()
        found = epoch.sizes[epoch.next : epoch.next + len(sizes)]
        if found != sizes:
            raise DeviceError(
                f"DeviceLoader.next_batch: the captured step takes batches of {sizes} images, but "
                f"the epoch goes on with {found}. Use drop_last=True, and epochs whose number of "
                f"batches (now {len(epoch.sizes)}) is a multiple of those in a step"
            )
        for _ in sizes:
            moment("batch")
            self._take(epoch)

    # ---------------------------------------------------------------- the place in the epoch
    def _current(self) -> _Epoch:
        """The epoch that the next batch belongs to."""
        epoch = self._epoch or self._begin_epoch()
        while not epoch.left:
            epoch = self._begin_epoch()
            if not epoch.left and not epoch.progress.batches:
                raise DatasetError(
                    "DeviceLoader.next_batch: the sampler gave an epoch of 0 batches"
                )
        return epoch

    def _begin_epoch(self) -> _Epoch:
        """Let the sampler give an order; the device gets it with the first batch."""
        if self._epoch is not None and not self._epoch.left:
            self._epoch.finish()
        number = getattr(self._seeded_sampler(), "epoch", None)
        progress, resumed = self._begin()
        order, sizes = self._order(progress, resumed)
        progress.batches, progress.samples = resumed.batches, resumed.samples
        progress.digest = resumed.digest
        self._epoch = _Epoch(progress.epoch if number is None else number, progress, order, sizes)
        return self._epoch

    def _order(self, progress: Progress, resumed: Progress) -> tuple[np.ndarray, list[int]]:
        """What is left of an epoch: indices int64 (samples,), and how many are in each batch."""
        assert progress.seed is not None
        if type(self.sampler) is not DistributedSampler or self.batch_size is None:
            batches = [task.indices for task in self._tasks(progress.seed, resumed)]
            order = np.fromiter(itertools.chain.from_iterable(batches), np.int64)
            return order, [len(batch) for batch in batches]
        # The same without a Python number for each sample, which would take the time of a step.
        order = self.sampler.indices(self.sampler.epoch)
        self.sampler.begin_epoch()
        done = resumed.samples
        pass_over(iter(order[:done].tolist()), done, resumed.digest)
        full, more = divmod(len(order) - done, self.batch_size)
        sizes = [self.batch_size] * full + ([more] if more and not self.drop_last else [])
        return np.ascontiguousarray(order[done : done + sum(sizes)], np.int64), sizes

    def _take(self, epoch: _Epoch) -> int:
        """Count the next batch as handed out. Returns its size."""
        if not epoch.next:
            key = self.seed % 2**64
            if self._by_place:  # the same places on all ranks shall not draw the same numbers
                key = mix(key, getattr(self._seeded_sampler(), "rank", 0))
            self._store.begin(epoch.order, key, epoch.number, epoch.progress.samples)
        size = epoch.sizes[epoch.next]
        epoch.hand_out(size)
        return size

    def state_dict(self) -> dict[str, Any]:
        """As `DataLoader.state_dict`; in the middle of an epoch behind the last batch."""
        return {**super().state_dict(), "augmentation_seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `DataLoader.load_state_dict`: the next batches are those that were left."""
        super().load_state_dict(state)
        self.seed = state.get("augmentation_seed", self.seed)
        self._epoch = None


class _Epoch:
    """An epoch, or what is left of it after a resume.

    Attributes:
        number: what augmentation depends on.
        progress: for checkpoints, and for data parallelism, which asks whether it has ended.
        order: indices of its samples, int64 (n,).
        sizes: of its batches.
        next: how many of those are handed out.
    """

    __slots__ = ("_done", "next", "number", "order", "progress", "sizes")

    def __init__(
        self, number: int, progress: Progress, order: np.ndarray, sizes: list[int]
    ) -> None:
        self.number, self.progress, self.order, self.sizes = number, progress, order, sizes
        self.next = self._done = 0

    @property
    def left(self) -> int:
        """Batches that are left."""
        return len(self.sizes) - self.next

    def hand_out(self, size: int) -> None:
        """The user gets the next batch."""
        begin, self._done = self._done, self._done + size
        self.next += 1
        progress = self.progress
        progress.batches += 1
        progress.samples += size
        progress.digest = zlib.crc32(self.order[begin : self._done].data, progress.digest)
        note_hand_out(progress)

    def finish(self) -> None:
        """The user has seen its end."""
        self.progress.finished = True
        if self.progress.batches == 0:
            note_hand_out(self.progress)


class _Launches:
    """Called before every launch of one graph."""

    def __init__(self, loader: DeviceLoader, recording: Any) -> None:
        self._loader, self.sizes = loader, list[int]()
        self.recording = weakref.ref(recording)  # which owns this

    def __call__(self) -> None:
        self._loader._launch(self.sizes)


def _store(
    images: Any,
    labels: Any,
    look: Augmentation,
    dtype: dtypes.dtype,
    device: devices.device,
    by_place: bool,
) -> ImageStore:
    if device.type != "cuda":
        return ImageStore(images, labels, look, dtype.numpy, by_place)
    from ..backend.cuda.augment import CudaImageStore  # noqa: PLC0415 - needs CuPy

    assert device.index is not None
    return CudaImageStore(images, labels, look, dtype.numpy, device.index, by_place)


def _in_group() -> bool:
    """Whether there is a process group, which the samplers ask; see `utils/data/share.py`."""
    return bool(importlib.import_module("allgrad.distributed").is_initialized())


def _arrays(dataset: Any, on_gpu: bool) -> tuple[Any, Any]:
    """uint8 (N, H, W, C) and int64 (N,); tensors stay on a GPU if batches are made `on_gpu`."""
    pair = dataset if isinstance(dataset, tuple) else None
    images, labels = pair or (getattr(dataset, "data", None), getattr(dataset, "targets", None))
    if images is None or labels is None:
        raise DatasetError(
            "DeviceLoader: expected a data set with `data` and `targets`, or a pair of arrays, "
            f"came {type(dataset).__name__}"
        )
    images, labels = (
        v._array if isinstance(v, Tensor) else np.asarray(v) for v in (images, labels)
    )
    labels = labels.astype(np.int64, copy=False)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise DatasetError(
            "DeviceLoader: expected uint8 images (N, H, W, C) or (N, H, W) and N labels, came "
            f"{images.dtype} {images.shape} and {labels.shape}"
        )
    return images, labels
