"""The random numbers of GPUs: seeds and states."""

from __future__ import annotations

import importlib
import os
from typing import Any

from ..errors import DeviceError
from .info import device_count, driver, index_of, is_available


def _generator(name: str, device: Any) -> Any:
    index = index_of(name, device)
    from ..backend.cuda import random  # noqa: PLC0415 - needs CuPy

    return random.default_generator(index)


def get_rng_state(device: Any = "cuda") -> Any:
    """The random state of a GPU, a uint8 tensor in main memory.

    Raises:
        RuntimeError: no GPU can be used.
    """
    state = _generator("get_rng_state", device).get_state()
    return importlib.import_module("allgrad.tensors").Tensor(state)  # above this layer


def get_rng_state_all() -> list[Any]:
    """The random states of all GPUs; none without one."""
    return [get_rng_state(i) for i in range(device_count())]


def set_rng_state(new_state: Any, device: Any = "cuda") -> None:
    """Return a GPU's random numbers to a state that `get_rng_state` gave.

    Raises:
        RuntimeError: no GPU can be used.
    """
    state = new_state.numpy() if hasattr(new_state, "numpy") else new_state
    _generator("set_rng_state", device).set_state(state)


def set_rng_state_all(new_states: Any) -> None:
    """Set the random states of all GPUs.

    Raises:
        RuntimeError: there are not as many GPUs as states.
    """
    states = list(new_states)
    if states:
        driver("set_rng_state_all")
    if len(states) > device_count():
        raise DeviceError(
            f"cuda.set_rng_state_all: expected at most {device_count()} states, the number of "
            f"GPUs, came {len(states)}"
        )
    for index, state in enumerate(states):
        set_rng_state(state, index)


def manual_seed(seed: int) -> None:
    """Seed the current GPU's generator; nothing to do without one."""
    number = int(seed)
    if is_available():
        _generator("manual_seed", None).manual_seed(number)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all GPUs; nothing to do without one."""
    number = int(seed)
    for index in range(device_count()):
        _generator("manual_seed_all", index).manual_seed(number)


def seed() -> None:
    """Seed the current GPU's generator at random; nothing to do without one."""
    manual_seed(_random())


def seed_all() -> None:
    """Seed the generators of all GPUs at random, all alike; nothing to do without one."""
    manual_seed_all(_random())


def initial_seed() -> int:
    """The seed that the current GPU's generator was started with.

    Raises:
        RuntimeError: no GPU can be used.
    """
    return int(_generator("initial_seed", None).initial_seed())


def _random() -> int:
    return int.from_bytes(os.urandom(8), "little") >> 1
