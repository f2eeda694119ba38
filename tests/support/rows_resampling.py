"""Rows of interpolation, unpooling and other resampling, and of the hooks' node."""

from __future__ import annotations

import itertools

import numpy as np
from support.inputs import apart, normal, uniform
from support.op_table import row

SHAPES = {1: (2, 3, 5), 2: (2, 3, 5, 4), 3: (2, 2, 3, 4, 3)}


def _interpolate():
    modes = {
        1: ("nearest", "nearest-exact", "linear"),
        2: ("nearest", "nearest-exact", "bilinear", "bicubic"),
        3: ("nearest", "nearest-exact", "trilinear"),
    }
    targets = {
        "up": lambda d: {"size": (11, 7, 5)[:d]},
        "down": lambda d: {"size": (2, 3, 2)[:d]},
        "scale": lambda d: {"scale_factor": (1.7, 0.7, 2.4)[:d]},
        "rounded": lambda d: {"scale_factor": 1.7, "recompute_scale_factor": True},
    }
    for dims in (1, 2, 3):
        for mode, (label, target) in itertools.product(modes[dims], targets.items()):
            options = target(dims)
            corners = (None,) if "nearest" in mode else (False, True)
            for align in corners:
                yield row(
                    f"interpolate_{dims}_{mode}_{label}_{align}", "Resample",
                    lambda lib, F, x, m=mode, o=options, a=align:
                        F.interpolate(x, mode=m, align_corners=a, **o),
                    normal(*SHAPES[dims]), batches=(1,),
                )  # fmt: skip
    for mode, align, size in itertools.product(
        ("bilinear", "bicubic"), (False, True), ((2, 3), (7, 9), (5, 2))
    ):
        yield row(
            f"interpolate_antialias_{mode}_{align}_{size}",
            "Resample",
            lambda lib, F, x, m=mode, s=size, a=align: F.interpolate(
                x, s, mode=m, antialias=True, align_corners=a
            ),
            normal(2, 3, 9, 5),
            batches=(1,),
        )
    yield row(
        "interpolate_area",
        "AdaptivePool",
        lambda lib, F, x: F.interpolate(x, (3, 3), mode="area"),
        normal(2, 3, 5, 4),
        batches=(1,),
    )


def _shuffles():
    for name, shape, argument in (
        ("pixel_shuffle", (2, 8, 3, 2), 2),
        ("pixel_unshuffle", (2, 3, 4, 6), 2),
        ("channel_shuffle", (2, 6, 3, 2), 3),
    ):
        yield row(
            name, "Permute",
            lambda lib, F, x, n=name, a=argument: getattr(F, n)(x, a), normal(*shape), batches=(1,),
        )  # fmt: skip
    yield row(
        "local_response_norm",
        "Pow",
        lambda lib, F, x: F.local_response_norm(x, 3, alpha=0.5, beta=0.6, k=1.5),
        normal(2, 5, 3, 2),
        batches=(1,),
    )


def _grids():
    for mode, padding, align in itertools.product(
        ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    ):
        places = uniform(-1.35, 1.37, 2, 3, 4, 2, constant=mode == "nearest")
        yield row(
            f"grid_sample_{mode}_{padding}_{align}", "Gather",
            lambda lib, F, x, g, m=mode, p=padding, a=align: F.grid_sample(x, g, m, p, a),
            normal(2, 3, 4, 5), places, batches=(1,),
        )  # fmt: skip
    for mode, align in itertools.product(("bilinear", "nearest"), (False, True)):
        yield row(
            f"grid_sample_volume_{mode}_{align}", "Gather",
            lambda lib, F, x, g, m=mode, a=align: F.grid_sample(x, g, m, align_corners=a),
            normal(2, 2, 3, 4, 5), uniform(-1.3, 1.3, 2, 2, 3, 2, 3, constant=mode == "nearest"),
            batches=(1,),
        )  # fmt: skip
    for align, shape in itertools.product((False, True), ((2, 3, 4, 5), (2, 3, 1, 2, 3))):
        dims = len(shape) - 2
        yield row(
            f"affine_grid_{dims}_{align}", "MatMul",
            lambda lib, F, t, s=shape, a=align: F.affine_grid(t, s, align_corners=a),
            normal(2, dims, dims + 1, batched=False), batches=(),
        )  # fmt: skip


