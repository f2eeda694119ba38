"""The state of an optimizer over pieces, put together and cut. See Note [Pieces] in `zero`.

May import: `zero_partition`, `communicators.base`, ``allgrad``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.zero_partition import Piece
from allgrad.optim import Optimizer

Groups = Sequence[Mapping[str, Any]]


def size_bytes(state: Mapping[Any, Mapping[str, Any]]) -> int:
    """Bytes of all tensors in an optimizer's state."""
    return sum(
        value._array.nbytes
        for values in state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )


def consolidate(
    communicator: Communicator,
    inner: Optimizer,
    groups: Groups,
    pieces: Sequence[Sequence[Sequence[Piece]]],
    to: int,
) -> dict[str, Any] | None:
    """Collective. The state of the plain optimizer over the whole parameters.

    Args:
        communicator: of the ranks.
        inner: this rank's optimizer over its pieces.
        groups: the whole parameters.
        pieces: per group and rank.
        to: the rank that gets it; -1: all.

    Returns:
        What the plain optimizer's `state_dict` would return; None on other ranks than `to`.
    """
    mine = inner.state_dict()
    owned: list[dict[int, dict[str, Any]]] = []
    for rank in range(communicator.size):  # one after the other: only one rank's share travels
        state = communicator.broadcast_object(mine["state"], rank)
        if to in (-1, communicator.rank):
            owned.append(state)
    if not owned:
        return None
    state, first = {}, 0
    cursors = [0] * communicator.size
    for group, ranks in zip(groups, pieces, strict=True):
        shapes = [tuple(p.shape) for p in group["params"]]
        found: dict[int, list[dict[str, Any]]] = {}
        for rank, own in enumerate(ranks):
            for piece in own:
                values = owned[rank].get(cursors[rank])
                cursors[rank] += 1
                if values:
                    found.setdefault(piece.index, []).append(values)
        for index in sorted(found):
            state[first + index] = _whole(found[index], shapes[index])
        first += len(shapes)
    return {"state": state, "param_groups": _outer_groups(groups)}


def _whole(parts: list[dict[str, Any]], shape: tuple[int, ...]) -> dict[str, Any]:
    """One parameter's state from those of its pieces, in order."""
    if len(parts) == 1:
        return parts[0]
    whole = {}
    for name, value in parts[0].items():
        if isinstance(value, Tensor) and value.ndim == 1:
            arrays = [part[name]._array for part in parts]
            whole[name] = Tensor(np.concatenate(arrays).reshape(shape))
        else:  # a count of steps: the same in all pieces
            whole[name] = value
    return whole


def _outer_groups(groups: Groups) -> list[dict[str, Any]]:
    packed, first = [], 0
    for group in groups:
        count = len(group["params"])
        packed.append(
            {k: v for k, v in group.items() if k != "params"}
            | {"params": list(range(first, first + count))}
        )
        first += count
    return packed


def cut(
    state_dict: Mapping[str, Any], groups: Groups, pieces: Sequence[Sequence[Piece]]
) -> dict[str, Any]:
    """The state of this rank's pieces from that of the whole parameters.

    Args:
        state_dict: in the layout of the plain optimizer.
        groups: the whole parameters.
        pieces: this rank's, per group.
    """
    state: dict[int, Any] = {}
    packed, position = [], 0
    for group, saved, own in zip(groups, state_dict["param_groups"], pieces, strict=True):
        indices = []
        for piece in own:
            param = group["params"][piece.index]
            values = state_dict["state"].get(saved["params"][piece.index])
            if values is not None:
                state[position] = {k: _part(v, piece, param) for k, v in values.items()}
            indices.append(position)
            position += 1
        settings = {k: v for k, v in saved.items() if k not in ("params", "param_names")}
        packed.append(settings | {"params": indices})
    return {"state": state, "param_groups": packed}


def _part(value: Any, piece: Piece, param: Tensor) -> Any:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(param.shape):
        return value
    if piece.size == param.numel():
        return value
    return Tensor(value._canonical().reshape(-1)[piece.start : piece.stop])
