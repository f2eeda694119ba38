"""Ranks that are threads, with an emulated GPU each, or all on one."""

from __future__ import annotations

import os

import pytest
from support.emulated_gpu import emulated_gpu, state, streams

from allgrad import backend
from allgrad.backend.cuda import availability

REAL = os.environ.get("ALLGRAD_TEST_GPU") == "1"


def _machine(devices: int, monkeypatch: pytest.MonkeyPatch):
    if REAL:
        pytest.skip("of emulated GPUs; test_real.py is for the real one")
    monkeypatch.setattr(state, "TIMEOUT_S", 10.0)
    with emulated_gpu(devices) as cupy:
        availability.forget()
        from allgrad.backend.cuda import device, random, tables

        # streams of a test that failed may wait for ever
        monkeypatch.setattr(device, "_streams", {})
        monkeypatch.setattr(device, "_thread", device._Thread())
        monkeypatch.setattr(random, "_thread", random._Thread())
        monkeypatch.setattr(backend._instances, "cuda", {})
        tables._tables.clear()
        state.thread.streams.clear()
        streams._by_pointer.clear()
        yield cupy
        state.thread.streams.clear()
        state.thread.device = 0
    availability.forget()


@pytest.fixture
def gpus(monkeypatch):
    """The module `cupy` of a machine with four GPUs and NCCL."""
    yield from _machine(4, monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    """The module `cupy` of a machine with one GPU and NCCL."""
    yield from _machine(1, monkeypatch)
