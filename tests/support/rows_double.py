"""Rows of the ops that second derivatives are made of: gradients, as functions to be checked."""

from __future__ import annotations

from support.inputs import apart, normal
from support.op_table import row


def slopes(function):
    """The gradients of ``function(lib, F, *tensors)`` along the last input, with a graph."""

    def gradients(lib, F, *tensors):
        recorded = any(t.requires_grad for t in tensors)
        if not recorded:  # finite differences of the gradients themselves
            tensors = [t.detach().requires_grad_(True) for t in tensors]
        *inputs, v = tensors
        found = lib.autograd.grad(function(lib, F, *inputs), inputs, v, create_graph=True)
        return tuple(g if recorded else g.detach() for g in found)

    return gradients


def weight(*shape):
    return normal(*shape, batched=False)


def _rows():
    yield row(
        "gradient_of_conv2d",
        "Trilinear",
        slopes(lambda lib, F, x, w: F.conv2d(x, w, stride=2, padding=1, groups=2)),
        normal(2, 4, 5, 5),
        weight(2, 2, 3, 3),
        normal(2, 2, 3, 3),
        batches=(1,),
    )
    yield row(
        "gradient_of_conv_transpose1d",
        "Trilinear",
        slopes(lambda lib, F, x, w: F.conv_transpose1d(x, w, stride=2, dilation=2)),
        normal(2, 3, 4),
        weight(3, 2, 3),
        normal(2, 2, 11),
        batches=(1,),
    )
    yield row(
        "gradient_of_max_pool2d",
        "LinearMap",
        slopes(lambda lib, F, x: F.max_pool2d(x, 3, 2, 1)),
        apart(2, 3, 6, 5),
        normal(2, 3, 3, 3),
        batches=(1,),
    )
    yield row(
        "gradient_of_cumsum",
        "LinearMap",
        slopes(lambda lib, F, x: x.cumsum(1)),
        normal(3, 4),
        normal(3, 4),
    )


ROWS = [*_rows()]
