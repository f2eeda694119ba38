"""Every kernel, run on the GPU of the tests, writes what its twin in NumPy writes.

The cases reach every branch: vectors of 16 bytes and single elements, warps and blocks per row,
strided axes, sizes that are multiples of nothing, and values that are not finite.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from allgrad.backend.cuda.kernels import KERNELS, blocks, launch
from allgrad.backend.cuda.kernels.twins import TWINS

TYPES = {
    "f4": np.dtype(np.float32),
    "f2": np.dtype(np.float16),
    "b2": np.dtype(ml_dtypes.bfloat16),
}
# Of the largest value: sums in another order, and one rounding of the type.
TOLERANCE = {"f4": 3e-6, "f2": 1e-3, "b2": 8e-3}
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, 65504.0, -3e38)
I32, I64, F32 = np.int32, np.int64, np.float32


class Case:
    """Arguments of one launch, made anew for every run.

    Arrays of type "T" have the kernel's element type; whatever is an array is compared after it.
    """

    def __init__(self, dtype):
        self.dtype = dtype
        self.rng = np.random.default_rng(7)

    def draw(self, *shape, special=False):
        x = self.rng.standard_normal(shape).astype(np.float32)
        if special:
            x.ravel()[: len(SPECIAL)] = SPECIAL[: x.size]
        with np.errstate(over="ignore"):
            return x.astype(self.dtype).ravel()

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32).ravel()

    def empty(self, size, dtype=None):
        return np.full(size, 99, dtype or self.dtype)


def elementwise(case, inputs, special=True):
    for n in (1, 7, 64, 1003):
        arrays = [case.draw(n, special=special) for _ in range(inputs)]
        arrays[-1][2::3] = 0  # where a ReLU has passed nothing
        yield (*arrays, case.empty(n), I64(n)), blocks(n, 1024), (256,)


def sum_columns(case):
    for rows, cols, chunk, block in (
        (37, 24, 10, (8, 32)),
        (9, 70, 9, (32, 8)),
        (1, 1, 1, (32, 8)),
    ):
        vector = cols % 8 == 0
        width = block[0] * (16 // case.dtype.itemsize if vector else 1)
        chunks = -(-rows // chunk)
        args = (case.draw(rows, cols), case.empty(chunks * cols, F32), I64(rows), I64(cols))
        yield (*args, I64(chunk), I32(vector)), (-(-cols // width), chunks), block


def finish_columns(case):
    for batch, chunks, cols in ((1, 11, 40), (3, 1, 33)):
        partial = case.floats(batch, chunks, cols)
        args = (partial, case.empty(batch * cols), I64(chunks), I64(cols))
        yield args, (-(-cols // 32), batch), (32, 8)


def sum_rows(case):
    for (rows, cols), threads in itertools.product(((5, 48), (11, 7)), (32, 256)):
        args = (case.draw(rows, cols), case.empty(rows, F32), I64(rows), I64(cols), I32(threads))
        yield args, blocks(rows * threads, 256), (256,)


# (outer, dim, inner), threads
AXES = (((9, 40, 1), 32), ((3, 333, 1), 32), ((2, 520, 1), 256), ((2, 7, 5), 32), ((1, 1, 3), 32))


def softmax(case, inputs):
    for ((outer, dim, inner), threads), log in itertools.product(AXES, (0, 1)):
        n = outer * dim * inner
        arrays = [case.draw(n) for _ in range(inputs)]
        if inputs == 1 and dim > 30:
            arrays[0][0:dim:2] = -np.inf
            if outer > 2:
                arrays[0][dim : dim + 3] = np.nan
                arrays[0][2 * dim + 5] = np.inf
        sizes = (I64(outer), I64(dim), I64(inner), I32(threads), I32(log))
        yield (*arrays, case.empty(n), *sizes), blocks(outer * inner * threads, 256), (256,)


def _targets(case, items, dim):
    target = case.rng.integers(0, dim, items)
    target[items // 2] = -100
    if items > 4:
        target[1] = dim + 3  # there is no such class
    return target


def _cross_entropy(case):
    """Shapes and settings, with targets and weights."""
    for ((outer, dim, inner), threads), smoothing in itertools.product(AXES, (0.0, 0.1)):
        items = outer * inner
        weight = np.abs(case.floats(dim)) if smoothing else None
        x, target = case.draw(items * dim), _targets(case, items, dim)
        tail = (I64(outer), I64(dim), I64(inner), I32(threads), I64(-100), F32(smoothing))
        yield x, target, weight, items, tail


def cross_entropy_forward(case):
    for x, target, weight, items, tail in _cross_entropy(case):
        losses = case.empty(items, F32) if weight is None else None
        args = (x, target, weight, case.empty(2 * items, F32), losses, np.zeros(2, F32), *tail)
        yield args, (1,), (256,)


def cross_entropy_finish(case):
    for mean in (0, 1):
        partial = np.abs(case.floats(700, 2))
        args = (partial, case.empty(1), case.empty(1, F32), I32(700), I32(mean))
        yield args, (1,), (256,)


def cross_entropy_backward(case):
    for x, target, weight, items, tail in _cross_entropy(case):
        stats, partial = np.zeros(2 * items, F32), np.zeros(2, F32)
        TWINS["cross_entropy_forward"](x, target, weight, stats, None, partial, *tail)
        per_row = int(weight is None)
        grad_y = case.draw(items if per_row else 1)
        total = np.array([2.5], F32)
        args = (x, target, weight, stats, total, grad_y, case.empty(x.size), *tail, I32(per_row))
        yield args, blocks(x.size, 256), (256,)


# (in, channels), (kernel, stride, padding, dilation)
POOLS = (
    ((1, 6, 6, 16), ((1, 2, 2), (1, 2, 2), (0, 0, 0), (1, 1, 1))),
    ((1, 7, 9, 5), ((1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1))),
    ((4, 5, 6, 3), ((2, 3, 2), (2, 1, 3), (1, 1, 0), (1, 2, 1))),
    ((1, 1, 11, 8), ((1, 1, 3), (1, 1, 1), (0, 0, 1), (1, 1, 3))),
)


def _pools(case, dilated):
    for (*inside, channels), window in POOLS:
        if max(window[3]) > 1 and not dilated:
            window = (*window[:3], (1, 1, 1))
        out = [
            (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(inside, *window, strict=True)
        ]
        vector = I32(channels % 8 == 0)
        geometry = [I32(v) for group in (inside, out, *window) for v in group]
        sizes = [2 * int(np.prod(size)) * channels for size in (inside, out)]
        width = 16 // case.dtype.itemsize if vector else 1
        items = [I64(size // width) for size in sizes]
        yield sizes, items, channels, vector, geometry


def max_pool_forward(case, winner=np.uint8):
    for sizes, items, channels, vector, geometry in _pools(case, True):
        x = np.maximum(case.draw(sizes[0]), 0)  # with ties
        x[5:9] = np.nan, -np.inf, np.nan, np.inf
        args = (x, case.empty(sizes[1]), case.empty(sizes[1], winner))
        yield _max_pool(args, sizes[1], items[1], channels, vector, geometry)


def _max_pool(arrays, size, items, channels, vector, geometry):
    if arrays[1].dtype == np.int32 or arrays[2].dtype == np.int32:  # one channel per thread
        args = (*arrays, I64(size), I32(channels), *geometry)
        return args, blocks(size, 256), (256,)
    args = (*arrays, items, I32(channels), vector, *geometry)
    return args, blocks(int(items), 256), (256,)


def max_pool_backward(case, winner=np.uint8):
    for sizes, items, channels, vector, geometry in _pools(case, True):
        taps = int(np.prod(geometry[6:9]))
        winners = case.rng.integers(0, taps, sizes[1]).astype(winner)
        args = (case.draw(sizes[1]), winners, case.empty(sizes[0]))
        yield _max_pool(args, sizes[0], items[0], channels, vector, geometry)


def avg_pool(case, backward):
    for (sizes, items, channels, vector, geometry), pad in itertools.product(
        _pools(case, False), (0, 1)
    ):
        source, to = (1, 0) if backward else (0, 1)
        args = (case.draw(sizes[source]), case.empty(sizes[to]), items[to], I32(channels))
        yield (*args, vector, I32(pad), *geometry), blocks(int(items[to]), 256), (256,)


def mean_pool_forward(case):
    for n, positions, channels, block in ((3, 37, 16, (2, 128)), (2, 5, 70, (32, 8))):
        vector = channels % 8 == 0
        width = block[0] * (16 // case.dtype.itemsize if vector else 1)
        args = (case.draw(n, positions, channels), case.empty(n * channels), I64(positions))
        yield (*args, I64(channels), I32(vector)), (-(-channels // width), n), block


ROWS = (((5, 48), 32), ((9, 35), 32), ((2, 600), 256), ((3, 1), 32))


def _affine(case, cols, given):
    return (case.floats(cols), case.floats(cols)) if given else (None, None)


def layer_norm_forward(case):
    for ((rows, cols), threads), given in itertools.product(ROWS, (True, False)):
        x, (weight, bias) = case.draw(rows, cols), _affine(case, cols, given)
        mean = case.empty(rows, F32) if rows != 9 else None  # without: RMS normalisation
        outs = (case.empty(rows * cols), mean, case.empty(rows, F32))
        tail = (I64(rows), I64(cols), F32(1e-5), I32(threads))
        yield (x, weight, bias, *outs, *tail), blocks(rows * threads, 256), (256,)


def layer_norm_backward(case):
    for ((rows, cols), threads), given in itertools.product(ROWS, (True, False)):
        grads, x = case.draw(rows, cols), case.draw(rows, cols)
        mean, rstd = case.floats(rows) if rows != 9 else None, np.abs(case.floats(rows))
        weight, _ = _affine(case, cols, given)
        args = (grads, x, weight, mean, rstd, case.empty(rows * cols), I64(rows), I64(cols))
        yield (*args, I32(threads)), blocks(rows * threads, 256), (256,)


def layer_norm_weights(case):
    for x, partial, rows, cols, chunk, vector, grid, block in (
        (*args[:2], *args[2:], grid, block) for args, grid, block in sum_columns(case)
    ):
        mean, rstd = case.floats(rows) if rows != 9 else None, np.abs(case.floats(rows))
        both = case.empty(2 * partial.size, F32)
        yield (case.draw(x.size), x, mean, rstd, both, rows, cols, chunk, vector), grid, block


# N, groups, channels of a group, positions, threads
GROUPS = ((2, 2, 4, 40, 32), (1, 3, 5, 7, 256), (3, 1, 2, 1, 32))


def _grouped(case, given=(True, False)):
    for (n, groups, channels, inner, threads), with_weight in itertools.product(GROUPS, given):
        weight, bias = _affine(case, groups * channels, with_weight)
        mean, rstd = case.floats(n * groups), np.abs(case.floats(n * groups))
        yield n, groups, channels, inner, threads, weight, bias, mean, rstd


def group_norm_forward(case):
    for n, groups, channels, inner, threads, weight, bias, mean, rstd in _grouped(case):
        size, rows = n * groups * channels * inner, n * groups
        args = (case.draw(size), weight, bias, case.empty(size), mean, rstd, I64(rows))
        tail = (I32(groups), I32(channels), I32(inner), F32(1e-5), I32(threads))
        yield (*args, *tail), blocks(rows * threads, 256), (256,)


def group_norm_sums(case):
    for n, groups, channels, inner, threads, _, _, mean, rstd in _grouped(case, (True,)):
        planes = n * groups * channels
        grads, x, sums = (
            case.draw(planes, inner),
            case.draw(planes, inner),
            case.empty(2 * planes, F32),
        )
        tail = (I64(planes), I32(groups), I32(channels), I32(inner), I32(threads))
        yield (grads, x, mean, rstd, sums, *tail), blocks(planes * threads, 256), (256,)


def group_norm_backward(case):
    for n, groups, channels, inner, threads, weight, _, mean, rstd in _grouped(case):
        size, rows = n * groups * channels * inner, n * groups
        args = (case.draw(size), case.draw(size), weight, mean, rstd)
        args = (*args, case.floats(2 * rows * channels), case.empty(size), I64(rows))
        tail = (I32(groups), I32(channels), I32(inner), I32(threads))
        yield (*args, *tail), blocks(rows * threads, 256), (256,)


# N, groups, channels of a group, positions, chunk, block
LAST = ((2, 2, 8, 21, 8, (2, 16)), (1, 3, 5, 7, 7, (16, 16)), (3, 4, 2, 9, 2, (32, 8)))


def _last(case, given=(True, False)):
    for (n, groups, channels, inner, chunk, block), with_weight in itertools.product(LAST, given):
        every = groups * channels
        vector = every % 8 == 0
        width = block[0] * (16 // case.dtype.itemsize if vector else 1)
        grid = (-(-every // width), -(-inner // chunk), n)
        weight, bias = _affine(case, every, with_weight)
        mean, rstd = case.floats(n * groups), np.abs(case.floats(n * groups))
        sizes = (I64(inner), I64(chunk), I32(groups), I32(channels), I32(vector))
        yield n * inner * every, sizes, weight, bias, mean, rstd, grid, block


def group_norm_last_moments(case):
    for size, (inner, chunk, groups, channels, vector), *_, grid, block in _last(case, (True,)):
        every = groups * channels
        partial = case.empty(grid[2] * grid[1] * 2 * every, F32)
        yield (case.draw(size), partial, inner, chunk, I32(every), vector), grid, block


def group_norm_last_statistics(case):
    for _, (inner, chunk, groups, channels, _), *_, grid, _ in _last(case, (True,)):
        rows, chunks = grid[2] * groups, grid[1]
        partial = np.abs(case.floats(rows * channels * chunks * 2))
        args = (partial, case.empty(rows, F32), case.empty(rows, F32), I64(rows), groups, channels)
        yield (*args, inner, chunk, I32(chunks), F32(1e-5)), blocks(rows * 32, 256), (256,)


def group_norm_last_forward(case):
    for size, sizes, weight, bias, mean, rstd, grid, block in _last(case):
        args = (case.draw(size), weight, bias, mean, rstd, case.empty(size), *sizes)
        yield args, grid, block


def group_norm_last_sums(case):
    for size, sizes, _, _, mean, rstd, grid, block in _last(case, (True,)):
        partial = case.empty(grid[2] * grid[1] * 2 * int(sizes[2] * sizes[3]), F32)
        yield (case.draw(size), case.draw(size), mean, rstd, partial, *sizes), grid, block


def group_norm_last_means(case):
    for _, (inner, _, groups, channels, _), weight, *_, grid, _ in _last(case):
        rows = grid[2] * groups
        args = (case.floats(2 * rows * channels), weight, case.empty(2 * rows, F32))
        yield (*args, I64(rows), groups, channels, inner), blocks(rows * 32, 256), (256,)


def group_norm_last_backward(case):
    for size, sizes, weight, _, mean, rstd, grid, block in _last(case):
        means = case.floats(2 * mean.size)
        grads, x = case.draw(size), case.draw(size)
        yield (grads, x, weight, mean, rstd, means, case.empty(size), *sizes), grid, block


ONE_INPUT = ("relu_forward", "sigmoid_forward", "tanh_forward", "silu_forward", "gelu_forward")
CASES = {
    **{n: lambda c: elementwise(c, 1) for n in (*ONE_INPUT, "gelu_tanh_forward")},
    **{
        n: lambda c: elementwise(c, 2, special=False)
        for n in KERNELS
        if KERNELS[n].file == "elementwise.cu" and KERNELS[n].reads == 2
    },
    "softmax_forward": lambda c: softmax(c, 1),
    "softmax_backward": lambda c: softmax(c, 2),
    "max_pool_large_forward": lambda c: max_pool_forward(c, np.int32),
    "max_pool_large_backward": lambda c: max_pool_backward(c, np.int32),
    "avg_pool_forward": lambda c: avg_pool(c, False),
    "avg_pool_backward": lambda c: avg_pool(c, True),
}
CASES |= {n: globals()[n] for n in KERNELS if n not in CASES and n in globals()}


def on_device(gpu, value):
    if isinstance(value, np.ndarray):
        return gpu.asarray(value)
    return np.uint64(0) if value is None else value


def compare(got, want, tolerance):
    assert got.dtype == want.dtype
    if want.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want)
        return
    got, want = got.astype(np.float32), want.astype(np.float32)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    scale = max(1.0, float(np.abs(want[finite & (np.abs(want) < 1e4)]).max(initial=0)))
    np.testing.assert_allclose(got[finite], want[finite], rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, t) for n in CASES for t in KERNELS[n].types or ("f4",)]
)
def test_kernel_does_what_its_twin_does(gpu, name, kind):
    dtype = TYPES[kind] if KERNELS[name].types else None
    runs = 0
    for args, grid, block in CASES[name](Case(TYPES[kind])):
        arrays = [on_device(gpu, a) for a in args]
        launch(name, dtype, grid, block, tuple(arrays))
        want = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        with np.errstate(all="ignore"):
            TWINS[name](*want)
        for device, host in zip(arrays, want, strict=True):
            if isinstance(host, np.ndarray):
                compare(gpu.asnumpy(device), host, TOLERANCE[kind])
        runs += 1
    assert runs


@pytest.mark.parametrize("kind", ["f2", "b2"])
def test_halves_are_widened_and_rounded_as_numpy_does(gpu, kind):
    every = np.arange(1 << 16, dtype=np.uint16).view(TYPES[kind])  # NaNs, infinities, subnormals
    exact = every.astype(F32)
    subnormal = (np.abs(exact) < np.finfo(F32).tiny) & (exact != 0)  # floats that are zeros there
    every, exact = every[~subnormal], exact[~subnormal]
    out = gpu.empty(every.size, F32)
    args = (gpu.asarray(every), out, I64(every.size), I64(1), I32(32))
    launch("sum_rows", TYPES[kind], blocks(32 * every.size, 256), (256,), args)
    np.testing.assert_array_equal(gpu.asnumpy(out), exact)

    line = np.sort(exact[np.isfinite(exact)])
    halfway = line[1:] / 2 + line[:-1] / 2
    floats = np.concatenate([exact, halfway, line * F32(1.0003), F32([65519.996, 65520, 3e38])])
    floats = floats[~(np.abs(floats) < np.finfo(F32).tiny)]
    out = gpu.empty(floats.size, TYPES[kind])
    args = (gpu.asarray(floats), out, I64(1), I64(floats.size))
    launch("finish_columns", TYPES[kind], (-(-floats.size // 32),), (32, 8), args)
    with np.errstate(over="ignore", invalid="ignore"):
        want = floats.astype(TYPES[kind]).astype(F32)
    np.testing.assert_array_equal(gpu.asnumpy(out).astype(F32), want)


def test_every_kernel_of_these_files_is_run():
    files = {KERNELS[name].file for name in CASES}
    assert {name for name, kernel in KERNELS.items() if kernel.file in files} == set(CASES)
