"""The GPU of these tests: an emulated one, or with ALLGRAD_TEST_GPU=1 the real one."""

from __future__ import annotations

import pytest
from support.gpu import gpu as gpu
from support.gpu import stand_in as stand_in


@pytest.fixture
def cuda(gpu, monkeypatch):
    """A new CUDA backend, this thread's meanwhile; falling back is an error, counters are zero."""
    from allgrad import backend, kernel_counts
    from allgrad.backend.cuda.backend import CudaBackend

    kernel_counts.reset()
    kernels = CudaBackend()
    kernels.strict = True
    monkeypatch.setitem(backend._instances.cuda, 0, kernels)
    yield kernels
    kernel_counts.reset()
