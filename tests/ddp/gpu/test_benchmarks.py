"""The benchmarks of GPUs run and give figures; what they say here means nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from allgrad import ddp

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
TINY = {"convnet": (4, 1, 28, 28), "resnet20": (2, 3, 32, 32)}


@pytest.fixture
def benchmarks(monkeypatch):
    """Their modules, with tiny batches."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    worker = importlib.import_module("gpu_worker")
    monkeypatch.setattr(worker, "BATCHES", TINY)
    overlap = importlib.import_module("gpu_overlap")
    monkeypatch.setattr(overlap, "BATCHES", TINY)
    yield worker, overlap
    for name in ("gpu_worker", "gpu_overlap", "workloads", "sequences"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("way", ["eager", "captured"])
def test_one_gpu(gpu, benchmarks, way):
    worker, _ = benchmarks
    side = worker.make(f"allgrad {way}", "resnet20", "bfloat16")
    assert side.macs > 40e6  # of one image
    for _ in range(5):
        loss = float(side.step())
    side.wait()
    held = side.reserved()
    for _ in range(3):
        side.step()
    assert side.reserved() == held  # nothing but the first steps asks for memory
    assert 0 < loss < 10


def test_two_gpus(gpus, benchmarks):
    _, overlap = benchmarks
    first, second = ddp.run_ranks(lambda: overlap.measure("convnet", "float32", 2), 2)
    assert first["s_per_step"] == second["s_per_step"]
    assert set(first["s_per_step"]) == {"overlap", "after", "compute"}
    assert first["ranks"] == 2
    assert first["report"]["buckets"] >= 1