def _pools():
    sizes = {1: (7,), 2: (6, 7), 3: (5, 4, 5)}
    for dims in (1, 2, 3):

        def unpool(lib, F, x, d=dims):
            y, places = getattr(F, f"max_pool{d}d")(x, 2, return_indices=True)
            return getattr(F, f"max_unpool{d}d")(y, places, 2, output_size=x.shape[2:])

        yield row(f"max_unpool{dims}d", "Scatter Gather", unpool, apart(2, 3, *sizes[dims]),
                  batches=(1,))  # fmt: skip
        for norm in (2, 3.0):
            yield row(
                f"lp_pool{dims}d_{norm}", "AvgPool",
                lambda lib, F, x, d=dims, p=norm:
                    getattr(F, f"lp_pool{d}d")(x, p, 2, ceil_mode=True),
                uniform(0.2, 2.0, 2, 3, *sizes[dims]), batches=(1,),
            )  # fmt: skip
        yield row(
            f"adaptive_max_pool{dims}d_indices", "Gather",
            lambda lib, F, x, d=dims:
                getattr(F, f"adaptive_max_pool{d}d")(x, 3, return_indices=True)[0],
            apart(2, 3, *sizes[dims]), batches=(1,),
        )  # fmt: skip
    for dims, shape in ((2, (2, 3, 7, 6)), (3, (2, 2, 6, 5, 7))):
        samples = np.random.default_rng(4).random((2, shape[1], dims))

        def fractional(lib, F, x, d=dims, s=samples):
            draws = lib.tensor(s, dtype=x.dtype)
            return getattr(F, f"fractional_max_pool{d}d")(
                x, 2, output_size=3, _random_samples=draws
            )

        yield row(f"fractional_max_pool{dims}d", "Gather", fractional,
                  apart(*shape, batched=False), batches=())  # fmt: skip


def _hooks():
    def hooked(lib, F, x):
        layer = lib.nn.Identity()
        layer.register_full_backward_hook(lambda module, grad_input, grad_output: None)
        return layer(x)

    yield row("backward_hook", "Watch", hooked, normal(3, 4))


def _shrinks():
    for name, op, options in (
        ("hardshrink", "Hardshrink", {"lambd": 0.4}),
        ("softshrink", "Softshrink", {"lambd": 0.3}),
        ("threshold", "Threshold", {"threshold": 0.2, "value": -3.0}),
        ("rrelu", "LeakyReLU", {"lower": 0.1, "upper": 0.3}),
        ("glu", "Sigmoid", {"dim": 1}),
        ("tanhshrink", "Tanh", {}),
    ):
        yield row(
            name, op,
            lambda lib, F, x, n=name, o=options: getattr(F, n)(x, **o), normal(3, 4),
        )  # fmt: skip

    def seeded(name, **options):
        def function(lib, F, x):
            lib.manual_seed(3)
            return getattr(F, name)(x, **options)

        return function

    yield row("rrelu_training", "Mul", seeded("rrelu", training=True), normal(3, 4), torch=False)
    yield row("gumbel_softmax", "Softmax", seeded("gumbel_softmax", tau=0.7), normal(3, 4),
              torch=False)  # fmt: skip
    yield row("feature_alpha_dropout", "Mul",
              seeded("feature_alpha_dropout", p=0.4, training=True), normal(3, 4, 2),
              torch=False)  # fmt: skip


ROWS = [*_interpolate(), *_shuffles(), *_grids(), *_pools(), *_hooks(), *_shrinks()]
