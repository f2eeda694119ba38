"""Wrong input to functions and layers: the exception is one of the type that PyTorch raises.

Messages must name the operation and the shapes (or options) concerned. Losses: test_losses.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import allgrad as ag

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
ARRAYS = {
    "m": RNG.standard_normal((4, 6)).astype(np.float32),
    "l": RNG.standard_normal((2, 4, 7)).astype(np.float32),
    "x": RNG.standard_normal((2, 4, 6, 5)).astype(np.float32),
    "v": RNG.standard_normal((2, 4, 3, 4, 5)).astype(np.float32),
    "g": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32),
    "d": RNG.standard_normal((2, 4, 6, 5)),
    "i": np.arange(24).reshape(4, 6),
}

# name -> (call of (lib, F, t), what our message must match)
CASES = {
    # layers built with arguments that do not fit
    "Conv2d groups": (lambda lib, F, t: lib.nn.Conv2d(4, 6, 3, groups=4), "Conv2d.*groups 4"),
    "Conv2d padding name": (lambda lib, F, t: lib.nn.Conv2d(4, 6, 3, padding="full"), "'full'"),
    "Conv2d padding mode": (lambda lib, F, t: lib.nn.Conv2d(4, 6, 3, padding_mode="x"), "'x'"),
    "ConvTranspose2d mode": (lambda lib, F, t: lib.nn.ConvTranspose2d(
        4, 6, 3, padding_mode="reflect"), "reflect"),
    "GroupNorm groups": (lambda lib, F, t: lib.nn.GroupNorm(3, 4), "3 groups"),
    "Dropout p": (lambda lib, F, t: lib.nn.Dropout(1.5), "1.5"),
    "Bilinear size": (lambda lib, F, t: lib.nn.Bilinear(0, 1, 1), "Bilinear"),
    "Hardtanh limits": (lambda lib, F, t: lib.nn.Hardtanh(2.0, 1.0), "Hardtanh"),
    "MultiMarginLoss p": (lambda lib, F, t: lib.nn.MultiMarginLoss(p=3), "3"),
    "TripletMarginLoss margin": (lambda lib, F, t: lib.nn.TripletMarginLoss(margin=-1), "-1"),
    "FractionalMaxPool2d": (lambda lib, F, t: lib.nn.FractionalMaxPool2d(2), "output_size"),
    "FractionalMaxPool2d ratio": (lambda lib, F, t: lib.nn.FractionalMaxPool2d(
        2, output_ratio=1.5), "1.5"),
    "Linear device": (lambda lib, F, t: lib.nn.Linear(2, 2, device="nowhere"), "nowhere"),
    # linear and convolutions
    "linear features": (lambda lib, F, t: lib.nn.Linear(5, 3)(t.m), r"linear.*\(4, 6\).*\(3, 5\)"),
    "linear dtype": (lambda lib, F, t: lib.nn.Linear(5, 3)(t.d), "linear.*float64"),
    "bilinear features": (lambda lib, F, t: lib.nn.Bilinear(3, 6, 2)(t.m, t.m), "6"),
    "conv1d channels": (lambda lib, F, t: lib.nn.Conv1d(3, 2, 3)(t.l), r"conv1d.*\(2, 4, 7\)"),
    "conv2d channels": (lambda lib, F, t: lib.nn.Conv2d(3, 2, 3)(t.x), r"\(2, 4, 6, 5\)"),
    "conv2d dimensions": (lambda lib, F, t: lib.nn.Conv2d(4, 2, 3)(t.m), r"conv2d.*\(4, 6\)"),
    "conv2d kernel": (lambda lib, F, t: lib.nn.Conv2d(4, 2, 9)(t.x), r"conv2d.*\(9, 9\)"),
    "conv2d dtype": (lambda lib, F, t: lib.nn.Conv2d(4, 2, 3)(t.d), "conv2d.*float64"),
    "conv2d bias": (lambda lib, F, t: F.conv2d(t.x, t.x[:, :, :3, :3], t.m[0]), r"\(6,\)"),
    "conv2d same stride": (lambda lib, F, t: F.conv2d(t.x, t.x, padding="same", stride=2), "same"),
    "conv3d dimensions": (lambda lib, F, t: lib.nn.Conv3d(4, 2, 2)(t.l), "conv3d"),
    "conv_transpose2d channels": (lambda lib, F, t: lib.nn.ConvTranspose2d(3, 2, 3)(t.x),
                                  "conv_transpose2d.*4 channels"),
    "conv_transpose2d output_padding": (lambda lib, F, t: lib.nn.ConvTranspose2d(
        4, 2, 3, output_padding=2)(t.x), "output_padding"),
    "conv_transpose2d output_size": (lambda lib, F, t: lib.nn.ConvTranspose2d(4, 2, 3, 2)(
        t.x, output_size=(40, 40)), r"\(40, 40\)"),
    # norms
    "BatchNorm1d dimensions": (lambda lib, F, t: lib.nn.BatchNorm1d(4)(t.x), "BatchNorm1d"),
    "BatchNorm2d dimensions": (lambda lib, F, t: lib.nn.BatchNorm2d(4)(t.m), "BatchNorm2d"),
    "BatchNorm2d channels": (lambda lib, F, t: lib.nn.BatchNorm2d(3)(t.x), "4 channels"),
    "BatchNorm1d one value": (lambda lib, F, t: lib.nn.BatchNorm1d(6)(t.m[:1]), r"\(1, 6\)"),
    "InstanceNorm2d dimensions": (lambda lib, F, t: lib.nn.InstanceNorm2d(4)(t.m), "Instance"),
    "instance_norm one value": (lambda lib, F, t: F.instance_norm(t.x[:, :, :1, :1]), "position"),
    "layer_norm shape": (lambda lib, F, t: lib.nn.LayerNorm(5)(t.m), r"\(5,\).*\(4, 6\)"),
    "layer_norm weight": (lambda lib, F, t: F.layer_norm(t.m, (6,), t.m[0, :3]), r"\(6,\)"),
    "group_norm channels": (lambda lib, F, t: lib.nn.GroupNorm(2, 6)(t.x), "group_norm"),
    "local_response_norm": (lambda lib, F, t: F.local_response_norm(t.m, 2), r"\(4, 6\)"),
    # pools
    "max_pool2d dimensions": (lambda lib, F, t: F.max_pool2d(t.m, 2), r"max_pool2d.*\(4, 6\)"),
    "max_pool2d window": (lambda lib, F, t: F.max_pool2d(t.x, 9), "max_pool2d"),
    "max_pool2d padding": (lambda lib, F, t: F.max_pool2d(t.x, 2, padding=2), "padding 2"),
    "avg_pool1d dimensions": (lambda lib, F, t: F.avg_pool1d(t.x, 2), "avg_pool1d"),
    "avg_pool2d window": (lambda lib, F, t: F.avg_pool2d(t.x, 0), "avg_pool2d"),
    "adaptive_avg_pool2d sizes": (lambda lib, F, t: F.adaptive_avg_pool2d(t.x, (2, 2, 2)), "2"),
    "adaptive_max_pool2d dimensions": (lambda lib, F, t: F.adaptive_max_pool2d(t.m, 2),
                                       r"\(4, 6\)"),
    "adaptive_avg_pool2d negative": (lambda lib, F, t: F.adaptive_avg_pool2d(t.x, (2, -1)), "-1"),
    "max_unpool2d shape": (lambda lib, F, t: F.max_unpool2d(t.x, t.i, 2), r"\(4, 6\)"),
    "max_unpool2d dtype": (lambda lib, F, t: F.max_unpool2d(t.x, t.x, 2), "int64"),
    "max_unpool2d size": (lambda lib, F, t: F.max_unpool2d(
        t.x, t.x.long() * 0, 2, output_size=(40, 40)), r"max_unpool2d.*40"),
    "max_unpool2d index": (lambda lib, F, t: F.max_unpool2d(t.x, t.x.long() * 0 + 999, 2), "999"),
    "lp_pool2d order": (lambda lib, F, t: F.lp_pool2d(t.x, 0, 2), "norm_type"),
    "fractional_max_pool2d size": (lambda lib, F, t: F.fractional_max_pool2d(
        t.x, 3, output_size=6), "fit"),
    # activations
    **{
        f"{name} integers": (lambda lib, F, t, n=name: getattr(F, n)(t.i), f"{name}.*int64")
        for name in ("elu", "gelu", "silu", "mish", "softplus", "logsigmoid", "hardsigmoid",
                     "hardswish", "leaky_relu", "hardshrink", "softshrink")
    },
    "softmax integers": (lambda lib, F, t: F.softmax(t.i, 0), "softmax.*int64"),
    "softmax dim": (lambda lib, F, t: F.softmax(t.m, 4), "softmax|dim"),
    "Softmax2d": (lambda lib, F, t: lib.nn.Softmax2d()(t.m), r"Softmax2d.*\(4, 6\)"),
    "glu odd": (lambda lib, F, t: F.glu(t.x), "odd"),
    "glu dim": (lambda lib, F, t: F.glu(t.m, 3), "glu|dim"),
    "prelu weights": (lambda lib, F, t: F.prelu(t.m, t.m[0, :3]), r"prelu.*\(4, 6\).*\(3,\)"),
    "gelu approximate": (lambda lib, F, t: F.gelu(t.m, approximate="x"), "'x'"),
    "celu alpha": (lambda lib, F, t: F.celu(t.m, 0.0), "alpha"),
    "softshrink negative": (lambda lib, F, t: F.softshrink(t.m, -1.0), "-1"),
    "hardtanh limits": (lambda lib, F, t: F.hardtanh(t.m, 2.0, 1.0), "hardtanh"),
    "rrelu limits": (lambda lib, F, t: F.rrelu(t.m, 2.0, 1.0, True), "rrelu"),
    "gumbel integers": (lambda lib, F, t: F.gumbel_softmax(t.i), "int64"),
    "dropout p": (lambda lib, F, t: F.dropout(t.m, -0.1), "-0.1"),
    "relu in place of a leaf": (lambda lib, F, t: F.relu_(t.m.requires_grad_()), "leaf"),
    # resizing
    "interpolate nothing": (lambda lib, F, t: F.interpolate(t.x), "size"),
    "interpolate both": (lambda lib, F, t: F.interpolate(t.x, 3, 2.0), "size"),
    "interpolate mode": (lambda lib, F, t: F.interpolate(t.x, 3, mode="x"), "'x'"),
    "interpolate dimensions": (lambda lib, F, t: F.interpolate(t.l, 3, mode="bilinear"),
                               r"bilinear.*\(2, 4, 7\)"),
    "interpolate sizes": (lambda lib, F, t: F.interpolate(t.x, (3, 3, 3)), r"\(2, 4, 6, 5\)"),
    "interpolate corners": (lambda lib, F, t: F.interpolate(t.x, 3, align_corners=True),
                            "align_corners"),
    "interpolate antialias": (lambda lib, F, t: F.interpolate(t.x, 3, antialias=True), "antialias"),
    "interpolate empty": (lambda lib, F, t: F.interpolate(t.x, 0), "above 0"),
    "interpolate recompute": (lambda lib, F, t: F.interpolate(
        t.x, 3, recompute_scale_factor=True), "recompute"),
    "interpolate integers": (lambda lib, F, t: F.interpolate(t.x.long(), 3), "int64"),
    "grid_sample mode": (lambda lib, F, t: F.grid_sample(t.x, t.g, "x", align_corners=False), "x"),
    "grid_sample padding": (lambda lib, F, t: F.grid_sample(
        t.x, t.g, padding_mode="x", align_corners=False), "x"),
    "grid_sample batch": (lambda lib, F, t: F.grid_sample(t.x, t.g[:1], align_corners=False),
                          r"\(1, 3, 3, 2\)"),
    "grid_sample dtype": (lambda lib, F, t: F.grid_sample(t.d, t.g, align_corners=False),
                          "float64"),
    "grid_sample bicubic": (lambda lib, F, t: F.grid_sample(
        t.v, t.v[:, :3, ..., :3], "bicubic", align_corners=False), "bicubic|grid_sample"),
    "affine_grid shape": (lambda lib, F, t: F.affine_grid(t.l, (2, 1, 3, 3), align_corners=False),
                          r"\(2, 4, 7\)"),
    "affine_grid size": (lambda lib, F, t: F.affine_grid(
        t.l[:, :2, :3], (2, 1, 3), align_corners=False), "4 or 5"),
    "affine_grid integers": (lambda lib, F, t: F.affine_grid(
        t.l[:, :2, :3].long(), (2, 1, 3, 3), align_corners=False), "int64"),
    "pixel_shuffle channels": (lambda lib, F, t: F.pixel_shuffle(t.x, 3), "4 channels"),
    "pixel_shuffle dimensions": (lambda lib, F, t: F.pixel_shuffle(t.m, 2), r"\(4, 6\)"),
    "pixel_shuffle factor": (lambda lib, F, t: F.pixel_shuffle(t.x, 0), "0"),
    "pixel_unshuffle size": (lambda lib, F, t: F.pixel_unshuffle(t.x, 4), "divide by 4"),
    "channel_shuffle groups": (lambda lib, F, t: F.channel_shuffle(t.x, 3), "3 groups"),
    "channel_shuffle dimensions": (lambda lib, F, t: F.channel_shuffle(t.m, 2), r"\(4, 6\)"),
    "ReflectionPad2d too wide": (lambda lib, F, t: lib.nn.ReflectionPad2d(9)(t.x), "pad"),
    "CircularPad2d dimensions": (lambda lib, F, t: lib.nn.CircularPad2d(1)(t.m), r"\(4, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_pytorch_raises(name):
    call, message = CASES[name]

    def run(lib):
        t = SimpleNamespace(**{k: lib.tensor(v.copy()) for k, v in ARRAYS.items()})
        call(lib, lib.nn.functional, t)

    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        run(torch)
    with pytest.raises(theirs.type, match=message):
        run(ag)


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_old_names_of_interpolate():
    x = ag.tensor(ARRAYS["x"])
    y = torch.tensor(ARRAYS["x"])
    for name in ("upsample", "upsample_nearest", "upsample_bilinear"):
        a = getattr(ag.nn.functional, name)(x, scale_factor=2)
        b = getattr(torch.nn.functional, name)(y, scale_factor=2)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
def test_implicit_dimension(name):
    for shape in ((3,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        array = np.random.default_rng(0).standard_normal(shape)
        with pytest.warns(UserWarning, match="dim"):
            a = getattr(ag.nn.functional, name)(ag.tensor(array))
        with pytest.warns(UserWarning, match="dim"):
            b = getattr(torch.nn.functional, name)(torch.tensor(array))
        np.testing.assert_allclose(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    "name",
    ["relu_", "elu_", "selu_", "celu_", "leaky_relu_", "hardtanh_", "rrelu_", "threshold_"],
)
def test_functions_in_place(name):
    array = np.random.default_rng(0).standard_normal((4, 6))
    options = {"threshold_": (0.1, 2.0)}.get(name, ())
    found = []
    for lib in (ag, torch):
        x = lib.tensor(array, requires_grad=True)
        h = x * 2
        y = getattr(lib.nn.functional, name)(h, *options)
        assert y is h
        (y * y).sum().backward()
        found.append((y.detach().numpy(), x.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
