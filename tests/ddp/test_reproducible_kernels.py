"""Reproducible mode rests on kernels whose bits do not depend on where their arrays lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import allgrad as ag
from allgrad import Tensor, nn
from allgrad.backend.threads import pin_threads
from allgrad.nn import functional as F

OFFSETS = (0, 4, 16, 20, 32, 60)  # bytes beyond a cache line


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def function(f: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Function(f)


LABELS = ag.tensor(np.arange(57) % 10)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(37, 19), (13, 37)),
    "linear, small": (lambda: nn.Linear(3, 2), (2, 3)),
    "linear, large": (lambda: nn.Linear(513, 255), (64, 513)),
    "linear, one output": (lambda: nn.Linear(513, 1), (64, 513)),
    "linear, one sample": (lambda: nn.Linear(513, 77), (1, 513)),
    "convolution": (lambda: nn.Conv2d(3, 10, 3, padding=1), (5, 3, 11, 11)),
    "convolution, wide": (lambda: nn.Conv2d(64, 64, 3, padding=1), (4, 64, 16, 16)),
    "convolution, stride": (lambda: nn.Conv2d(16, 32, 3, 2, 1), (4, 16, 17, 17)),
    "convolution, depthwise": (lambda: nn.Conv2d(16, 16, 3, groups=16), (4, 16, 9, 9)),
    "convolution, transposed": (lambda: nn.ConvTranspose2d(8, 4, 3, 2), (4, 8, 7, 7)),
    "batch norm": (lambda: nn.BatchNorm2d(7), (5, 7, 9, 9)),
    "batch norm of rows": (lambda: nn.BatchNorm1d(33), (50, 33)),
    "block": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)
        ),
        (5, 3, 11, 11),
    ),
    "layer norm": (lambda: nn.LayerNorm(65), (50, 65)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (5, 6, 9, 9)),
    "lstm": (lambda: nn.LSTM(13, 21), (7, 5, 13)),
    "gru": (lambda: nn.GRU(13, 21), (7, 5, 13)),
    "attention": (lambda: nn.TransformerEncoderLayer(16, 4, 31, batch_first=True), (3, 11, 16)),
    "sums": (function(lambda x: x.sum(0) + x.sum() + x.mean(1)[0]), (57, 333)),
    "variance": (function(lambda x: x.var(1)), (57, 333)),
    "dot": (function(lambda x: x[0].dot(x[1])), (2, 3331)),
    "matrix, vector": (function(lambda x: x @ ag.ones(333)), (57, 333)),
    "batch of matrices": (function(lambda x: x @ x.transpose(1, 2)), (5, 6, 9)),
    "cross entropy": (function(lambda x: F.cross_entropy(x, LABELS)), (57, 10)),
    "softmax": (function(lambda x: F.softmax(x, -1)), (57, 33)),
    "elementwise": (function(lambda x: (x.exp() + 1).log() * x.sin() + F.gelu(x)), (57, 33)),
    "pooling": (function(lambda x: F.avg_pool2d(x, 2).mean((2, 3))), (5, 6, 9, 9)),
}


def shifted(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy that begins `offset` bytes behind a cache line."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def bits(build: Callable[[], nn.Module], x: np.ndarray, offset: int) -> list[bytes]:
    """Output, gradients and buffers with all inputs at this offset."""
    # other blocks of the heap for whatever is allocated on the way
    held = [np.empty(1 + 97 * offset + 13 * i, np.uint8) for i in range(50)]
    del held[::2]
    ag.manual_seed(0)
    module = build()
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor._array = shifted(tensor._array, offset)
    given = Tensor(shifted(x, offset)).requires_grad_()
    y = module(given)
    y = y[0] if isinstance(y, tuple) else y
    weights = np.random.default_rng(1).standard_normal(tuple(y.shape)).astype(np.float32)
    (y * ag.tensor(weights)).sum().backward()
    grads = [p.grad for p in module.parameters()]
    return [t._canonical().tobytes() for t in (y, given.grad, *grads, *module.buffers())]


@pytest.mark.parametrize("name", CASES)
def test_alignment_does_not_count(name: str) -> None:
    pin_threads(1)
    build, shape = CASES[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = bits(build, x, 0)
    for offset in OFFSETS:
        assert bits(build, x, offset) == wanted, f"{offset} bytes"


def test_pinning_refuses_no_thread() -> None:
    with pytest.raises(ValueError, match="count >= 1"):
        pin_threads(0)
