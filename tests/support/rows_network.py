"""Rows of layers and losses: products, convolution, pooling, normalisation."""

from __future__ import annotations

import itertools

from support.inputs import apart, booleans, normal, positive
from support.op_table import row


def weight(*shape, **options):
    return normal(*shape, batched=False, **options)


def _products():
    yield row("matmul", "MatMul", lambda lib, F, a, b: a @ b, normal(3, 4), weight(4, 5))
    yield row(
        "matmul_transposed", "MatMul", lambda lib, F, a, b: a @ b.t(), normal(3, 4), weight(5, 4)
    )
    yield row(
        "matmul_stack", "MatMul", lambda lib, F, a, b: a @ b, normal(2, 3, 4), normal(2, 4, 5)
    )
    yield row(
        "matmul_broadcast",
        "MatMul",
        lambda lib, F, a, b: a @ b,
        normal(2, 1, 3, 4),
        weight(5, 4, 2),
    )
    yield row("matmul_weight", "MatMul", lambda lib, F, a, b: a @ b, normal(2, 3, 4), weight(4, 5))
    yield row("bmm", "MatMul", lambda lib, F, a, b: lib.bmm(a, b), normal(2, 3, 4), normal(2, 4, 5))
    yield row("mm", "MatMul", lambda lib, F, a, b: lib.mm(a, b), normal(3, 4), weight(4, 2))
    yield row("dot", "Dot", lambda lib, F, a, b: lib.dot(a, b), normal(5), normal(5))
    yield row("matrix_vector", "Dot", lambda lib, F, a, b: a @ b, normal(3, 4), weight(4))
    yield row(
        "vector_matrix", "Dot", lambda lib, F, a, b: a @ b, weight(4), weight(4, 3), batches=()
    )
    yield row("vector_stack", "Dot", lambda lib, F, a, b: a @ b, weight(4), normal(2, 4, 3))
    yield row("stack_vector", "Dot", lambda lib, F, a, b: a @ b, normal(2, 3, 4), weight(4))
    yield row(
        "linear",
        "Linear",
        lambda lib, F, x, w, b: F.linear(x, w, b),
        normal(3, 4),
        weight(5, 4),
        weight(5),
    )
    yield row(
        "linear_plain", "Linear", lambda lib, F, x, w: F.linear(x, w), normal(3, 4), weight(5, 4)
    )
    yield row(
        "linear_3d",
        "Linear",
        lambda lib, F, x, w, b: F.linear(x, w, b),
        normal(2, 3, 4),
        weight(5, 4),
        weight(5),
    )
    yield row(
        "linear_1d",
        "Linear",
        lambda lib, F, x, w, b: F.linear(x, w, b),
        weight(4),
        weight(5, 4),
        weight(5),
        batches=(),
    )
    yield row(
        "linear_relu",
        "Linear",
        lambda lib, F, x, w, b: F.relu(F.linear(x, w, b)),
        normal(3, 4),
        weight(5, 4),
        weight(5),
    )
    yield row(
        "linear_relu_3d",
        "Linear",
        lambda lib, F, x, w, b: F.relu(F.linear(x, w, b)),
        normal(2, 3, 4),
        weight(5, 4),
        weight(5),
    )
    yield row(
        "bilinear",
        "MatMul",
        lambda lib, F, x, y, w, b: F.bilinear(x, y, w, b),
        normal(3, 4),
        normal(3, 2),
        weight(5, 4, 2),
        weight(5),
    )


