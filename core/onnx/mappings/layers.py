"""Layers: convolutions, linear maps, pooling, normalisation, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import conv, dropout, embedding, linear, norm, pool, watch
from ..graph import Value


def _activated(step: Any, y: str) -> str:
    return step.graph.node("Relu", y) if step["relu"] else y


def _window(stride: Any, padding: Any, dilation: Any) -> dict[str, list[int]]:
    pads = [int(p) for p in padding]
    return {
        "strides": [int(s) for s in stride],
        "pads": pads + pads,
        "dilations": [int(d) for d in dilation],
    }


def _conv(step: Any) -> str:
    stride, padding, dilation, groups = step["geometry"]
    x, weight, bias = step.inputs
    window = _window(stride, padding, dilation)
    kernel = list(weight.shape[2:])
    y = step.graph.node("Conv", x, weight, bias, group=groups, kernel_shape=kernel, **window)
    return _activated(step, y)


def _conv_transpose(step: Any) -> str:
    stride, padding, dilation, groups = step["geometry"]
    x, weight, bias = step.inputs
    extra = []
    for shape, out in ((x.shape, step.shape), (x.other_shape, step.other_shape)):
        spans = zip(shape[2:], out[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        extra.append([o - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for n, o, k, s, p, d in spans])
    if extra[0] != extra[1]:
        raise step.refuse("its output_padding depends on the size of the input")
    return step.graph.node(
        "ConvTranspose", x, weight, bias, group=groups, kernel_shape=list(weight.shape[2:]),
        output_padding=[int(e) for e in extra[0]], **_window(stride, padding, dilation),
    )  # fmt: skip


def _linear(step: Any) -> str:
    x, weight, bias = step.inputs
    node = step.graph.node
    if len(x.shape) == 2 and (bias is None or len(bias.shape) == 1):
        return _activated(step, node("Gemm", x, weight, bias, transB=1))
    y = node("MatMul", x, node("Transpose", weight, perm=[1, 0]))
    return _activated(step, y if bias is None else node("Add", y, bias))


def _matmul(step: Any) -> str:
    return step.graph.node("MatMul", step.number(0), step.number(1))


def _embedding(step: Any) -> str:
    indices, weight = step.inputs
    return step.graph.node("Gather", weight, indices, axis=0)


# -- pooling -------------------------------------------------------------------------------------
def _is_global(step: Any, kernels: Any, padding: Any) -> bool:
    """Whether one window covers the whole plane, whatever its size."""
    x = step.inputs[0]
    planes = (x.shape[2:], x.other_shape[2:])
    return not any(padding) and all(tuple(k) == p for k, p in zip(kernels, planes, strict=True))


def _max_pool(step: Any) -> str:
    first, second = step.both("geometry")
    if _is_global(step, (first[0], second[0]), first[2]):
        return step.graph.node("GlobalMaxPool", step.inputs[0])
    kernel, stride, padding, dilation = step["geometry"]
    return step.graph.node(
        "MaxPool", step.inputs[0], kernel_shape=list(kernel), ceil_mode=int(step["ceil_mode"]),
        **_window(stride, padding, dilation),
    )  # fmt: skip


def _avg_pool(step: Any) -> str:
    first, second = step.both("settings")
    if _is_global(step, (first[0], second[0]), first[2]):
        return step.graph.node("GlobalAveragePool", step.inputs[0])
    kernel, stride, padding, ceil_mode, count_pad = step["settings"]
    window = _window(stride, padding, stride)
    del window["dilations"]
    return step.graph.node(
        "AveragePool", step.inputs[0], kernel_shape=list(kernel), ceil_mode=int(ceil_mode),
        count_include_pad=int(count_pad), **window,
    )  # fmt: skip


def _adaptive_pool(step: Any) -> str:
    """Means of windows as products with matrices: one for the rows, one for the columns."""
    x, sizes = step.inputs[0], step["output_size"]
    if step["maximum"] or len(sizes) > 2:
        raise step.refuse(f"it maps {x.shape[2:]} to {sizes} in windows of different sizes")
    if x.shape[2:] != x.other_shape[2:]:
        raise step.refuse("windows of different sizes need a fixed size of the image")
    averages = [_averages(n, o, step.dtype) for n, o in zip(x.shape[2:], sizes, strict=True)]
    columns = step.graph.constant(averages[-1].T)
    y = step.graph.node("MatMul", x, columns)
    return y if len(sizes) == 1 else step.graph.node("MatMul", step.graph.constant(averages[0]), y)


def _averages(size: int, count: int, dtype: Any) -> np.ndarray:
    """(count, size): row i averages the elements of window i."""
    matrix = np.zeros((count, size), dtype)
    for i in range(count):
        low, high = i * size // count, -(-(i + 1) * size // count)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


# -- normalisation -------------------------------------------------------------------------------
def _or_constant(step: Any, value: Value | None, fill: float, count: int) -> str:
    if value is not None:
        return value.name
    return step.graph.constant(np.full(count, fill, step.dtype))


def _batch_norm(step: Any) -> str:
    x, weight, bias = step.inputs
    channels = x.shape[1]
    prefix = weight.name.removesuffix("weight") if weight is not None else "batch_norm."
    mean = step.graph.constant(step["mean"], f"{prefix}running_mean")
    var = step.graph.constant(step["var"], f"{prefix}running_var")
    y = step.graph.node(
        "BatchNormalization", x, _or_constant(step, weight, 1, channels),
        _or_constant(step, bias, 0, channels), mean, var, epsilon=float(step["eps"]),
    )  # fmt: skip
    return _activated(step, y)


def _layer_norm(step: Any) -> str:
    x, weight, bias = step.inputs
    count = step["axes_count"]
    if x.shape[-count:] != x.other_shape[-count:]:
        raise step.refuse("a dynamic axis is normalised")
    scale = weight.name if weight is not None else None
    if scale is None:
        scale = step.graph.constant(np.ones(x.shape[-count:], step.dtype))
    return step.graph.node(
        "LayerNormalization", x, scale, bias, axis=-count, epsilon=float(step["eps"])
    )


def _group_norm(step: Any) -> str:
    """Instance norm of the groups, then the scale and shift of each channel."""
    (x, weight, bias), groups, node = step.inputs, step["num_groups"], step.graph.node
    ones, zeros = (step.graph.constant(np.full(groups, v, step.dtype)) for v in (1, 0))
    parts = node("Reshape", x, step.graph.integers(0, groups, -1))
    y = node("InstanceNormalization", parts, ones, zeros, epsilon=float(step["eps"]))
    y = node("Reshape", y, node("Shape", x))
    across = step.graph.integers(-1, *(1,) * (len(x.shape) - 2))
    for kind, vector in (("Mul", weight), ("Add", bias)):
        if vector is not None:
            y = node(kind, y, node("Reshape", vector, across))
    return y


def _training(step: Any) -> str:
    raise step.refuse(
        "it belongs to training although the model is in evaluation mode; pass training="
        "self.training to functional dropout, and give batch norm running statistics"
    )


def _watch(step: Any) -> Any:
    names = [value.name for value in step.inputs]
    return names[0] if len(names) == 1 else names


MAPPINGS = {
    conv.Conv: _conv,
    conv.ConvTranspose: _conv_transpose,
    linear.Linear: _linear,
    linear.MatMul: _matmul,
    linear.Dot: _matmul,
    embedding.Embedding: _embedding,
    pool.MaxPool: _max_pool,
    pool.AvgPool: _avg_pool,
    pool.AdaptivePool: _adaptive_pool,
    norm.BatchNorm: _training,
    norm.BatchNormInference: _batch_norm,
    norm.LayerNorm: _layer_norm,
    norm.GroupNorm: _group_norm,
    dropout.Dropout: _training,
    watch.Watch: _watch,
}
