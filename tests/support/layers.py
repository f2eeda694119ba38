"""Collects the tables of layers from every module `layers_*.py` beside this one.

A table is a dict LAYERS: label -> (constructor for both libraries, input shapes or arrays). The
label begins with what the row is about; what counts for the guard are the classes constructed.
"""

from __future__ import annotations

import importlib
import pkgutil

import support

from .layers_basic import IMAGE as IMAGE
from .layers_basic import LINE as LINE
from .layers_basic import VOLUME as VOLUME


def all_layers():
    """label -> row, of all families."""
    rows = {}
    for module in pkgutil.iter_modules(support.__path__):
        if module.name.startswith("layers_"):
            table = importlib.import_module(f"support.{module.name}").LAYERS
            assert not rows.keys() & table.keys(), f"{module.name}: a label is there already"
            rows |= table
    return rows
