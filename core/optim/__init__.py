"""Optimizers and learning-rate schedulers; imports tensors, autograd and the backend.

A step reads ``p.grad`` and writes ``p`` in place through one kernel of the backend per parameter;
the equations stand in the docstrings of the classes.
"""

from . import lr_scheduler as lr_scheduler
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .optimizer import Optimizer as Optimizer
from .sgd import SGD as SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
