"""Checkpoints of small models on ranks that are threads."""

from __future__ import annotations

import sys
from pathlib import Path

from allgrad import ddp, nn


def on_ranks(size, function):
    """Results of `function(rank)` on `size` ranks that are threads."""

    def rank():
        ddp.init_process_group()
        try:
            return function(ddp.get_rank())
        finally:
            if sys.exc_info()[0] is None:
                ddp.destroy_process_group()

    return ddp.run_ranks(rank, size)


def model_with(value):
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    return model


def value_of(model):
    (value,) = {float(v) for p in model.parameters() for v in p.detach().numpy().ravel()}
    return value


def save_some(folder, steps=(1, 2, 3), size=2, **options):
    def save(rank):
        with ddp.CheckpointManager(where(folder, rank), **options) as manager:
            for step in steps:
                assert manager.save(step=step, epoch=step // 2, model=model_with(step)).wait()

    on_ranks(size, save)


def where(folder, rank):
    """A folder for all ranks, or one for each."""
    return folder(rank) if callable(folder) else folder


def latest(folder, size=2):
    def load(rank):
        model = model_with(-1)
        found = ddp.CheckpointManager(where(folder, rank)).load_latest(model=model)
        return None if found is None else (found.step, value_of(model))

    (result,) = set(on_ranks(size, load))
    return result


def files(folder, step):
    return sorted(Path(folder).glob(f"checkpoint-{step:08d}*"))
