"""Calling a module with other parameters than its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...tensors import Tensor
from ..modules.module import Module

State = Mapping[str, Tensor]


def functional_call(
    module: Module,
    parameters_and_buffers: State | Sequence[State],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with some of its parameters and buffers replaced meanwhile.

    Args:
        parameters_and_buffers: dotted name -> tensor (or several such mappings). Gradients flow
            to these tensors.
        args: the arguments, a tuple; anything else is one argument.
        kwargs: keyword arguments.
        tie_weights: a tensor that the module shares under several names is replaced under all.
        strict: all names must be given, and no others.

    Raises:
        RuntimeError: with `strict`, names are missing or unexpected.
        AttributeError: a name that the module does not have.
        ValueError: two mappings have a name in common, or tied names get different tensors.

    >>> import allgrad as ag
    >>> from allgrad import nn
    >>> layer = nn.Linear(2, 1)
    >>> new = {"weight": ag.ones(1, 2), "bias": ag.zeros(1)}
    >>> functional_call(layer, new, (ag.tensor([3.0, 4.0]),))
    tensor([7.])
    """
    state = _joined(parameters_and_buffers)
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    if strict:
        missing = [k for k in own if k not in state]
        unexpected = [k for k in state if k not in own]
        if missing or unexpected:
            raise RuntimeError(
                f"functional_call: missing {missing}, unexpected {unexpected} for "
                f"{type(module).__name__}"
            )
    for name in state:
        if name not in own:
            raise AttributeError(f"functional_call: {type(module).__name__} has no {name!r}")
    if tie_weights:
        state = _tied(own, state)
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, value in state.items():
            path, _, leaf = name.rpartition(".")
            owner = module.get_submodule(path)
            registry: dict[str, Any] = (
                owner._parameters if leaf in owner._parameters else owner._buffers
            )
            swapped.append((registry, leaf, registry[leaf]))
            registry[leaf] = value
        return module(*arguments, **(kwargs or {}))
    finally:
        for registry, leaf, value in reversed(swapped):
            registry[leaf] = value


def _joined(given: State | Sequence[State]) -> dict[str, Tensor]:
    if isinstance(given, Mapping):
        return dict(given)
    joined: dict[str, Tensor] = {}
    for part in given:
        if joined.keys() & part.keys():
            raise ValueError(f"functional_call: {sorted(joined.keys() & part.keys())} came twice")
        joined.update(part)
    return joined


def _tied(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the other names of shared tensors added."""
    names: dict[int, list[str]] = {}
    for name, value in own.items():
        names.setdefault(id(value), []).append(name)
    full = dict(state)
    for name, value in state.items():
        for other in names[id(own[name])]:
            if full.setdefault(other, value) is not value:
                raise ValueError(
                    f"functional_call: {name!r} and {other!r} are one tensor but got different "
                    "values; pass tie_weights=False if that is meant"
                )
    return full
