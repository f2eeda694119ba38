"""Blocks of images as columns, and back: unfold (im2col) and fold (col2im)."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ShapeError
from ...ops.windows import Blocks, Fold, Unfold
from ...tensors import Tensor
from ...tensors.graph import apply

Sizes = int | Sequence[int]


def _pair(value: Sizes, name: str, least: int) -> tuple[int, int]:
    """Two numbers from one or two.

    Raises:
        ShapeError: another count, or a number below `least`.
    """
    pair = (value, value) if isinstance(value, int) else tuple(int(v) for v in value)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2 or min(pair) < least:
        raise ShapeError(f"{name}: expected one or two numbers of {least} or more, came {value}")
    return pair


def _blocks(
    name: str,
    image: tuple[int, int],
    kernel_size: Sizes,
    dilation: Sizes,
    padding: Sizes,
    stride: Sizes,
) -> Blocks:
    blocks = Blocks(
        image,
        _pair(kernel_size, f"{name}: kernel_size", 1),
        _pair(dilation, f"{name}: dilation", 1),
        _pair(padding, f"{name}: padding", 0),
        _pair(stride, f"{name}: stride", 1),
    )
    if min(blocks.counts) < 1:
        raise ShapeError(
            f"{name}: the kernel {blocks.kernel} with dilation {blocks.dilation} does not fit into "
            f"an image of {image} with padding {blocks.padding}"
        )
    return blocks


def unfold(
    input: Tensor,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Tensor:
    """Sliding blocks of an image as columns (im2col).

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, dilation, padding, stride: of the blocks, one number or (height, width).

    Returns:
        (N, C * kernel elements, number of blocks), without N if the input had none.

    Raises:
        RuntimeError: shapes or numbers that do not fit.

    >>> import allgrad as ag
    >>> unfold(ag.arange(9.0).view(1, 1, 3, 3), 2).shape
    allgrad.Size([1, 4, 4])
    """
    shape = tuple(input.shape)
    if len(shape) not in (3, 4) or 0 in shape[-3:]:
        raise ShapeError(f"unfold: expected (N, C, H, W) or (C, H, W), came {shape}")
    blocks = _blocks("unfold", (shape[-2], shape[-1]), kernel_size, dilation, padding, stride)
    if len(shape) == 4:
        return apply(Unfold(blocks), input)
    return apply(Unfold(blocks), input.unsqueeze(0)).squeeze(0)


def fold(
    input: Tensor,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Tensor:
    """Columns put back as blocks of an image, overlapping ones summed (col2im).

    Args:
        input: (N, C * kernel elements, number of blocks), or without N.
        output_size: (height, width) of the image.
        kernel_size, dilation, padding, stride: of the blocks, as in `unfold`.

    Returns:
        (N, C, H, W), without N if the input had none.

    Raises:
        RuntimeError: shapes or numbers that do not fit.
    """
    shape, image = tuple(input.shape), _pair(output_size, "fold: output_size", 1)
    blocks = _blocks("fold", image, kernel_size, dilation, padding, stride)
    elements = blocks.kernel[0] * blocks.kernel[1]
    count = blocks.counts[0] * blocks.counts[1]
    if len(shape) not in (2, 3) or shape[-2] % elements or shape[-1] != count:
        raise ShapeError(
            f"fold: expected (N, C * {elements}, {count}) for an output_size of {image} and a "
            f"kernel of {blocks.kernel}, came {shape}"
        )
    if len(shape) == 3:
        return apply(Fold(blocks), input)
    return apply(Fold(blocks), input.unsqueeze(0)).squeeze(0)
