"""The fixture `gpu`: an emulated GPU, or with ALLGRAD_TEST_GPU=1 the real one."""

from __future__ import annotations

import os

import pytest

import allgrad as ag
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

    from allgrad.backend.cuda import device, random, tables

    tables._tables.clear()
    if not REAL:
        _find_lost_streams(device)
    device._thread.index = -1  # other tests' ranks may have left this thread another stream
    device.current()  # what tests do by CuPy goes to the compute stream, too
    ag.cuda.manual_seed(0)
    yield cupy
    random._thread.generators.clear()  # `manual_seed` of later tests is for the CPU alone


def _find_lost_streams(device) -> None:
    """Tests of ranks forget the streams of others when they end; this thread's are used again."""
    from support.emulated_gpu import streams

    for stream in device._streams.values():
        streams._by_pointer[stream.ptr] = stream
