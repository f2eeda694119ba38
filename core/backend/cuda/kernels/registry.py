"""The table of our kernels: which file has them, for which types, what they move and do.

A kernel named ``relu_forward`` for float16 is the C function ``relu_forward_f2``. Imports: NumPy.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FLOATS = ("f4", "f2", "b2")

_HOME = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Attributes:
        name: without the type's suffix.
        file: of the folder beside this module.
        types: suffixes of the element types there are: NumPy's "f4", "f2", ..., "b2" for bfloat16;
            one kernel without a suffix if empty.
        threads: the largest block, to which its registers are bounded.
        about: what it computes.
        reads, writes: elements that must be read from and written to memory, per element; of
            pooling per element of the input and of the output.
        extra_bytes: bytes of other types besides, per element.
    """

    name: str
    file: str
    types: tuple[str, ...]
    threads: int
    about: str
    reads: float = 1
    writes: float = 1
    extra_bytes: float = 0

    def bytes_per_element(self, itemsize: int) -> float:
        """Bytes that a call must move per element of its largest array, of `itemsize` bytes.

        The bytes of all elements, divided by the time of a call, is the bandwidth reached.

        >>> KERNELS["relu_backward"].bytes_per_element(2)
        6
        """
        return (self.reads + self.writes) * itemsize + self.extra_bytes

    def symbols(self) -> tuple[str, ...]:
        """Names of its C functions.

        >>> KERNELS["relu_forward"].symbols()
        ('relu_forward_f4', 'relu_forward_f2', 'relu_forward_b2')
        """
        return tuple(f"{self.name}_{t}" for t in self.types) or (self.name,)


def _elementwise(name: str, about: str, reads: int) -> Kernel:
    return Kernel(name, "elementwise.cu", FLOATS, 256, about, reads=reads)


def _step(name: str, file: str, about: str, reads: int, writes: int) -> Kernel:
    return Kernel(f"{name}_step", f"optim_{file}.cu", FLOATS, 256, about, reads, writes)


