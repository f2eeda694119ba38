"""The table of kernels: its rows are complete, and each has a twin with the kernel's arguments."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from support.emulated_gpu import compiler

from allgrad.backend.cuda.kernels.launcher import blocks
from allgrad.backend.cuda.kernels.registry import FILES, KERNELS, options, source, suffix
from allgrad.backend.cuda.kernels.twins import TWINS


@pytest.mark.parametrize("file", FILES)
def test_the_table_says_what_a_file_has(file):
    kernels = [kernel for kernel in KERNELS.values() if kernel.file == file]
    found = compiler.compiled(source(file), options(np.dtype(np.float16)))
    named = {f"{k.name}_f2" if "f2" in k.types else k.name: k for k in kernels}
    assert set(found) == set(named)
    for symbol, kernel in named.items():
        assert found[symbol].max_threads == kernel.threads
        assert list(inspect.signature(TWINS[kernel.name]).parameters) == list(found[symbol].names)


def test_every_kernel_has_a_twin():
    assert set(TWINS) == set(KERNELS)


def test_bytes_that_a_kernel_moves():
    assert KERNELS["relu_forward"].bytes_per_element(4) == 8
    assert KERNELS["relu_backward"].bytes_per_element(2) == 6
    assert KERNELS["max_pool_forward"].bytes_per_element(2) == 5


def test_suffixes_are_numpys():
    import ml_dtypes

    assert [suffix(np.dtype(t)) for t in (np.float32, np.float16, np.int64)] == ["f4", "f2", "i8"]
    assert suffix(np.dtype(ml_dtypes.bfloat16)) == "b2"


def test_sources_need_no_headers():
    for file in FILES:
        assert not re.search(r"^#include", source(file), re.MULTILINE)


def test_blocks_cover_the_items_and_are_bounded():
    assert [blocks(n, 256)[0] for n in (0, 1, 256, 257, 1 << 40)] == [1, 1, 1, 2, 65536]
