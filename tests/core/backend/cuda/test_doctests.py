"""The modules of the CUDA backend can be imported, and the examples in them do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from allgrad.backend import cuda

NAMES = [p.name for p in pkgutil.walk_packages(cuda.__path__, "allgrad.backend.cuda.")]


@pytest.mark.parametrize("name", NAMES)
def test_examples(gpu, name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
