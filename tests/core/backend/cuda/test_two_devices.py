"""Tensors on two GPUs of one process."""

from __future__ import annotations

import os

import pytest

import allgrad as ag
from allgrad.backend.cuda import availability

if os.environ.get("ALLGRAD_TEST_GPU") == "1":
    pytest.skip("not every machine has two GPUs", allow_module_level=True)

from support.emulated_gpu import emulated_gpu


@pytest.fixture
def two(gpu):
    with emulated_gpu(devices=2):
        availability.forget()
        yield
        from allgrad.backend.cuda import device

        device.use(0)
    availability.forget()


def test_copies_come_behind_the_work_of_both(two):
    x = ag.arange(6, dtype=ag.float32, device="cuda:0").reshape(2, 3).T * 2
    y = x.to("cuda:1")
    assert (x.device.index, y.device.index) == (0, 1)
    del x
    ag.zeros(6, device="cuda:0")  # in the memory that was read last
    with ag.cuda.device(1):
        y += 1
    assert y.tolist() == [[1, 7], [3, 9], [5, 11]]
    assert y.to("cuda:0").sum().item() == 36