def _convolutions():
    sizes = {1: (7,), 2: (6, 7), 3: (4, 5, 4)}
    kernels = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
    settings = (
        {},
        {"stride": 2, "padding": 1},
        {"padding": 2, "dilation": 2},
        {"groups": 2, "padding": 1},
        {"stride": 2, "groups": 2, "dilation": 2, "padding": 2},
    )
    for dims, (i, options) in itertools.product((1, 2, 3), enumerate(settings)):
        if dims == 3 and i == 4:
            continue
        groups = options.get("groups", 1)
        yield row(
            f"conv{dims}d_{i}", "Conv",
            lambda lib, F, x, w, b, d=dims, o=options: getattr(F, f"conv{d}d")(x, w, b, **o),
            normal(2, 4, *sizes[dims]), weight(6, 4 // groups, *kernels[dims]), weight(6),
        )  # fmt: skip
        extra = {"output_padding": 1} if options.get("stride") == 2 else {}
        yield row(
            f"conv_transpose{dims}d_{i}", "ConvTranspose",
            lambda lib, F, x, w, b, d=dims, o={**options, **extra}:
                getattr(F, f"conv_transpose{d}d")(x, w, b, **o),
            normal(2, 4, *sizes[dims]), weight(4, 6 // groups, *kernels[dims]),
            weight(6),
        )  # fmt: skip
    yield row(
        "conv2d_plain",
        "Conv",
        lambda lib, F, x, w: F.conv2d(x, w),
        normal(2, 3, 5, 5),
        weight(4, 3, 3, 3),
    )
    yield row(
        "conv2d_one_by_one",
        "Conv",
        lambda lib, F, x, w, b: F.conv2d(x, w, b),
        normal(2, 3, 4, 4),
        weight(5, 3, 1, 1),
        weight(5),
    )
    yield row(
        "conv2d_depthwise",
        "Conv",
        lambda lib, F, x, w, b: F.conv2d(x, w, b, padding=1, groups=4),
        normal(2, 4, 5, 5),
        weight(4, 1, 3, 3),
        weight(4),
    )
    yield row(
        "conv2d_same",
        "Conv",
        lambda lib, F, x, w: F.conv2d(x, w, padding="same"),
        normal(2, 3, 5, 5),
        weight(4, 3, 3, 3),
    )
    yield row(
        "conv2d_single",
        "Conv",
        lambda lib, F, x, w: F.conv2d(x, w),
        weight(3, 5, 5),
        weight(4, 3, 3, 3),
        batches=(),
    )
    yield row(
        "conv2d_relu",
        "Conv",
        lambda lib, F, x, w, b: F.relu(F.conv2d(x, w, b, padding=1)),
        normal(2, 3, 5, 5),
        weight(4, 3, 3, 3),
        weight(4),
    )
    yield row(
        "conv2d_wide",
        "Conv",
        lambda lib, F, x, w, b: F.relu(F.conv2d(x, w, b, padding=1, stride=2)),
        normal(2, 16, 8, 8),
        weight(32, 16, 3, 3),
        weight(32),
    )


def _pools():
    sizes = {1: (7,), 2: (6, 7), 3: (5, 4, 5)}
    for dims in (1, 2, 3):
        for i, options in enumerate((
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": 2, "stride": 2, "ceil_mode": True},
        )):  # fmt: skip
            for kind, op in (("max", "MaxPool"), ("avg", "AvgPool")):
                yield row(
                    f"{kind}_pool{dims}d_{i}", op,
                    lambda lib, F, x, n=f"{kind}_pool{dims}d", o=options: getattr(F, n)(x, **o),
                    apart(2, 3, *sizes[dims]), batches=(1,),
                )  # fmt: skip
        for kind in ("max", "avg"):
            name = f"adaptive_{kind}_pool{dims}d"
            yield row(
                f"{name}_uneven",
                "AdaptivePool",
                lambda lib, F, x, n=name: getattr(F, n)(x, 3),
                apart(2, 3, *sizes[dims]),
                batches=(1,),
            )
            yield row(
                f"{name}_one",
                "MaxPool" if kind == "max" else "AvgPool",
                lambda lib, F, x, n=name: getattr(F, n)(x, 1),
                apart(2, 3, *sizes[dims]),
                batches=(1,),
            )
    yield row(
        "max_pool2d_dilated",
        "MaxPool",
        lambda lib, F, x: F.max_pool2d(x, 2, 1, dilation=2),
        apart(2, 3, 6, 6),
        batches=(1,),
    )
    yield row(
        "max_pool2d_indices",
        "Gather",
        lambda lib, F, x: F.max_pool2d(x, 3, 1, return_indices=True)[0],
        apart(2, 3, 6, 6),
        batches=(1,),
    )
    yield row(
        "max_pool2d_single",
        "MaxPool",
        lambda lib, F, x: F.max_pool2d(x, 2),
        apart(3, 6, 6, batched=False),
        batches=(),
    )
    yield row(
        "avg_pool2d_exclude",
        "AvgPool",
        lambda lib, F, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        normal(2, 3, 6, 6),
        batches=(1,),
    )
    yield row(
        "avg_pool2d_divisor",
        "AvgPool",
        lambda lib, F, x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        normal(2, 3, 6, 6),
        batches=(1,),
    )


def _norms():
    for label, shape in (("2d", (6, 4)), ("3d", (3, 4, 5)), ("4d", (3, 4, 5, 2))):
        train = {"batches": ()}
        yield row(
            f"batch_norm_{label}",
            "BatchNorm",
            lambda lib, F, x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            normal(*shape),
            weight(4),
            weight(4),
            **train,
        )
        yield row(
            f"batch_norm_plain_{label}",
            "BatchNorm",
            lambda lib, F, x: F.batch_norm(x, None, None, training=True),
            normal(*shape),
            **train,
        )
        yield row(
            f"batch_norm_relu_{label}",
            "BatchNorm",
            lambda lib, F, x, w, b: F.relu(F.batch_norm(x, None, None, w, b, training=True)),
            normal(*shape),
            weight(4),
            weight(4),
            **train,
        )
        yield row(
            f"batch_norm_inference_{label}",
            "BatchNormInference",
            lambda lib, F, x, m, v, w, b: F.batch_norm(x, m, v, w, b),
            normal(*shape),
            weight(4, constant=True),
            positive(4, batched=False, constant=True),
            weight(4),
            weight(4),
        )
    yield row(
        "batch_norm_inference_relu",
        "BatchNormInference",
        lambda lib, F, x, m, v, w, b: F.relu(F.batch_norm(x, m, v, w, b)),
        normal(3, 4, 5, 2),
        weight(4, constant=True),
        positive(4, batched=False, constant=True),
        weight(4),
        weight(4),
    )
    yield row(
        "layer_norm",
        "LayerNorm",
        lambda lib, F, x, w, b: F.layer_norm(x, (5,), w, b),
        normal(3, 4, 5),
        weight(5),
        weight(5),
    )
    yield row(
        "layer_norm_two",
        "LayerNorm",
        lambda lib, F, x, w, b: F.layer_norm(x, (4, 5), w, b),
        normal(3, 4, 5),
        weight(4, 5),
        weight(4, 5),
    )
    yield row(
        "layer_norm_plain", "LayerNorm", lambda lib, F, x: F.layer_norm(x, (5,)), normal(3, 4, 5)
    )
    yield row(
        "group_norm",
        "GroupNorm",
        lambda lib, F, x, w, b: F.group_norm(x, 2, w, b),
        normal(3, 4, 5, 2),
        weight(4),
        weight(4),
    )
    yield row(
        "group_norm_plain", "GroupNorm", lambda lib, F, x: F.group_norm(x, 4), normal(3, 4, 5)
    )
    yield row(
        "instance_norm",
        "GroupNorm",
        lambda lib, F, x, w, b: F.instance_norm(x, weight=w, bias=b),
        normal(3, 4, 5),
        weight(4),
        weight(4),
        batches=(1,),
    )


def _dropout():
    def seeded(name):
        def function(lib, F, x):
            lib.manual_seed(3)
            return getattr(F, name)(x, 0.4, training=True)

        return function

    yield row("dropout", "Dropout", seeded("dropout"), normal(3, 4, 5), torch=False)
    for dims, shape in ((1, (3, 4, 5)), (2, (3, 4, 2, 2)), (3, (2, 3, 2, 2, 2))):
        yield row(
            f"dropout{dims}d", "Dropout", seeded(f"dropout{dims}d"), normal(*shape), torch=False
        )
    yield row("alpha_dropout", "Mul", seeded("alpha_dropout"), normal(3, 4), torch=False)


def _gated():
    """A few compositions in which several paths meet."""

    def residual(lib, F, x, w, b):
        h = F.relu(F.conv2d(x, w, b, padding=1))
        return F.relu(F.conv2d(h, w, padding=1) + x) * h

    yield row(
        "residual",
        "Conv AddActivations Mul",
        residual,
        normal(2, 3, 4, 4),
        weight(3, 3, 3, 3),
        weight(3),
    )
    yield row(
        "mask_and_sum",
        "Where Sum",
        lambda lib, F, x, m: lib.where(m, x, x * 2).sum(1),
        normal(3, 4),
        booleans(3, 4),
    )


ROWS = [
    *_products(),
    *_convolutions(),
    *_pools(),
    *_norms(),
    *_dropout(),
    *_gated(),
]
