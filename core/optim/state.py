"""An optimizer's state as a dict keyed by position (PyTorch's layout), and back."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import numpy as np

from .. import devices
from ..backend import arrays
from ..dtypes import FLOATING
from ..errors import ShapeError
from ..tensors import Tensor

State = defaultdict[Any, dict[str, Any]]
Groups = list[dict[str, Any]]


def pack(state: State, param_groups: Groups) -> dict[str, Any]:
    """``{"state": {index: ...}, "param_groups": [...]}`` with positions instead of parameters."""
    params = [p for group in param_groups for p in group["params"]]
    index = {id(p): i for i, p in reversed(list(enumerate(params)))}  # first position wins
    return {
        "state": {index.get(id(p), p): values for p, values in state.items()},
        "param_groups": [
            {key: value for key, value in group.items() if key != "params"}
            | {"params": [index[id(p)] for p in group["params"]]}
            for group in param_groups
        ],
    }


def unpack(
    saved: dict[str, Any],
    param_groups: Groups,
    defaults: dict[str, Any],
    like_param: tuple[str, ...],
    optimizer: str,
) -> tuple[State, Groups]:
    """New state and groups for the parameters of `param_groups` from what `pack` returned.

    Args:
        saved: a packed state.
        param_groups: the present groups; only their parameters and names are used.
        defaults: settings for groups saved before a setting existed.
        like_param: names of state tensors that must have their parameter's shape.
        optimizer: its name, for errors.

    Raises:
        ValueError, ShapeError: the saved state belongs to other parameters.
    """
    _check_same_sizes(param_groups, saved["param_groups"], optimizer)
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    params = [p for group in param_groups for p in group["params"]]
    owner = dict(zip(indices, params, strict=True))
    state: State = defaultdict(dict)
    for index, values in saved["state"].items():
        if index not in owner:
            state[index] = copy.deepcopy(values)  # state of the optimizer as a whole
            continue
        param = owner[index]
        _check_shapes(values, param, index, like_param, optimizer)
        state[param] = _copy_for(param, values)
    groups = [
        _adopt_group(mine, theirs, defaults)
        for mine, theirs in zip(param_groups, saved["param_groups"], strict=True)
    ]
    return state, groups


def _check_same_sizes(mine: Groups, saved: Groups, optimizer: str) -> None:
    sizes = [len(group["params"]) for group in mine]
    saved_sizes = [len(group["params"]) for group in saved]
    if len(sizes) != len(saved_sizes):
        raise ValueError(
            f"{optimizer}: loaded state dict has a different number of parameter groups: "
            f"expected {len(sizes)}, came {len(saved_sizes)}"
        )
    if sizes != saved_sizes:
        raise ValueError(
            f"{optimizer}: loaded state dict contains a parameter group that doesn't match the "
            f"size of optimizer's group: expected sizes {sizes}, came {saved_sizes}"
        )


def _check_shapes(
    values: dict[str, Any], param: Tensor, index: Any, like_param: tuple[str, ...], optimizer: str
) -> None:
    for name in like_param:
        value = values.get(name)
        if value is not None and tuple(value.shape) != tuple(param.shape):
            raise ShapeError(
                f"{optimizer}: state {name!r} of parameter {index} in the loaded state dict has "
                f"shape {tuple(value.shape)}, expected the parameter's {tuple(param.shape)}"
            )


def _copy_for(param: Tensor, value: Any, key: str = "") -> Any:
    """A copy of saved state; except ``"step"`` on the device of `param`, in its floating dtype."""
    if isinstance(value, dict):
        return {k: _copy_for(param, v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy_for(param, v, key) for v in value)
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    cast = key != "step" and param._array.dtype.kind in FLOATING
    dtype = param._array.dtype if cast else value._array.dtype
    if key == "step":  # steps on a GPU move it there when they count
        return Tensor(np.array(arrays.to_host(value._array), dtype=dtype))
    return Tensor(_placed_as(param._array, value._array, dtype))


def _placed_as(pattern: np.ndarray, value: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A copy on the device of `pattern`, and in its order of memory where the shapes agree."""
    if not arrays.known():
        return np.array(value, dtype=dtype)
    there = arrays.index_of(pattern)
    moved = devices.moved(value, "cpu" if there is None else f"cuda:{there}")
    if moved.shape != pattern.shape:
        return moved.astype(dtype)
    copy = np.empty_like(pattern, dtype=dtype)
    copy[...] = moved
    return copy


def _adopt_group(
    mine: dict[str, Any], saved: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    group = copy.deepcopy({key: value for key, value in saved.items() if key != "params"})
    for name, default in defaults.items():
        group.setdefault(name, default)
    if "param_names" in mine:
        group.setdefault("param_names", mine["param_names"])
    return {"params": mine["params"], **group}
