"""Random numbers: one generator per thread, so that ranks run as threads draw independently.

Philox is used because its state is small and its stream does not depend on how often or in
which sizes numbers are drawn elsewhere.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import json
import os
import threading

import numpy as np

from .errors import CheckpointError


class Generator:
    """A stream of random numbers with a seed and a state that can be saved.

    Args:
        seed: any non-negative integer below 2**64; by default 67280421310721 as in PyTorch.

    >>> g = Generator(3)
    >>> state = g.get_state()
    >>> a = g.numpy.random(2)
    >>> g.set_state(state)
    >>> bool((g.numpy.random(2) == a).all())
    True
    """

    __slots__ = ("_seed", "numpy")

    def __init__(self, seed: int = 67280421310721) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`; returns self."""
        self._seed = int(seed)
        self.numpy = np.random.Generator(np.random.Philox(self._seed % 2**64))
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
        state = self.numpy.bit_generator.state
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
        self.numpy = np.random.Generator(bits)


class _Default(threading.local):
    generator: Generator | None = None


_default = _Default()


def default_generator() -> Generator:
    """The generator of this thread, used wherever none is given."""
    if _default.generator is None:  # made late: importing numpy.random takes 10 ms
        _default.generator = Generator()
    return _default.generator


def manual_seed(seed: int) -> Generator:
    """Seed this thread's generator; the same seed gives the same numbers. Returns it."""
    return default_generator().manual_seed(seed)


def seed() -> int:
    """Seed this thread's generator from the operating system and return the seed."""
    return default_generator().seed()


def initial_seed() -> int:
    """The seed of this thread's generator."""
    return default_generator().initial_seed()
