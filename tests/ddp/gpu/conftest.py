"""Ranks that are threads with an emulated GPU: streams that note what they do, NCCL for threads."""

from __future__ import annotations

import sys

import pytest
from support import thread_nccl
from support.emulated_gpu import emulated_gpu

from allgrad.backend.cuda import availability


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """The module `cupy` of a machine with one GPU and NCCL, for this test."""
    with emulated_gpu() as cupy:
        monkeypatch.setattr(cupy.cuda, "Stream", thread_nccl.Stream)
        monkeypatch.setattr(cupy.cuda, "Event", thread_nccl.Event)
        monkeypatch.setattr(cupy.cuda, "get_current_stream", thread_nccl.get_current_stream)
        nccl = thread_nccl.module()
        monkeypatch.setattr(cupy.cuda, "nccl", nccl, raising=False)
        monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", nccl)
        monkeypatch.setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1")  # the ranks share the one GPU
        availability.forget()
        yield cupy
    availability.forget()
