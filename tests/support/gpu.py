"""The fixture `gpu`: an emulated GPU, or with ALLGRAD_TEST_GPU=1 the real one."""

from __future__ import annotations

import os

import pytest

from allgrad.backend.cuda import availability

REAL = os.environ.get("ALLGRAD_TEST_GPU") == "1"


@pytest.fixture(scope="session")
def stand_in():
    """CuPy and the libraries beside it, real or not, for the whole session."""
    if REAL:
        yield
        return
    from support.emulated_gpu import emulated_gpu

    with emulated_gpu():
        yield


@pytest.fixture
def gpu(stand_in, monkeypatch):
    """The module `cupy` of a machine with a GPU; convolutions of float32 are exact."""
    monkeypatch.setattr("allgrad.backends.cudnn.allow_tf32", False)
    availability.forget()
    reason = availability.why_not()
    if reason is not None:
        pytest.fail(f"ALLGRAD_TEST_GPU=1, but {reason}")
    import cupy

    from allgrad.backend.cuda import device

    device.current()  # what tests do by CuPy goes to the compute stream, too
    return cupy
