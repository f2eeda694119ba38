"""Parameter groups: completing one from what the user gave, and the mistakes to catch there."""

from __future__ import annotations

import warnings
from typing import Any

from ..tensors import Tensor

#: value of an entry of `defaults` that every parameter group must bring itself
required = object()


def complete(group: dict[str, Any], defaults: dict[str, Any], optimizer: str) -> None:
    """Bring `group` into its final form, in place.

    ``"params"`` becomes a list of tensors (names of (name, tensor) pairs go to
    ``"param_names"``), and settings that are not there are taken from `defaults`.

    Raises:
        TypeError, ValueError: as `Optimizer` says; `optimizer` is the name to put before it.
    """
    _split_names(group, optimizer)
    for i, param in enumerate(group["params"]):
        _check_param(i, param, optimizer)
    for name, default in defaults.items():
        if default is required and name not in group:
            given = sorted(key for key in group if key != "params")
            raise ValueError(
                f"{optimizer}: parameter group didn't specify a value of required optimization "
                f"parameter {name}; it has {given}"
            )
        group.setdefault(name, default)


def check_overlap(group: dict[str, Any], earlier: list[dict[str, Any]]) -> None:
    """Refuse a parameter that an earlier group has, or names in only some groups.

    Raises:
        ValueError: one of the two.
    """
    ids = [id(p) for p in group["params"]]
    if len(ids) != len(set(ids)):
        warnings.warn(
            "optimizer contains a parameter group with duplicate parameters; each of them is "
            "stepped more than once",
            stacklevel=5,  # the line that makes the optimizer
        )
    for other in earlier:
        if ("param_names" in other) != ("param_names" in group):
            this = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names: cannot add a param "
                f"group {this} to this optimizer"
            )
        others = {id(p) for p in other["params"]}
        shared = [i for i, mine in enumerate(ids) if mine in others]
        if shared:
            raise ValueError(
                f"some parameters appear in more than one parameter group: positions {shared} "
                "of the group being added"
            )


def _split_names(group: dict[str, Any], optimizer: str) -> None:
    params = group["params"]
    if isinstance(params, set | frozenset):
        raise TypeError(
            f"{optimizer}: optimizer parameters need to be organized in ordered collections, but "
            "the order of a set changes between runs. Use a list"
        )
    items = [params] if isinstance(params, Tensor) else list(params)
    pairs = [item for item in items if isinstance(item, tuple)]
    if pairs and len(pairs) != len(items):
        raise ValueError(
            f"{optimizer}: all optimizer params should be with/without names; "
            f"{len(pairs)} of {len(items)} have one"
        )
    if pairs:
        group["param_names"] = [name for name, _ in pairs]
        items = [tensor for _, tensor in pairs]
    group["params"] = items


def _check_param(position: int, param: Any, optimizer: str) -> None:
    if not isinstance(param, Tensor):
        raise TypeError(
            f"{optimizer}: optimizer can only optimize Tensors, but parameter {position} is "
            f"{type(param).__name__}"
        )
    if not (param.is_leaf or param._retains_grad):
        raise ValueError(
            f"{optimizer}: can't optimize a non-leaf Tensor: parameter {position} is the result "
            "of an operation. Use the tensors it was computed from, or "
            "tensor.detach().requires_grad_()"
        )
