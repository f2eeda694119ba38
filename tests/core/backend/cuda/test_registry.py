"""The table of kernels: its rows are complete, and each has a twin with the kernel's arguments."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from allgrad.backend.cuda.kernels.launcher import blocks
from allgrad.backend.cuda.kernels.registry import FILES, KERNELS, source, suffix
from allgrad.backend.cuda.kernels.twins import TWINS


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_twin_with_its_arguments(name):
    kernel = KERNELS[name]
    pattern = rf"KERNEL\((\d+)\)\s+{name}(?:_##S)?\(([^)]*)\)"
    threads, declared = re.search(pattern, source(kernel.file)).groups()
    assert int(threads) == kernel.threads
    names = [re.search(r"(\w+)\s*(?:\\\s*)?$", p)[1] for p in declared.split(",")]
    assert list(inspect.signature(TWINS[name]).parameters) == names


def test_there_are_no_other_twins():
    assert set(TWINS) == set(KERNELS)


def test_bytes_that_a_kernel_moves():
    assert KERNELS["relu_forward"].bytes_per_element(4) == 8
    assert KERNELS["relu_backward"].bytes_per_element(2) == 6


def test_suffixes_are_numpys():
    import ml_dtypes

    assert [suffix(np.dtype(t)) for t in (np.float32, np.float16, np.int64)] == ["f4", "f2", "i8"]
    assert suffix(np.dtype(ml_dtypes.bfloat16)) == "b2"


def test_sources_need_no_headers():
    for file in FILES:
        assert "#include" not in source(file).replace("any #include", "")


def test_blocks_cover_the_items_and_are_bounded():
    assert [blocks(n, 256)[0] for n in (0, 1, 256, 257, 1 << 40)] == [1, 1, 1, 2, 65536]