# Row by row: what it reads and writes once; a second read that the caches serve is not counted.
_TABLE = (
    _elementwise("relu_forward", "max(x, 0)", 1),
    _elementwise("relu_backward", "grad_y where y > 0, else 0", 2),
    _elementwise("add_relu_forward", "max(a + b, 0)", 2),
    _elementwise("sigmoid_forward", "1 / (1 + e**-x)", 1),
    _elementwise("sigmoid_backward", "grad_y * y * (1 - y)", 2),
    _elementwise("tanh_forward", "tanh(x)", 1),
    _elementwise("tanh_backward", "grad_y * (1 - y**2)", 2),
    _elementwise("silu_forward", "x / (1 + e**-x)", 1),
    _elementwise("silu_backward", "gradient of SiLU from x", 2),
    _elementwise("gelu_forward", "x * Phi(x)", 1),
    _elementwise("gelu_backward", "gradient of GELU from x", 2),
    _elementwise("gelu_tanh_forward", "GELU by its tanh approximation", 1),
    _elementwise("gelu_tanh_backward", "gradient of that from x", 2),
    Kernel("sum_columns", "sums.cu", FLOATS, 256, "sums of columns per chunk of rows", writes=0),
    Kernel("finish_columns", "sums.cu", FLOATS, 256, "sums of those", 0, 0, extra_bytes=4),
    Kernel("sum_rows", "sums.cu", FLOATS, 256, "sum of each row", writes=0),
    Kernel("softmax_forward", "softmax.cu", FLOATS, 256, "softmax or its log along one axis"),
    Kernel("softmax_backward", "softmax.cu", FLOATS, 256, "their gradients from y", reads=2),
    Kernel(
        "cross_entropy_forward", "cross_entropy.cu", FLOATS, 256,
        "losses of logits, and their sums per block", writes=0,
    ),
    Kernel(
        "cross_entropy_finish", "cross_entropy.cu", FLOATS, 256, "the loss from those sums", 0, 0,
        extra_bytes=8,
    ),
    Kernel("cross_entropy_backward", "cross_entropy.cu", FLOATS, 256, "gradient of the logits"),
    Kernel(
        "max_pool_forward", "pool.cu", FLOATS, 256, "maximum of windows, winners in a byte",
        extra_bytes=1,
    ),
    Kernel(
        "max_pool_backward", "pool.cu", FLOATS, 256, "gradient to the winners", extra_bytes=1
    ),
    Kernel(
        "max_pool_large_forward", "pool.cu", FLOATS, 256, "windows of more than 256 elements",
        extra_bytes=4,
    ),
    Kernel(
        "max_pool_large_backward", "pool.cu", FLOATS, 256, "gradient to their winners",
        extra_bytes=4,
    ),
    Kernel("avg_pool_forward", "pool.cu", FLOATS, 256, "mean of windows"),
    Kernel("avg_pool_backward", "pool.cu", FLOATS, 256, "gradient spread over windows"),
    Kernel("mean_pool_forward", "pool.cu", FLOATS, 256, "mean of whole planes", writes=0),
    Kernel("layer_norm_forward", "layer_norm.cu", FLOATS, 256, "rows to mean 0, variance 1; RMS"),
    Kernel("layer_norm_backward", "layer_norm.cu", FLOATS, 256, "gradient of x", reads=2),
    Kernel(
        "layer_norm_weights", "layer_norm.cu", FLOATS, 256,
        "gradients of weight and bias per chunk of rows", reads=2, writes=0,
    ),
    Kernel("group_norm_forward", "group_norm.cu", FLOATS, 256, "groups of plain (N, C, S)"),
    Kernel(
        "group_norm_sums", "group_norm.cu", FLOATS, 256, "sums of the gradient per plane",
        reads=2, writes=0,
    ),
    Kernel("group_norm_backward", "group_norm.cu", FLOATS, 256, "gradient of x", reads=2),
    Kernel(
        "group_norm_last_moments", "group_norm_last.cu", FLOATS, 256,
        "mean and squares per channel of (N, S, C)", writes=0,
    ),
    Kernel(
        "group_norm_last_statistics", "group_norm_last.cu", (), 256, "those of groups", 0, 0,
        extra_bytes=8,
    ),
    Kernel("group_norm_last_forward", "group_norm_last.cu", FLOATS, 256, "normalise"),
    Kernel(
        "group_norm_last_sums", "group_norm_last.cu", FLOATS, 256,
        "sums of the gradient per channel", reads=2, writes=0,
    ),
    Kernel(
        "group_norm_last_means", "group_norm_last.cu", (), 256, "means of those over groups", 0, 0,
        extra_bytes=8,
    ),
    Kernel("group_norm_last_backward", "group_norm_last.cu", FLOATS, 256, "gradient of x", 2),
    Kernel("random_set", "random.cu", (), 32, "seed and count of steps", 0, 0, extra_bytes=16),
    Kernel("random_begin", "random.cu", (), 32, "one more step", 0, 0, extra_bytes=16),
    Kernel("random_words", "random.cu", (), 256, "Philox of given counters", 0, 0, 8),
    Kernel("random_bits", "random.cu", (), 256, "random uint32", 0, 0, extra_bytes=4),
    Kernel("random_integers", "random.cu", (), 256, "whole numbers", 0, 0, extra_bytes=8),
    Kernel("random_uniform", "random.cu", FLOATS, 256, "numbers in [0, 1)", reads=0),
    Kernel("random_normal", "random.cu", FLOATS, 256, "normally distributed", reads=0),
    Kernel("embedding_rows", "embedding.cu", (), 256, "rows by index", 0, 0, extra_bytes=2),
    Kernel("embedding_links", "embedding.cu", (), 256, "equal indices", 0, 0, extra_bytes=17),
    Kernel("embedding_links_sorted", "embedding.cu", (), 256, "from a sort", 0, 0, 25),
    Kernel("embedding_sums", "embedding.cu", FLOATS, 128, "rows of equal index added up"),
    Kernel("grads_unscale", "grads.cu", FLOATS, 256, "finite? and divided by the loss scale"),
    Kernel("grads_squares", "grads.cu", FLOATS, 256, "sums of squares per chunk", writes=0),
    Kernel("grads_clip", "grads.cu", FLOATS, 256, "times a number that is below 1"),
    Kernel("grads_norm", "grads.cu", (), 256, "norm of all, and that number", 0, 0, 8),
    Kernel("scale_update", "grads.cu", (), 32, "the next loss scale", 0, 0, extra_bytes=16),
    Kernel("optim_hyper", "optim.cu", (), 32, "settings of a group", 0, 0, extra_bytes=80),
    Kernel("optim_prepare", "optim.cu", (), 128, "numbers of each tensor", 0, 0, 64),
    Kernel("optim_ratio", "optim.cu", (), 128, "rates from norms", 0, 0, extra_bytes=64),
    _step("sgd", "sgd", "SGD, with momentum", 3, 2),
    _step("adam", "adam", "Adam and AdamW", 4, 3),
    _step("rmsprop", "adam", "RMSprop", 3, 2),
    _step("adagrad", "adam", "Adagrad", 3, 2),
    _step("lars", "norms", "LARS, rates known", 3, 2),
    _step("lamb", "norms", "LAMB, averages and rates known", 4, 1),
    _step("average", "sgd", "running averages of parameters", 2, 1),
    Kernel("lars_norms", "optim_norms.cu", FLOATS, 256, "squares of p and g per chunk", 2, 0),
    Kernel("lamb_norms", "optim_norms.cu", FLOATS, 256, "averages; squares of p and update", 4, 2),
    Kernel("dropout", "dropout.cu", FLOATS, 256, "zeros at random, and the gradient"),
    Kernel("augment_set", "augment.cu", (), 32, "seed, epoch, place", 0, 0, extra_bytes=32),
    Kernel("augment_advance", "augment.cu", (), 32, "position raised", 0, 0, extra_bytes=16),
    Kernel(
        "augment", "augment.cu", FLOATS, 256, "bytes cropped, mirrored and normalised", reads=0,
        extra_bytes=1,
    ),
    Kernel("batch_norm_inference", "batch_norm.cu", FLOATS, 256, "channels-last x normalised"),
    Kernel("add_bias", "batch_norm.cu", FLOATS, 256, "rows plus a bias, then ReLU if asked"),
    Kernel("batch_norm_variance", "batch_norm.cu", (), 256, "from 1/std", 0, 0, extra_bytes=8),
    Kernel(
        "batch_norm_running", "batch_norm.cu", (), 256, "running statistics moved", 0, 0,
        extra_bytes=24,
    ),
)  # fmt: skip

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _TABLE}
FILES: tuple[str, ...] = tuple(dict.fromkeys(kernel.file for kernel in _TABLE))


