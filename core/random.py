"""Random numbers: one generator per thread, so that ranks run as threads draw independently.

Philox is used because its state is small and its stream does not depend on how often or in
which sizes numbers are drawn elsewhere.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from typing import Any, Protocol

import numpy as np

from .errors import CheckpointError, DeviceError

_SEED = 67280421310721  # PyTorch's


class Generator:
    """A stream of random numbers with a seed and a state that can be saved.

    Args:
        seed: any non-negative integer below 2**64; by default 67280421310721 as in PyTorch.
        device: "cpu", or a GPU such as "cuda" or "cuda:1", for tensors that are drawn there; may
            come first, as in PyTorch.

    Raises:
        RuntimeError: the GPU cannot be used here, or another kind of device.

    >>> g = Generator(3)
    >>> state = g.get_state()
    >>> a = g.numpy.random(2)
    >>> g.set_state(state)
    >>> bool((g.numpy.random(2) == a).all())
    True
    """

    __slots__ = ("_numpy", "_seed")

    def __new__(cls, seed: Any = _SEED, device: Any = "cpu") -> Generator:
        if not isinstance(seed, int | np.integer):
            seed, device = _SEED, seed
        if cls is not Generator or str(device) == "cpu":
            return super().__new__(cls)
        return _elsewhere(int(seed), str(device))

    def __init__(self, seed: Any = _SEED, device: Any = "cpu") -> None:
        self.manual_seed(int(seed) if isinstance(seed, int | np.integer) else _SEED)

    def __reduce__(self) -> Any:
        return _restored, (self.device, self.get_state())

    @property
    def numpy(self) -> np.random.Generator:
        """NumPy's generator that the numbers come from."""
        return self._numpy

    @numpy.setter
    def numpy(self, stream: np.random.Generator) -> None:
        self._numpy = stream

    @property
    def device(self) -> Any:
        """The device whose tensors it fills."""
        return importlib.import_module("allgrad.devices").device(self._place())

    def _place(self) -> str:
        return "cpu"

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`; returns self."""
        self._seed = int(seed)
        self._numpy = np.random.Generator(np.random.Philox(self._seed % 2**64))
        return self

    def seed(self) -> int:
        """Start a stream of a seed drawn from the operating system, and return that seed."""
        value = int.from_bytes(os.urandom(8), "little") >> 1
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        """The seed that this stream was started with."""
        return self._seed

    def get_state(self) -> np.ndarray:
        """The exact position in the stream, as a uint8 array (JSON inside)."""
        state = self._numpy.bit_generator.state
        plain = {
            "seed": self._seed,
            "counter": [int(v) for v in state["state"]["counter"]],
            "key": [int(v) for v in state["state"]["key"]],
            "buffer": [int(v) for v in state["buffer"]],
            "buffer_pos": int(state["buffer_pos"]),
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }
        return np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8).copy()

    def set_state(self, state: np.ndarray) -> None:
        """Return to a position that `get_state` gave.

        Raises:
            CheckpointError: `state` did not come from `get_state`.
        """
        try:
            plain = json.loads(np.asarray(state, dtype=np.uint8).tobytes())
            bits = np.random.Philox(0)
            bits.state = {
                "bit_generator": "Philox",
                "state": {
                    "counter": np.array(plain["counter"], dtype=np.uint64),
                    "key": np.array(plain["key"], dtype=np.uint64),
                },
                "buffer": np.array(plain["buffer"], dtype=np.uint64),
                "buffer_pos": plain["buffer_pos"],
                "has_uint32": plain["has_uint32"],
                "uinteger": plain["uinteger"],
            }
        except (ValueError, KeyError, TypeError) as err:
            raise CheckpointError(
                "Generator.set_state: expected the uint8 array that get_state() returned, "
                f"came something else ({err})"
            ) from err
        self._seed = plain["seed"]
        self._numpy = np.random.Generator(bits)


def _elsewhere(seed: int, device: str) -> Generator:
    """A generator of a GPU, whose package may import this module but not the reverse."""
    found = importlib.import_module("allgrad.devices").require(device)
    if found.type != "cuda":
        raise DeviceError(f"Generator: expected device 'cpu' or 'cuda', came {device!r}")
    module = importlib.import_module("allgrad.backend.cuda.random")
    index = module.device.current() if found.index is None else found.index
    made: Generator = module.Generator.on(index, seed)
    return made


def _restored(device: Any, state: np.ndarray) -> Generator:
    made = Generator(device=device)
    made.set_state(state)
    return made


class Others(Protocol):
    """The generators of other devices, where such a device is used."""

    def manual_seed(self, seed: int) -> None:
        """Start the streams of this thread's generators of `seed`."""
        ...

    def states(self) -> dict[str, np.ndarray]:
        """The states of this thread's generators by the names of their devices."""
        ...

    def set_states(self, states: dict[str, np.ndarray]) -> None:
        """Return to what `states` gave; devices that are not here are left out."""
        ...


others: list[Others] = []  # filled by the backends of other devices when they are loaded


class _Default(threading.local):
    generator: Generator | None = None


_default = _Default()


def default_generator() -> Generator:
    """The generator of this thread, used wherever none is given."""
    if _default.generator is None:  # made late: importing numpy.random takes 10 ms
        _default.generator = Generator()
    return _default.generator


def manual_seed(seed: int) -> Generator:
    """Seed this thread's generators, of the CPU and of GPUs. Returns the CPU's.

    The same seed gives the same numbers, though others on a GPU than on the CPU.
    """
    for other in others:
        other.manual_seed(seed)
    return default_generator().manual_seed(seed)


def seed() -> int:
    """Seed this thread's generator from the operating system and return the seed."""
    value = default_generator().seed()
    for other in others:
        other.manual_seed(value)
    return value


def initial_seed() -> int:
    """The seed of this thread's generator."""
    return default_generator().initial_seed()


def states() -> dict[str, np.ndarray]:
    """The states of this thread's generators, by the names of their devices."""
    found = {"cpu": default_generator().get_state()}
    for other in others:
        found |= other.states()
    return found


def set_states(states: dict[str, np.ndarray]) -> None:
    """Return this thread's generators to what `states` gave."""
    default_generator().set_state(states["cpu"])
    for other in others:
        other.set_states({name: state for name, state in states.items() if name != "cpu"})
