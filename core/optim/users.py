"""Who uses what: the optimizers of a parameter, the schedules of an optimizer.

Imports the standard library only.

Known weakly, so nothing lives longer by it. `ddp` asks when ranks take over each other's state.
"""

from __future__ import annotations

import weakref
from typing import Any

_KEY = "_users"


def note_user(thing: Any, user: Any) -> None:
    """Remember that `user` changes `thing`."""
    others = [r for r in thing.__dict__.get(_KEY, ()) if r() is not None and r() is not user]
    thing.__dict__[_KEY] = [*others, weakref.ref(user)]


def users_of(thing: Any) -> list[Any]:
    """Those that were noted and still live, in the order of their making."""
    return [user for r in thing.__dict__.get(_KEY, ()) if (user := r()) is not None]


def without_users(state: dict[str, Any]) -> dict[str, Any]:
    """An object's attributes for `pickle` and `copy`: weak references do not travel."""
    return {name: value for name, value in state.items() if name != _KEY}