def suffix(dtype: np.dtype[Any]) -> str:
    """The suffix of a kernel for `dtype`.

    >>> suffix(np.dtype(np.float16)), suffix(np.dtype(np.uint8))
    ('f2', 'u1')
    """
    return "b2" if dtype.kind == "V" else f"{dtype.kind}{dtype.itemsize}"


def options(dtype: np.dtype[Any] | None) -> tuple[str, ...]:
    """What the compiler is told beside CuPy's own --std=c++17 and -ftz=true.

    Only kernels of one element type are compiled at a time, as a program mostly uses one or two;
    ``-ftz=true`` makes zeros of subnormal floats, not of subnormal halves.

    >>> options(np.dtype(np.float16))
    ('-DTYPES=2',)
    """
    if dtype is None:
        return ("-DTYPES=0",)
    wanted = {"f4": 1, "f2": 2, "b2": 4}.get(suffix(dtype), 7)
    return (f"-DTYPES={wanted}",)


@functools.cache
def source(file: str) -> str:
    """What is compiled for `file`: `common.cuh`, then the file with the parts that it includes.

    Every part keeps its name and line numbers in the compiler's messages.
    """
    return _part("common.cuh") + _part(file)


def _part(file: str) -> str:
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate((_HOME / file).read_text().splitlines(), 1):
        included = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        lines += [f'{_part(included[1])}#line {number + 1} "{file}"'] if included else [line]
    return "\n".join(lines) + "\n"
