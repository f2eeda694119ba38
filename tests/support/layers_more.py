"""Rows of layers: padding, resizing, shrinking activations, unpooling, distances."""

from __future__ import annotations

from .layers_basic import IMAGE, LINE, VOLUME

EIGHT = (2, 8, 4, 6)


def inner(nn, layer):
    """A layer that works in place, behind one that it may overwrite the output of."""
    return nn.Sequential(nn.Hardtanh(-9, 9), layer)


LAYERS = {
    "Hardshrink": (lambda nn: nn.Hardshrink(0.4), IMAGE),
    "Softshrink": (lambda nn: nn.Softshrink(), IMAGE),
    "Tanhshrink": (lambda nn: nn.Tanhshrink(), IMAGE),
    "Threshold": (lambda nn: nn.Threshold(0.1, 2.0), IMAGE),
    "Threshold_inplace": (lambda nn: inner(nn, nn.Threshold(0.1, 2.0, True)), IMAGE),
    "GLU": (lambda nn: nn.GLU(dim=1), IMAGE),
    "Softmax2d": (lambda nn: nn.Softmax2d(), IMAGE),
    "ELU_default": (lambda nn: nn.ELU(), IMAGE),
    "Hardtanh_default": (lambda nn: nn.Hardtanh(), IMAGE),
    "LeakyReLU_inplace": (lambda nn: inner(nn, nn.LeakyReLU(inplace=True)), IMAGE),
    "Softplus_default": (lambda nn: nn.Softplus(), IMAGE),
    "SiLU_inplace": (lambda nn: inner(nn, nn.SiLU(inplace=True)), IMAGE),
    "Hardswish_inplace": (lambda nn: inner(nn, nn.Hardswish(inplace=True)), IMAGE),
    "ConstantPad1d": (lambda nn: nn.ConstantPad1d((1, 2), -1.5), LINE),
    "ConstantPad2d": (lambda nn: nn.ConstantPad2d((1, 0, 2, -1), 0.5), IMAGE),
    "ConstantPad3d": (lambda nn: nn.ConstantPad3d(1, 2.0), VOLUME),
    "ZeroPad1d": (lambda nn: nn.ZeroPad1d(2), LINE),
    "ZeroPad2d": (lambda nn: nn.ZeroPad2d((1, 2, 0, 3)), IMAGE),
    "ZeroPad3d": (lambda nn: nn.ZeroPad3d(1), VOLUME),
    "ReflectionPad1d": (lambda nn: nn.ReflectionPad1d((2, 3)), LINE),
    "ReflectionPad2d": (lambda nn: nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "ReflectionPad2d_single": (lambda nn: nn.ReflectionPad2d(2), IMAGE[1:]),
    "ReflectionPad3d": (lambda nn: nn.ReflectionPad3d(1), VOLUME),
    "ReplicationPad1d": (lambda nn: nn.ReplicationPad1d((2, 3)), LINE),
    "ReplicationPad2d": (lambda nn: nn.ReplicationPad2d((1, 2, 3, 0)), IMAGE),
    "ReplicationPad3d": (lambda nn: nn.ReplicationPad3d((1, 0, 2, 1, 0, 3)), VOLUME),
    "CircularPad1d": (lambda nn: nn.CircularPad1d((2, 3)), LINE),
    "CircularPad2d": (lambda nn: nn.CircularPad2d((1, 2, 3, 0)), IMAGE),
    "CircularPad3d": (lambda nn: nn.CircularPad3d(1), VOLUME),
    "Upsample": (lambda nn: nn.Upsample(scale_factor=2), IMAGE),
    "Upsample_size": (lambda nn: nn.Upsample((7, 3), mode="bicubic"), IMAGE),
    "Upsample_line": (lambda nn: nn.Upsample(scale_factor=1.5, mode="linear",
                      recompute_scale_factor=True), LINE),
    "Upsample_volume": (lambda nn: nn.Upsample(scale_factor=(2, 1, 2), mode="trilinear",
                        align_corners=True), VOLUME),
    "UpsamplingNearest2d": (lambda nn: nn.UpsamplingNearest2d(scale_factor=3), IMAGE),
    "UpsamplingBilinear2d": (lambda nn: nn.UpsamplingBilinear2d((9, 4)), IMAGE),
    "PixelShuffle": (lambda nn: nn.PixelShuffle(2), IMAGE),
    "PixelUnshuffle": (lambda nn: nn.PixelUnshuffle(2), EIGHT),
    "ChannelShuffle": (lambda nn: nn.ChannelShuffle(4), EIGHT),
    "LocalResponseNorm": (lambda nn: nn.LocalResponseNorm(3, alpha=0.1), IMAGE),
    "CosineSimilarity": (lambda nn: nn.CosineSimilarity(), (4, 5), (4, 5)),
    "CosineSimilarity_channels": (lambda nn: nn.CosineSimilarity(dim=1, eps=1e-3), IMAGE, IMAGE),
    "PairwiseDistance": (lambda nn: nn.PairwiseDistance(), (4, 5), (4, 5)),
    "PairwiseDistance_kept": (lambda nn: nn.PairwiseDistance(3, keepdim=True), (4, 5), (4, 5)),
    "MaxPool2d_indices": (lambda nn: nn.MaxPool2d(3, 1, return_indices=True), IMAGE),
    "AdaptiveMaxPool1d_indices": (lambda nn: nn.AdaptiveMaxPool1d(4, return_indices=True), LINE),
    "AdaptiveMaxPool2d_indices": (lambda nn: nn.AdaptiveMaxPool2d((4, None), True), IMAGE),
    "AdaptiveMaxPool3d_indices": (lambda nn: nn.AdaptiveMaxPool3d(2, True), VOLUME),
    "Unfold": (lambda nn: nn.Unfold((2, 3), padding=1, stride=2), IMAGE),
    "Fold": (lambda nn: nn.Fold((4, 5), 2, padding=1, stride=3), (2, 8, 4)),
    "LPPool1d": (lambda nn: nn.LPPool1d(2, 3), LINE),
    "LPPool2d": (lambda nn: nn.LPPool2d(4, (2, 3), stride=(2, 1)), IMAGE),
    "LPPool3d": (lambda nn: nn.LPPool3d(2, 2, ceil_mode=True), VOLUME),
}  # fmt: skip
