"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import allgrad

# Those of the CUDA backend need CuPy: tests/core/backend/cuda/test_doctests.py.
MODULES = ["allgrad"] + [
    m.name
    for m in pkgutil.walk_packages(allgrad.__path__, "allgrad.")
    if not m.name.startswith("allgrad.backend.cuda.")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, tmp_path, monkeypatch):
    if name == "allgrad.ddp.communicators.mpi":
        pytest.importorskip("mpi4py")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
