"""3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications instead of 36.

oneDNN's direct convolution runs at the machine's peak, so only doing less arithmetic is faster.
For a tile of 2x2 results from 4x4 inputs d and a 3x3 filter g (Lavin & Gray 2016, equation 8)

    Y = A' [(G g G') * (B' d B)] A

with `*` elementwise. Over all channels the elementwise product is 16 matrix products, one for
each position in the tile. Every part is a oneDNN primitive of one plan:

    U = (G x G) g          matrix product (16, 9) @ (9, O*C)
    V = (B' x B') d        16 depthwise convolutions 2x2 of stride 2, one per position: B' has
                           two entries in each row
    M[k] = V[k] U[k]'      batched matrix product, 16 times (tiles, C) @ (C, O)
    Y = (A' x A') M        matrix product (4, 16) @ (16, tiles*O), then 4 strided copies

The batch is cut into pieces so that V and M stay in cache. The gradient for the input is the same
with the filter turned by half a turn, which swaps rows 0 and 3 of G. The gradient for the weight is
G' [sum over tiles of (A dY A') * V] G. Rounding errors are about twice those of the direct sum.
"""

from __future__ import annotations

import numpy as np

from .layout import channels_last_strides
from .onednn import dims
from .onednn_plan import (
    ARG_DST,
    ARG_SRC,
    ARG_SRC_1,
    ARG_WEIGHTS,
    BINARY_ADD,
    QUERY_WEIGHTS,
    Plan,
)
from .protocol import Array, Dims

_FORWARD_TRAINING, _DIRECT = 64, 1
_DEPTHWISE_JIT = "jit_dw:avx512_core"
_PIECE_BYTES = 4 << 20  # of V and M together, per piece of the batch
_FILTER_SHARE = 0.5  # or, if that is more, this part of U
_MIN_CHANNELS = 64

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]], np.float32)
# Rows of B' as (first offset, distance to the second, the two factors).
_B_ROWS = ((0, 2, (1, -1)), (1, 1, (1, 1)), (1, 1, (-1, 1)), (1, 2, (1, -1)))
_TURNED = [3, 1, 2, 0]


