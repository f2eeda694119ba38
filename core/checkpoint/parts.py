"""The state of the parts of a run (model, optimizer, loader, random numbers ...) as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import random
from ..errors import CheckpointError
from ..nn import Module

RANDOM_STATE = "random_state"
GPU_RANDOM_STATES = "gpu_random_states"
RESERVED = (RANDOM_STATE, GPU_RANDOM_STATES, "per_rank")


def capture_state(*, random_state: bool = True, **parts: Any) -> dict[str, Any]:
    """The state of `parts` by name; tensors in it are the living ones, not copies.

    Args:
        random_state: include the states of this thread's default random generators: the CPU's,
            and those of GPUs that were used.
        parts: objects with ``state_dict()`` (or, as `Generator`, with ``get_state()``).

    Returns:
        ``{name: state}``, plain data that `restore_state` takes back.

    Raises:
        CheckpointError: a part has neither method, or a reserved name.

    Used directly for what differs between ranks: every rank captures its loader and its random
    state, the states are gathered, and the writing rank passes them on as ``per_rank``.
    """
    state: dict[str, Any] = {}
    for name, part in parts.items():
        if name in RESERVED:
            raise CheckpointError(f"a part cannot be called {name!r}; that name is taken")
        if hasattr(part, "state_dict"):
            state[name] = part.state_dict()
        elif hasattr(part, "get_state"):
            state[name] = part.get_state()
        else:
            raise CheckpointError(
                f"part {name!r}: expected an object with state_dict() and load_state_dict(), "
                f"came {type(part).__name__}. Numbers and strings go into values={{...}}"
            )
    if random_state:
        states = random.states()
        state[RANDOM_STATE] = states.pop("cpu")
        if states:
            state[GPU_RANDOM_STATES] = states
    return state


def restore_state(
    state: Mapping[str, Any],
    *,
    random_state: bool = True,
    source: str = "checkpoint",
    **parts: Any,
) -> None:
    """Put what `capture_state` returned back into `parts`.

    Everything that can be checked is checked before the first part is changed.

    Args:
        state: what was captured; names that `parts` does not ask for are ignored.
        random_state: also set this thread's default random generators, if the state has them.
        source: what to call `state` in errors.
        parts: the objects, under the names they were captured with.

    Raises:
        CheckpointError: a part was not captured, or the model has other parameters.
        ValueError: an optimizer has other parameter groups.
    """
    for name, part in parts.items():
        if name not in state:
            held = ", ".join(key for key in state if key not in RESERVED)
            raise CheckpointError(f"{source} has no part {name!r}; it holds: {held or 'nothing'}")
        if isinstance(part, Module):
            check_same_model(part.state_dict(), state[name], source, name)
    # models last: they were checked, the others check themselves before they change
    for name, part in sorted(parts.items(), key=lambda item: isinstance(item[1], Module)):
        if hasattr(part, "load_state_dict"):
            part.load_state_dict(state[name])
        else:
            part.set_state(state[name])
    if random_state and RANDOM_STATE in state:
        others = state.get(GPU_RANDOM_STATES, {})
        random.set_states({"cpu": np.asarray(state[RANDOM_STATE]), **others})


def check_same_model(
    mine: Mapping[str, Any], saved: Mapping[str, Any], source: str, part: str = "model"
) -> None:
    """Refuse a saved model state that does not fit, listing every name that does not.

    Args:
        mine: ``state_dict()`` of the present model.
        saved: the state to load.
        source: what to call `saved` in the error.
        part: the part's name.

    Raises:
        CheckpointError: names are missing, unexpected, or have another shape.
    """
    missing = [name for name in mine if name not in saved]
    unexpected = [name for name in saved if name not in mine]
    wrong = [
        f"{name} (expected {_shape(mine[name])}, came {_shape(saved[name])})"
        for name in mine
        if name in saved and _shape(mine[name]) != _shape(saved[name])
    ]
    if not (missing or unexpected or wrong):
        return
    lines = [f"{source} belongs to another model than {part!r}; nothing was loaded."]
    for title, names in (
        ("missing in the checkpoint", missing),
        ("unexpected in the checkpoint", unexpected),
        ("wrong shape", wrong),
    ):
        if names:
            lines.append(f"  {title} ({len(names)}): {', '.join(names)}")
    lines.append(
        "  Build the model that was saved, or take the parts that fit: "
        "model.load_state_dict(read_checkpoint(path).state['model'], strict=False)"
    )
    raise CheckpointError("\n".join(lines))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))
