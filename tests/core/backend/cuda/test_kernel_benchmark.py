"""`benchmarks/gpu_kernels.py` runs; what it measures means something on a real GPU alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

HOME = Path(__file__).parents[4] / "benchmarks"


@pytest.mark.usefixtures("cuda")
def test_every_row_is_timed():
    spec = importlib.util.spec_from_file_location("gpu_kernels", HOME / "gpu_kernels.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark._CALLS = 1
    head, _, *lines = benchmark.table(np.dtype(np.float16), 64 * 16 * 16, 1).splitlines()
    assert head.startswith("| float16, 0 MiB; copy ")
    names = [line.split("|")[1].strip() for line in lines]
    assert len(set(names)) == len(names) == 23
    for line in lines:
        assert float(line.split("|")[3]) >= 0
