"""State of Python's and NumPy's modules that each rank must have for itself.

Random numbers of ``random`` and ``numpy.random``, and the handlers and levels of ``logging``. As in
processes of their own: seeding in one rank does not disturb another, and each rank's
``logging.basicConfig`` counts for that rank.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from allgrad.launch.debug_streams import current_rank, for_all_ranks

_LOGGER_STATE = ("handlers", "level", "propagate", "disabled", "filters", "_cache")
_LOGGER_CHANGES = ("setLevel", "addHandler", "removeHandler", "addFilter", "removeFilter")


def install(size: int, seed: int | None) -> None:
    """Give each rank its own.

    Args:
        size: number of ranks.
        seed: of the ranks' generators before the script seeds them; None: anything.
    """
    _own_random(size, seed)
    _own_numpy(size, seed)
    _own_logging()


def _own_random(size: int, seed: int | None) -> None:
    shared = random._inst
    own = [random.Random(None if seed is None else f"{seed} {i}") for i in range(size)]
    for name in random.__all__:
        if getattr(getattr(random, name), "__self__", None) is shared:
            setattr(random, name, _per_rank(name, shared, own))


def _own_numpy(size: int, seed: int | None) -> None:
    shared = np.random.mtrand._rand
    own = [np.random.RandomState(None if seed is None else [seed, i]) for i in range(size)]
    for name in np.random.__all__:
        function = getattr(np.random, name)
        if getattr(function, "__self__", None) is shared or name == "seed":
            setattr(np.random, name, _per_rank(name, shared, own))


def _per_rank(name: str, shared: Any, own: list[Any]) -> Callable[..., Any]:
    functions = [getattr(generator, name) for generator in own]
    original = getattr(shared, name)

    def mine(*args: Any, **kwargs: Any) -> Any:
        rank = current_rank()
        return (original if rank is None else functions[rank])(*args, **kwargs)

    def seed(*args: Any, **kwargs: Any) -> None:
        if not for_all_ranks(lambda: mine(*args, **kwargs)):
            mine(*args, **kwargs)

    call = seed if name == "seed" else mine
    call.__name__, call.__doc__ = name, original.__doc__
    return call


class _PerRank:
    """An attribute of loggers with one value per rank; a rank begins with the process's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, logger: Any, owner: Any = None) -> Any:
        values = logger.__dict__
        rank = current_rank()
        key = (self._name, rank)
        if key not in values:
            value = values[self._name]
            values[key] = value.copy() if isinstance(value, list | dict) else value
        return values[key]

    def __set__(self, logger: Any, value: Any) -> None:
        values, rank = logger.__dict__, current_rank()
        values[self._name, rank] = value
        if rank is None:
            values[self._name] = value
        elif self._name not in values:  # a logger that a rank has just made
            values[self._name] = _initial(value)


def _initial(value: Any) -> Any:
    return type(value)() if isinstance(value, list | dict) else value


def _own_logging() -> None:
    for name in _LOGGER_STATE:
        setattr(logging.Logger, name, _PerRank(name))
    for name in _LOGGER_CHANGES:
        setattr(logging.Logger, name, _for_all(getattr(logging.Logger, name)))


def _for_all(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def change(self: logging.Logger, *args: Any) -> None:
        if not for_all_ranks(lambda: method(self, *args)):
            method(self, *args)

    return change
