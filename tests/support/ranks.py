"""Ranks that are threads, in a process group; and what tests of wrapped models give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import allgrad as ag
from allgrad import ddp, nn


def on_ranks(
    function: Callable[[], Any], size: int = 2, timeout_s: float = 20.0, destroy: bool = True
) -> list[Any]:
    """What `function` returns on each rank; `destroy` leaves the group after it."""

    def body() -> Any:
        ddp.init_process_group(timeout=timeout_s)
        result = function()
        if destroy:
            ddp.destroy_process_group()
        return result

    return ddp.run_ranks(body, size)


def network() -> nn.Module:
    """The same on all ranks: (N, 6) to 3 classes."""
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def data(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples for `network` and their classes."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 6)).astype(np.float32), rng.integers(0, 3, count)


def backward(model: Any, x: np.ndarray, y: np.ndarray) -> None:
    """One backward of the mean loss over these samples."""
    nn.functional.cross_entropy(model(ag.tensor(x)), ag.tensor(y)).backward()


def grads(model: Any) -> np.ndarray:
    """All gradients one after the other; every parameter must have one."""
    return np.concatenate([p.grad._array.ravel() for p in model.parameters()])
