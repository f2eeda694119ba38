"""What the transforms share: one image, many images, and how they are passed on.

Stage: between a data set and the loader's batch.

Note [Images]
    An image is a NumPy array (H, W, C) or (H, W) of uint8, as the data sets give it (PyTorch: a PIL
    image), or a Tensor (C, H, W) after `ToTensor`. Both are handled as one array (..., H, W, C);
    a Tensor made by `ToTensor` has that order in memory, so nothing is moved for it.

Note [Two paths]
    `transform(image)` treats one image as PyTorch users write it. `transform.batch(images, draws)`
    treats a whole batch with array operations. Both give the same bits, because the random numbers
    belong to the sample (allgrad/utils/data/streams.py, Note [Sample streams]) and the arithmetic
    is the same. A data set uses `batch` by itself when every transform in the list has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...tensors import Tensor
from ...utils.data.dataset import defines
from ...utils.data.streams import BatchDraws, Draws, SampleDraws, current


@dataclass(slots=True)
class ImageBatch:
    """Many images of one size, owned by the pipeline, so that transforms may write into them.

    Attributes:
        array: (N, H, W, C), any dtype.
        is_tensor: samples are tensors (C, H, W) by now.
        flat: samples are arrays (H, W); C is 1.
    """

    array: np.ndarray
    is_tensor: bool = False
    flat: bool = False

    @classmethod
    def of(cls, array: np.ndarray) -> ImageBatch:
        """Wrap samples (N, H, W, C) or (N, H, W)."""
        flat = array.ndim == 3
        return cls(array[..., None] if flat else array, flat=flat)

    def collated(self) -> np.ndarray:
        """As `default_collate` would stack the samples; channels-last in memory if tensors."""
        if self.is_tensor:
            return to_chw(self.array)
        return self.array[..., 0] if self.flat else self.array


def to_chw(array: np.ndarray) -> np.ndarray:
    """(..., H, W, C) to (..., C, H, W) without moving memory."""
    if array.shape[-1] == 1 and array.flags.c_contiguous:
        return array.reshape(*array.shape[:-3], 1, *array.shape[-3:-1])
    return np.moveaxis(array, -1, -3) if array.ndim > 4 else array.transpose(_CHW[array.ndim])


def to_hwc(array: np.ndarray) -> np.ndarray:
    """(..., C, H, W) to (..., H, W, C) without moving memory."""
    if array.ndim == 3:
        return array.transpose(1, 2, 0)
    return np.moveaxis(array, -3, -1)


_CHW = {3: (2, 0, 1), 4: (0, 3, 1, 2)}


def image_array(image: Any, who: str) -> np.ndarray:
    """The pixels of a NumPy array or of anything with an array interface, e.g. a PIL image.

    Raises:
        ShapeError: not 2 or 3 axes.
    """
    array = np.asarray(image)
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"{who}: expected an image (H, W) or (H, W, C), came {type(image).__name__} of shape "
            f"{array.shape}"
        )
    return array


def on_image(image: Any, function: Callable[[np.ndarray], np.ndarray], who: str) -> Any:
    """Give `function` an image as (..., H, W, C), and return its result as an image of that kind.

    Raises:
        ShapeError: neither an image nor a tensor (..., C, H, W).
    """
    if isinstance(image, Tensor):
        if len(image.shape) < 3:
            raise ShapeError(
                f"{who}: expected a tensor (..., C, H, W), came shape {tuple(image.shape)}"
            )
        return Tensor(to_chw(function(to_hwc(image._array))))
    array = image_array(image, who)
    if array.ndim == 2:
        out = function(array[..., None])
        return out[..., 0] if out.shape[-1] == 1 else out
    return function(array)


class Transform:
    """A transform that works on one image and on many; subclasses define `apply`.

    `apply` gets (..., H, W, C) and the random stream of the sample; it must not write into it.
    """

    batchable = True

    def __call__(self, image: Any) -> Any:
        """One image in, one image of the same kind out, see Note [Images]."""
        return on_image(image, lambda array: self.apply(array, current()), type(self).__name__)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        """(..., H, W, C) to (..., H', W', C')."""
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once; here one after the other, with the stream of each."""
        streams = [SampleDraws(key) for key in draws.state()]
        pairs = zip(images.array, streams, strict=True)
        images.array = np.stack([self.apply(a, s) for a, s in pairs])
        draws.set_state([s.state() for s in streams])
        return images

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def is_batchable(transform: Any) -> bool:
    """True if `transform` is absent or has a `batch` that agrees with its `__call__`."""
    if transform is None:
        return True
    # The plain Transform.batch calls apply itself; any other one must know about a newer apply.
    general = getattr(type(transform), "batch", None) is Transform.batch
    agrees = general or defines(transform, "batch", "apply")
    return agrees and defines(transform, "batch", "__call__") and bool(transform.batchable)
