"""Ranks with fewer batches: what they take over when all meet again, and the explicit `Join`.

Stage of the flow: called by `gate` after steps that some ranks have not made. May import:
`communicators.base`, `gate`, `model_check`, `process_group`, `allgrad`.

Note [Join]
    A rank whose DataLoader has ended, and that comes to a collective of the user's or to its next
    forward in training mode, serves the steps of the others until all ranks have come: zeros in the
    buckets that count nothing in the mean, and whatever else a step sends. It does not make
    optimizer steps. When all have met, parameters, buffers and the state of the optimizers and
    learning-rate schedules are taken from the lowest rank that has made the most steps, so all
    ranks go on from the same bits.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.model_check import take_from
from allgrad.errors import DistributedError
from allgrad.nn import Module
from allgrad.optim.users import users_of


def take_over(communicator: Communicator, module: Module, root: int) -> None:
    """Collective. Take from the root whatever training has changed: see Note [Join]."""
    take_from(communicator, module, root)
    mine = _keyed(module)
    keys = communicator.all_gather_object(list(mine))
    if any(other != keys[root] for other in keys):
        gc.collect()  # some rank may still have optimizers that nobody holds any more
        mine = _keyed(module)
    state = None
    if communicator.rank == root:
        state = {key: _packed(thing.state_dict()) for key, thing in mine.items()}
    state = communicator.broadcast_object(state, root)
    if communicator.rank == root:
        return
    assert state is not None
    if set(state) != set(mine):
        more, less = sorted(set(state) - set(mine)), sorted(set(mine) - set(state))
        raise DistributedError(
            f"{communicator.where} cannot take over the optimizer's state of rank {root}: only "
            f"there {more or 'nothing'}, only here {less or 'nothing'}. Make the same optimizers "
            "and schedulers on every rank, before the training loop"
        )
    for key, saved in state.items():
        mine[key].load_state_dict(_unpacked(saved))


def _keyed(module: Module) -> dict[str, Any]:
    """Optimizers that step the module's parameters and the schedules bound to them, by name.

    In the order of their making, which is the same on all ranks.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    optimizers = {id(o): o for p in module.parameters() for o in users_of(p)}
    found: dict[str, Any] = {}
    for optimizer in optimizers.values():
        held = [names.get(id(p)) for group in optimizer.param_groups for p in group["params"]]
        owner = _enter(found, f"{type(optimizer).__name__} of {held}", optimizer)
        for schedule in users_of(optimizer):
            _enter(found, f"{type(schedule).__name__} for {owner}", schedule)
    return found


def _enter(found: dict[str, Any], key: str, thing: Any) -> str:
    number = 1
    while f"{key} {number}" in found:
        number += 1
    found[f"{key} {number}"] = thing
    return f"{key} {number}"


class _Array:
    """A tensor of a state, on its way through main memory to the same kind of device."""

    def __init__(self, tensor: Tensor) -> None:
        self.array = np.array(arrays.to_host(tensor._canonical()))
        self.kind = tensor.device.type


def _packed(value: Any) -> Any:
    """The value with tensors as arrays, and without functions, which stay each rank's own."""
    if isinstance(value, Tensor):
        return _Array(value)
    if isinstance(value, dict):
        return {k: _packed(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return type(value)([_packed(v) for v in value])
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, _Array):
        return Tensor(value.array).to(value.kind)
    if isinstance(value, dict):
        return {k: _unpacked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_unpacked(v) for v in value])
    return value


class Join:
    """PyTorch's context for ranks with different numbers of batches, for several models at once.

    Ranks whose data comes from a DataLoader join by themselves; this is for other loops. See
    `DistributedDataParallel.join` for the arguments.

    Args:
        joinables: wrapped models.
        enable: False makes this context do nothing.
        throw_on_early_termination: raise on all ranks as soon as one has no batch left.
        divide_by_initial_world_size: as `DistributedDataParallel.join`.
    """

    def __init__(
        self,
        joinables: Sequence[Any],
        enable: bool = True,
        throw_on_early_termination: bool = False,
        *,
        divide_by_initial_world_size: bool | None = None,
    ) -> None:
        if not joinables:
            raise DistributedError("Join: expected at least one DistributedDataParallel, came none")
        self._joinables = list(joinables)
        self._options = {
            "divide_by_initial_world_size": divide_by_initial_world_size,
            "enable": enable,
            "throw_on_early_termination": throw_on_early_termination,
        }
        self._stack = ExitStack()

    def __enter__(self) -> None:
        for model in self._joinables:
            self._stack.enter_context(model.join(**self._options))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