def suits(x_shape: Dims, weight_shape: Dims, window: tuple[Dims, Dims, Dims, int]) -> bool:
    """Whether Winograd is faster for this convolution and its gradients.

    The transformed weights are 16/9 as large as the weights, so there must be enough tiles per
    channel to make up for transforming them.
    """
    if weight_shape[2:] != (3, 3) or window != ((1, 1), (1, 1), (1, 1), 1):
        return False
    outputs, inputs = weight_shape[:2]
    n, _, h, w = x_shape
    if h % 2:  # the rows of the last tile would reach into the next sample
        return False
    tiles = n * (h // 2) * -(-w // 2)
    channels_fit = min(outputs, inputs) >= _MIN_CHANNELS and not (outputs % 16 or inputs % 16)
    return channels_fit and 4 * tiles >= max(outputs, inputs)


class _Tiling:
    """The tiles of a batch (N, _, H, W), and the pieces that the batch is cut into."""

    def __init__(self, shape: Dims, inputs: int, outputs: int) -> None:
        self.n, _, self.h, self.w = shape
        self.rows, self.columns = self.h // 2, -(-self.w // 2)
        per_sample = 16 * self.rows * self.columns * (inputs + outputs) * 4
        # Every piece reads all of U, so pieces must not be much smaller than U is.
        filters = 16 * inputs * outputs * 4
        most = int(max(_PIECE_BYTES, _FILTER_SHARE * filters)) // per_sample
        self.piece = max(d for d in range(1, self.n + 1) if self.n % d == 0 and d <= max(most, 1))
        self.tiles = self.piece * self.rows * self.columns

    def samples(self, channels: int) -> Dims:
        """Shape of one piece of a batch with `channels`."""
        return (self.piece, channels, self.h, self.w)

    def tiled(self, channels: int) -> Dims:
        """Shape of one position of the tiles of one piece."""
        return (self.piece, channels, self.rows, self.columns)

    def offsets(self, channels: int) -> range:
        """Byte offset of each piece in a batch with `channels`."""
        step = self.piece * channels * self.h * self.w * 4
        return range(0, step * (self.n // self.piece), step)


def build_forward(
    plan: Plan, x: Array, weight: Array, bias: Array | None, activation: str | None
) -> Dims:
    """Fill `plan` for the arrays (x, weight, [bias,] y) and return the shape of y."""
    _, source = plan.activation(x)
    outputs, inputs = weight.shape[:2]
    filters = _transform_filters(plan, weight, np.kron(_G, _G))
    factor = plan.strided((16, inputs, outputs), (outputs * inputs, 1, inputs))
    y_shape = (x.shape[0], outputs, *x.shape[2:])
    vector = None if bias is None else plan.external(plan.dense((1, outputs, 1, 1)))
    y = plan.external(plan.channels_last(y_shape))
    _convolve(plan, source, plan.alias(filters, factor), factor, y, x.shape, outputs)
    if vector is not None:
        whole = plan.channels_last(y_shape)
        kind = plan.describe(
            "binary", BINARY_ADD, whole, plan.dense((1, outputs, 1, 1)), whole, plan.attributes()
        )
        plan.call(kind, {ARG_SRC: y, ARG_SRC_1: vector, ARG_DST: y})
    if activation == "relu":
        plan.relu(plan.channels_last(y_shape), y, y)
    return y_shape


def build_input_gradient(plan: Plan, grad_y: Array, weight: Array) -> None:
    """Fill `plan` for the arrays (grad_y, weight, grad_x)."""
    _, source = plan.activation(grad_y)
    outputs, inputs = weight.shape[:2]
    turned = _G[_TURNED]
    filters = _transform_filters(plan, weight, np.kron(turned, turned))
    factor = plan.dense((16, outputs, inputs))
    x_shape = (grad_y.shape[0], inputs, *grad_y.shape[2:])
    grad_x = plan.external(plan.channels_last(x_shape))
    _convolve(plan, source, plan.alias(filters, factor), factor, grad_x, grad_y.shape, inputs)


def build_weight_gradient(plan: Plan, x: Array, grad_y: Array, grad_weight: Array) -> None:
    """Fill `plan` for the arrays (x, grad_y, grad_weight)."""
    outputs, inputs = grad_weight.shape[:2]
    tiling = _Tiling(x.shape, inputs, outputs)
    source, gradient = plan.activation(x)[1], plan.activation(grad_y)[1]
    v_shape, d_shape = (16, tiling.tiles, inputs), (16, tiling.tiles, outputs)
    v, d = plan.internal(plan.dense(v_shape)), plan.internal(plan.dense(d_shape))
    sums = plan.dense((16, outputs, inputs))
    total = plan.internal(sums)
    transposed = plan.strided((16, outputs, tiling.tiles), (tiling.tiles * outputs, 1, outputs))
    left = plan.alias(d, transposed)
    transform_x = _InputTransform(plan, tiling, inputs, v)
    transform_grad = _GradientTransform(plan, tiling, outputs, d)
    kinds = [
        plan.describe("matmul", transposed, plan.dense(v_shape), None, sums, attributes)
        for attributes in (plan.attributes(), plan.attributes(("sum", 1.0)))
    ]
    pieces = zip(tiling.offsets(inputs), tiling.offsets(outputs), strict=True)
    for number, (x_offset, y_offset) in enumerate(pieces):
        transform_x.apply(source, x_offset)
        transform_grad.apply(gradient, y_offset)
        plan.call(kinds[min(number, 1)], {ARG_SRC: left, ARG_WEIGHTS: v, ARG_DST: total})
    # (O*C, 16) @ (16, 9) is the gradient in plain OIHW order.
    columns = plan.strided((outputs * inputs, 16), (1, outputs * inputs))
    result = plan.dense((outputs * inputs, 9))
    target, finish = plan.output(grad_weight, plan.dense(grad_weight.shape))
    back = plan.constant(np.kron(_G, _G))
    kind = plan.describe("matmul", columns, plan.dense((16, 9)), None, result, plan.attributes())
    arguments = {ARG_SRC: plan.alias(total, columns), ARG_WEIGHTS: back}
    plan.call(kind, {**arguments, ARG_DST: plan.alias(target, result)})
    finish()


def _transform_filters(plan: Plan, weight: Array, transform: Array) -> int:
    """Memory U (16, O*C) = transform (16, 9) @ weight (O*C, 9)'."""
    pairs = weight.shape[0] * weight.shape[1]
    if weight.flags.c_contiguous:
        given = plan.external(plan.dense(weight.shape))
    else:
        given = plan.input(weight, plan.dense(weight.shape))
    columns = plan.strided((9, pairs), (1, 9))
    result = plan.dense((16, pairs))
    u = plan.internal(result)
    kind = plan.describe("matmul", plan.dense((16, 9)), columns, None, result, plan.attributes())
    arguments = {ARG_SRC: plan.constant(transform), ARG_WEIGHTS: plan.alias(given, columns)}
    plan.call(kind, {**arguments, ARG_DST: u})
    return u


def _convolve(
    plan: Plan, source: int, filters: int, factor: int, target: int, x_shape: Dims, outputs: int
) -> None:
    """Append the pieces of V, M and Y from `source` (shape x_shape) into `target`."""
    inputs = x_shape[1]
    tiling = _Tiling(x_shape, inputs, outputs)
    tiles_in = plan.dense((16, tiling.tiles, inputs))
    tiles_out = plan.dense((16, tiling.tiles, outputs))
    v, m = plan.internal(tiles_in), plan.internal(tiles_out)
    product = plan.describe("matmul", tiles_in, factor, None, tiles_out, plan.attributes())
    transform = _InputTransform(plan, tiling, inputs, v)
    output = _OutputTransform(plan, tiling, outputs, m)
    pieces = zip(tiling.offsets(inputs), tiling.offsets(outputs), strict=True)
    for x_offset, y_offset in pieces:
        transform.apply(source, x_offset)
        plan.call(product, {ARG_SRC: v, ARG_WEIGHTS: filters, ARG_DST: m})
        output.apply(target, y_offset)


class _InputTransform:
    """V = (B' x B') d as 16 depthwise convolutions, from one piece of a batch."""

    def __init__(self, plan: Plan, tiling: _Tiling, channels: int, v: int) -> None:
        self.plan = plan
        self.given = plan.channels_last(tiling.samples(channels))
        tiled = plan.channels_last(tiling.tiled(channels))
        self.calls = []
        for k in range(16):
            (top, apart_h, rows), (left, apart_w, columns) = _B_ROWS[k // 4], _B_ROWS[k % 4]
            kind = _describe_depthwise(
                plan, self.given, tiled, channels, (apart_h, apart_w), (1 - top, 1 - left),
                (tiling.rows, tiling.columns), (tiling.h, tiling.w),
            )  # fmt: skip
            weights = _depthwise_weights(plan, kind, channels, np.outer(rows, columns))
            self.calls.append((kind, weights, _position(plan, v, tiled, k)))

    def apply(self, source: int, offset: int) -> None:
        """Append the transform of the piece at `offset` bytes in `source`."""
        piece = self.plan.part(source, self.given, offset)
        for kind, weights, target in self.calls:
            self.plan.call(kind, {ARG_SRC: piece, ARG_WEIGHTS: weights, ARG_DST: target})


class _GradientTransform(_InputTransform):
    """A dY A' as 16 depthwise convolutions, from one piece of a batch."""

    def __init__(self, plan: Plan, tiling: _Tiling, channels: int, d: int) -> None:
        self.plan = plan
        self.given = plan.channels_last(tiling.samples(channels))
        tiled = plan.channels_last(tiling.tiled(channels))
        kind = _describe_depthwise(
            plan, self.given, tiled, channels, (1, 1), (0, 0), (tiling.rows, tiling.columns),
            (tiling.h, tiling.w),
        )  # fmt: skip
        self.calls = []
        for k in range(16):
            weights = _depthwise_weights(plan, kind, channels, np.outer(_A[k // 4], _A[k % 4]))
            self.calls.append((kind, weights, _position(plan, d, tiled, k)))


class _OutputTransform:
    """Y = (A' x A') M, scattered into one piece of the result."""

    def __init__(self, plan: Plan, tiling: _Tiling, channels: int, m: int) -> None:
        self.plan, self.tiling, self.channels = plan, tiling, channels
        size = tiling.tiles * channels
        flat, planes = plan.dense((16, size)), plan.dense((4, size))
        self.planes = plan.internal(planes)
        kind = plan.describe("matmul", plan.dense((4, 16)), flat, None, planes, plan.attributes())
        transform = plan.constant(np.kron(_A, _A).T.copy())
        self.product = (kind, {ARG_SRC: transform, ARG_WEIGHTS: plan.alias(m, flat),
                               ARG_DST: self.planes})  # fmt: skip

    def apply(self, target: int, offset: int) -> None:
        """Append product and scatter into the piece at `offset` bytes in `target`."""
        plan, tiling, c = self.plan, self.tiling, self.channels
        plan.call(*self.product)
        given = channels_last_strides(tiling.tiled(c))
        whole = channels_last_strides(tiling.samples(c))
        strides = (whole[0], 1, 2 * whole[2], 2 * whole[3])
        for i, j in np.ndindex(2, 2):
            shape = (tiling.piece, c, tiling.rows, -(-(tiling.w - j) // 2))
            if not shape[3]:  # one column only
                continue
            plane, place = plan.strided(shape, given), plan.strided(shape, strides)
            source = plan.part(self.planes, plane, (2 * i + j) * tiling.tiles * c * 4)
            start = offset + (i * whole[2] + j * whole[3]) * 4
            plan.reorder(plane, source, place, plan.part(target, place, start))


def _describe_depthwise(
    plan: Plan,
    given: int,
    tiled: int,
    channels: int,
    apart: Dims,
    before: Dims,
    count: Dims,
    size: Dims,
) -> int:
    """Depthwise 2x2 convolution of stride 2 whose taps are `apart`, with `before` padding."""
    rows = zip(count, apart, size, before, strict=True)
    after = tuple(2 * (c - 1) + a + 1 - s - b for c, a, s, b in rows)
    windows = [dims(v) for v in ((2, 2), tuple(a - 1 for a in apart), before, after)]
    return plan.describe(
        "convolution_forward", _FORWARD_TRAINING, _DIRECT, given,
        plan.any((channels, 1, 1, 2, 2)), None, tiled, *windows, plan.attributes(),
        prefer=_DEPTHWISE_JIT,
    )  # fmt: skip


def _depthwise_weights(plan: Plan, kind: int, channels: int, taps: Array) -> int:
    """Constant memory of the same 2x2 `taps` for every channel, in the layout `kind` wants."""
    plain = np.broadcast_to(taps.astype(np.float32), (channels, 1, 1, 2, 2)).copy()
    return plan.packed_constant(plain, plan.query(kind, QUERY_WEIGHTS))


def _position(plan: Plan, memory: int, tiled: int, k: int) -> int:
    return plan.part(memory, tiled, k * plan.nbytes(tiled))
