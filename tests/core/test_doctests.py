"""The examples in the docstrings of core do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import allgrad


def modules():
    parts = pkgutil.walk_packages(allgrad.__path__, "allgrad.")
    others = ("allgrad.ddp", "allgrad.launch")
    return ["allgrad", *(p.name for p in parts if not p.name.startswith(others))]


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
