"""Short trainings over every mechanism of ddp, with their final bits: for ranks of any kind.

Started as ``python trainings.py FOLDER WAY...`` under mpiexec, every rank writes what it has found;
tests call `train` from ranks that are threads, and compare.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.comm_hooks import default_hooks, post_localSGD_hook, powerSGD_hook
from allgrad.ddp.model_averaging import PeriodicModelAverager

STEPS, SAMPLES, SHARDS = 4, 4, 4


def _network() -> nn.Module:
    ag.manual_seed(0)
    # a bias before a batch norm has no gradient but rounding errors, which Adam makes steps of
    first = nn.Linear(6, 16, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def _batch(step: int) -> tuple[ag.Tensor, ag.Tensor]:
    """This rank's half of the step's batch."""
    rng = np.random.default_rng(step)
    x = rng.standard_normal((2 * SAMPLES, 6)).astype(np.float32)
    y = rng.integers(0, 3, 2 * SAMPLES)
    mine = slice(ddp.get_rank() * SAMPLES, (ddp.get_rank() + 1) * SAMPLES)
    return ag.tensor(x[mine]), ag.tensor(y[mine])


def _steps(model: Any, optimizer: Any) -> nn.Module:
    for step in range(STEPS):
        optimizer.zero_grad()
        for x, y in model.shards(*_batch(step)):
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def _wrapped(module: nn.Module | None = None, **options: Any) -> Any:
    options = {"bucket_cap_mb": 1e-4, "check_replicas_every": 1, **options}
    return ddp.DistributedDataParallel(module or _network(), **options)


def _sgd(model: nn.Module) -> optim.Optimizer:
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _hooked(hook: Any, state: Any = None) -> nn.Module:
    model = _wrapped()
    model.register_comm_hook(state, hook)
    return _steps(model, _sgd(model))


def fp16_hook() -> nn.Module:
    return _hooked(default_hooks.fp16_compress_hook)


def power_sgd_hook() -> nn.Module:
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1
    )
    return _hooked(powerSGD_hook.powerSGD_hook, state)


def local_sgd() -> nn.Module:
    model = _wrapped()
    state = post_localSGD_hook.PostLocalSGDState(None, None, 1, post_local_gradient_allreduce=False)
    model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
    averager = PeriodicModelAverager(period=2, warmup_steps=1)
    return _steps(model, ddp.PostLocalSGDOptimizer(_sgd(model), averager))


def sync_batchnorm() -> nn.Module:
    model = _wrapped(ddp.SyncBatchNorm.convert_sync_batchnorm(_network()))
    return _steps(model, _sgd(model))


def zero() -> nn.Module:
    model = _wrapped()
    return _steps(model, ddp.ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.01))


def attached_zero() -> nn.Module:
    model = _wrapped()
    optimizer = ddp.ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.01)
    optimizer.attach(model)
    return _steps(model, optimizer)


def logical_shards() -> nn.Module:
    model = _wrapped(logical_shards=SHARDS)
    return _steps(model, _sgd(model))


def weighted_with_messages() -> nn.Module:
    """Unequal batches, with collectives and messages of the user's in between."""
    model, other = _wrapped(), 1 - ddp.get_rank()
    optimizer = _sgd(model)
    for step in range(STEPS):
        x, y = _batch(step)
        count = SAMPLES - ddp.get_rank() * (step % 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:count]), y[:count]).backward()
        optimizer.step()
        got = np.zeros(3)
        messages = [
            ddp.P2POp(ddp.isend, np.full(3, 1.0 + ddp.get_rank()), other),
            ddp.P2POp(ddp.irecv, got, other),
        ]
        for work in ddp.batch_isend_irecv(messages):
            work.wait()
        assert got.tolist() == [1.0 + other] * 3
        ddp.broadcast(got, src=step % 2)
    ddp.check_replicas(model)
    return model


TRAININGS: dict[str, Callable[[], nn.Module]] = {
    function.__name__: function
    for function in (
        fp16_hook, power_sgd_hook, local_sgd, sync_batchnorm, zero, attached_zero, logical_shards,
        weighted_with_messages,
    )
}  # fmt: skip


def train(name: str, **options: Any) -> tuple[str, list[float]]:
    """On two ranks: digest and values of all parameters and buffers at the end."""
    ddp.init_process_group(timeout=60, **options)
    model = TRAININGS[name]()
    flat = [t._array.astype(np.float64).ravel() for t in model.state_dict().values()]
    ddp.destroy_process_group()
    values = np.concatenate(flat)
    return hashlib.sha256(values.tobytes()).hexdigest(), values.tolist()


class _Warnings(logging.Handler):
    """Collects what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main(folder: str, *ways: str) -> None:
    warnings = _Warnings()
    logging.getLogger().addHandler(warnings)
    found: dict[str, Any] = {}
    for way in ways:
        shared = way == "shared"
        found[way] = {name: train(name, shared_memory=shared) for name in TRAININGS}
    ddp.init_process_group()
    rank = ddp.get_rank()
    found["warnings"] = warnings.texts
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
