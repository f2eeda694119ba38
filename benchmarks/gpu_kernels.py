"""What share of a GPU's memory bandwidth our own kernels reach, one row per kernel of the backend.

    python benchmarks/gpu_kernels.py                      # float16, activations of 64 MB
    python benchmarks/gpu_kernels.py --dtype float32 --mib 256

All of these kernels are bound by memory: the table of kernels says what each must move, and a plain
copy of the same size, timed in the same run, is what there is to reach. Medians over rounds and
their range; a round is 20 calls between two events on an otherwise idle stream, so a call that
takes less than its launch (about 10 us) shows the launch. Needs a GPU and `pip install
'allgrad[gpu]'`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import allgrad as ag
from allgrad import backend, dtypes
from allgrad.backend.cuda import availability
from allgrad.backend.cuda.kernels import KERNELS

_CALLS = 20
_CLASSES = 1000


class Row(NamedTuple):
    """One call of the backend.

    Attributes:
        name: what is timed.
        moved: bytes that it must read and write.
        call: does it.
    """

    name: str
    moved: float
    call: Callable[[], Any]


def _moved(x: Any, *names: str) -> float:
    """Bytes of kernels of the table on arrays as large as x."""
    return sum(x.size * KERNELS[name].bytes_per_element(x.itemsize) for name in names)


def rows(dtype: np.dtype[Any], elements: int) -> Iterator[Row]:
    """All calls, on arrays of about `elements`."""
    x = _activations(dtype, elements)
    kernels: Any = backend.of(x)
    for name, settings in {"relu": (), "sigmoid": (), "silu": (), "gelu": ("none",)}.items():
        forward, backward = f"{name}_forward", f"{name}_backward"
        yield Row(forward, _moved(x, forward), _call(kernels, forward, x, *settings))
        yield Row(backward, _moved(x, backward), _call(kernels, backward, x, x, *settings))
    both = "add_relu_forward"
    yield Row(both, _moved(x, both), _call(kernels, both, x, x))
    yield Row("sum_to_channels", _moved(x, "sum_columns"), _call(kernels, "sum_to_channels", x))
    yield from _pools(kernels, x)
    yield from _normalisations(kernels, x)
    yield from _classifiers(kernels, _like(x, (x.size // _CLASSES, _CLASSES)))


def _pools(kernels: Any, x: Any) -> Iterator[Row]:
    settings = ((3, 3), (2, 2), (1, 1), (1, 1))
    y, saved = kernels.max_pool_forward(x, *settings, False)
    both = x.nbytes + y.nbytes + y.size  # a byte for each winner
    forward = _call(kernels, "max_pool_forward", x, *settings, False)
    yield Row("max_pool_forward 3x3/2", both, forward)
    backward = _call(kernels, "max_pool_backward", y, saved, x.shape, *settings)
    yield Row("max_pool_backward 3x3/2", both, backward)
    whole = _call(kernels, "avg_pool_forward", x, x.shape[2:], x.shape[2:], (0, 0), False, True)
    yield Row("avg_pool_forward whole", _moved(x, "mean_pool_forward"), whole)


def _normalisations(kernels: Any, x: Any) -> Iterator[Row]:
    matrix = _like(x, (x.size // 1024, 1024))
    weight = backend.of(x).xp.ones(1024, np.float32)
    settings = (1, weight, weight, 1e-5)
    y, mean, rstd = kernels.layer_norm_forward(matrix, *settings)
    forward = _call(kernels, "layer_norm_forward", matrix, *settings)
    yield Row("layer_norm_forward 1024", _moved(x, "layer_norm_forward"), forward)
    backward = _call(kernels, "layer_norm_backward", y, matrix, 1, weight, mean, rstd)
    moved = _moved(x, "layer_norm_backward", "layer_norm_weights")
    yield Row("layer_norm_backward 1024", moved, backward)
    scale = weight[: x.shape[1]]
    _, mean, rstd = kernels.group_norm_forward(x, 8, scale, scale, 1e-5)
    forward = _call(kernels, "group_norm_forward", x, 8, scale, scale, 1e-5)
    moved = _moved(x, "group_norm_last_moments", "group_norm_last_forward")
    yield Row("group_norm_forward", moved, forward)
    backward = _call(kernels, "group_norm_backward", x, x, 8, scale, mean, rstd)
    moved = _moved(x, "group_norm_last_sums", "group_norm_last_backward")
    yield Row("group_norm_backward", moved, backward)


def _classifiers(kernels: Any, x: Any) -> Iterator[Row]:
    for name in ("softmax", "log_softmax"):
        moved = _moved(x, "softmax_forward")
        yield Row(f"{name}_forward 1000", moved, _call(kernels, f"{name}_forward", x, 1))
        moved = _moved(x, "softmax_backward")
        yield Row(f"{name}_backward 1000", moved, _call(kernels, f"{name}_backward", x, x, 1))
    target = backend.of(x).xp.zeros(len(x), np.int64)
    settings = ("mean", -100, 0.1)
    loss, saved = kernels.cross_entropy_forward(x, target, None, *settings)
    forward = _call(kernels, "cross_entropy_forward", x, target, None, *settings)
    yield Row("cross_entropy_forward 1000", _moved(x, "cross_entropy_forward"), forward)
    backward = _call(kernels, "cross_entropy_backward", loss, saved, *settings)
    yield Row("cross_entropy_backward 1000", _moved(x, "cross_entropy_backward"), backward)


def _call(kernels: Any, name: str, *arguments: Any) -> Callable[[], Any]:
    method = getattr(kernels, name)
    return lambda: method(*arguments)


def _activations(dtype: np.dtype[Any], elements: int) -> Any:
    """Channels-last (N, 64, 16, 16) on the GPU."""
    n = max(elements // (64 * 16 * 16), 1)
    x = ag.randn(n, 16, 16, 64, device="cuda").permute(0, 3, 1, 2)
    return x._array.astype(dtype)


def _like(x: Any, shape: tuple[int, int]) -> Any:
    return x.transpose(0, 2, 3, 1).reshape(-1)[: shape[0] * shape[1]].reshape(shape)


def times_s(call: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds per call in each round."""
    import cupy

    for _ in range(3):
        call()
    taken = []
    for _ in range(rounds):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(_CALLS):
            call()
        end.record()
        end.synchronize()
        taken.append(cupy.cuda.get_elapsed_time(start, end) / 1000 / _CALLS)
    return taken


def table(dtype: np.dtype[Any], elements: int, rounds: int) -> str:
    """The figures as Markdown."""
    x = _activations(dtype, elements)
    copy = statistics.median(2 * x.nbytes / t for t in times_s(x.copy, rounds))
    head = f"{dtype}, {x.nbytes / 2**20:.0f} MiB; copy {copy / 1e9:.0f} GB/s"
    lines = [
        f"| {head} | us | GB/s | of copy |",
        "|---|---|---|---|",
    ]
    for row in rows(dtype, elements):
        each = times_s(row.call, rounds)
        middle = statistics.median(each)
        spread = f"{min(each) * 1e6:.1f}-{max(each) * 1e6:.1f}"
        lines.append(
            f"| {row.name} | {middle * 1e6:.1f} ({spread}) | {row.moved / middle / 1e9:.0f} "
            f"| {row.moved / middle / copy:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--mib", type=float, default=64, help="size of an array")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    reason = availability.why_not()
    if reason is not None:
        sys.exit(f"gpu_kernels: {reason}")
    dtype = dtypes.to_numpy(options.dtype)
    print(table(dtype, int(options.mib * 2**20) // dtype.itemsize, options.rounds))


if __name__ == "__main__":
    main()
