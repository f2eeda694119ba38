"""Rows of lazy layers: label -> (constructor for both libraries, shape of the first input)."""

from __future__ import annotations

LINE, IMAGE, VOLUME = (3, 4, 7), (3, 4, 6, 5), (2, 4, 4, 5, 3)
LAYERS = {
    "LazyLinear": (lambda nn: nn.LazyLinear(3), (5, 4)),
    "LazyLinear_no_bias": (lambda nn: nn.LazyLinear(3, bias=False), (2, 5, 4)),
    "LazyConv1d": (lambda nn: nn.LazyConv1d(6, 3, groups=2), LINE),
    "LazyConv2d": (lambda nn: nn.LazyConv2d(6, (3, 2), 2, 1, bias=False), IMAGE),
    "LazyConv2d_single": (lambda nn: nn.LazyConv2d(6, 3), IMAGE[1:]),
    "LazyConv3d": (lambda nn: nn.LazyConv3d(2, 2), VOLUME),
    "LazyConvTranspose1d": (lambda nn: nn.LazyConvTranspose1d(6, 3, 2), LINE),
    "LazyConvTranspose2d": (lambda nn: nn.LazyConvTranspose2d(6, 3, 2, 1, 1, groups=2), IMAGE),
    "LazyConvTranspose3d": (lambda nn: nn.LazyConvTranspose3d(2, 2), VOLUME),
    "LazyBatchNorm1d": (lambda nn: nn.LazyBatchNorm1d(), LINE),
    "LazyBatchNorm2d": (lambda nn: nn.LazyBatchNorm2d(affine=False), IMAGE),
    "LazyBatchNorm3d": (lambda nn: nn.LazyBatchNorm3d(track_running_stats=False), VOLUME),
    "LazyInstanceNorm1d": (lambda nn: nn.LazyInstanceNorm1d(affine=True), LINE),
    "LazyInstanceNorm2d": (lambda nn: nn.LazyInstanceNorm2d(affine=True,
                           track_running_stats=True), IMAGE),
    "LazyInstanceNorm3d": (lambda nn: nn.LazyInstanceNorm3d(affine=True), VOLUME),
}  # fmt: skip
