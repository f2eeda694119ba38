"""Random numbers on a GPU: by Philox, from a key that lies in device memory.

Note [Random numbers on a GPU]: a number depends on the seed, on a count of steps that the device
keeps, on which call within the step asks ("site", counted by the host) and on its place in the
result - on nothing else, neither on the size of a grid nor on what other calls draw. `begin_step`
raises the count of steps by a kernel and starts sites at 0 again. A captured graph that begins
with it therefore draws other numbers at every replay, and the same ones that the same calls draw
without capture. Nothing here waits for the device.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
"""

from __future__ import annotations

import math
import struct
import threading
from typing import Any

import cupy
import numpy as np

from ... import random
from ...errors import CheckpointError, DeviceError
from ..protocol import Array
from . import device
from .kernels import blocks, launch

_FORM = struct.Struct("<QQQ")  # seed, step, site
_THREADS = 256
_ONE_BLOCK, _ONE_WARP = (1,), (32,)


class Generator(random.Generator):
    """A stream of random numbers of one GPU; `on` makes it.

    Attributes:
        step: how often `begin_step` was called, as the device counts it.
        site: how many calls have drawn in this step.
    """

    __slots__ = ("_index", "_state", "site", "step")

    _index: int
    _state: Array
    site: int
    step: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `on` has made it, and ``random.Generator(device=...)`` comes by here, too."""

    @classmethod
    def on(cls, index: int, seed: int) -> Generator:
        """The stream of `seed`, below 2**64, on a GPU."""
        made: Generator = object.__new__(cls)
        made._index = index
        with device.At(index):
            made._state = cupy.empty(2, np.uint64)
        return made.manual_seed(seed)

    def _place(self) -> str:
        return f"cuda:{self._index}"

    @property  # type: ignore[misc]  # there is none to set
    def numpy(self) -> Any:
        """Refuses: NumPy's stream is the CPU's.

        Raises:
            DeviceError: always.
        """
        raise DeviceError(
            f"Expected a 'cpu' device type for generator but found 'cuda:{self._index}': these "
            "numbers are drawn in main memory. Pass Generator(), or draw on the GPU by device="
        )

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`; returns self."""
        self._write(int(seed) % 2**64, 0, 0)
        return self

    def get_state(self) -> np.ndarray:
        """Seed, step and site, as 24 bytes (three little-endian uint64)."""
        return np.frombuffer(_FORM.pack(self._seed, self.step, self.site), np.uint8).copy()

    def set_state(self, state: Any) -> None:
        """Return to what `get_state` gave.

        Raises:
            CheckpointError: something else.
        """
        raw = np.asarray(state)
        if raw.dtype != np.uint8 or raw.size != _FORM.size:
            raise CheckpointError(
                f"Generator.set_state: expected the {_FORM.size} bytes that get_state() of a GPU's "
                f"generator returned, came {raw.dtype} {raw.shape}"
            )
        seed, step, site = _FORM.unpack(raw.tobytes())
        if (seed, step) == (self._seed, self.step):
            self.site = site
        else:
            self._write(seed, step, site)

    def begin_step(self) -> None:
        """A new step: the numbers of all calls from here on are others. See the module."""
        with device.At(self._index):
            launch("random_begin", None, _ONE_BLOCK, _ONE_WARP, (self._state,))
        self.site = 0
        if device.capturing():
            device.keep(self._state)
            device.on_replay(self._count_step)
        else:
            self._count_step()

    def take(self) -> Key:
        """The key of the next call."""
        site = self.site
        self.site = site + 1
        return Key(self, self._seed, self.step, site)

    def _count_step(self) -> None:
        self.step += 1

    def _write(self, seed: int, step: int, site: int) -> None:
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a generator was seeded inside of the captured step, so every replay "
                "would draw the same numbers. Seed before capturing"
            )
        self._seed, self.step, self.site = seed, step, site
        self._store(self._state, seed, step)

    def _store(self, state: Array, seed: int, step: int) -> None:
        args = (state, np.uint64(seed), np.uint64(step))
        with device.At(self._index):
            launch("random_set", None, _ONE_BLOCK, _ONE_WARP, args)

    def state_of(self, key: Key) -> Array:
        """The device array {seed, step} for `key`: this generator's, unless it has gone on."""
        if (key.seed, key.step) == (self._seed, self.step):
            return self._state
        with device.At(self._index):
            state = cupy.empty(2, np.uint64)
        self._store(state, key.seed, key.step)
        return state

    # -- drawing ---------------------------------------------------------------------------------
    def _filled(self, name: str, dtype: Any, out: Array, per_thread: int, *middle: Any) -> Array:
        if out.size:
            key = self.take()
            tail = (*middle, self.state_of(key), np.uint32(key.site))
            grid = blocks(-(-out.size // per_thread), _THREADS)
            launch(name, dtype, grid, (_THREADS,), (out, np.int64(out.size), *tail))
        return out

    def uniform(self, shape: Any, dtype: Any = np.float32) -> Array:
        """Numbers in [0, 1): float32 of 24 random bits, float64 53, float16 11, bfloat16 8."""
        return self._floats("random_uniform", shape, np.dtype(dtype))

    def normal(self, shape: Any, dtype: Any = np.float32) -> Array:
        """Numbers of mean 0 and variance 1 (Box and Muller 1958)."""
        return self._floats("random_normal", shape, np.dtype(dtype))

    def _floats(self, name: str, shape: Any, dtype: np.dtype[Any]) -> Array:
        with device.At(self._index):
            if dtype != np.float64:
                return self._filled(name, dtype, cupy.empty(shape, dtype), 4)
            size = math.prod(shape)
            u = self._doubles(size)
            if name == "random_normal":
                radius = cupy.sqrt(-2 * cupy.log(1 - u))
                u = radius * cupy.cos((2 * math.pi) * self._doubles(size))
            return u.reshape(shape)

    def _doubles(self, size: int) -> Array:
        bits = self.bits(2 * size).reshape(size, 2)
        low, high = bits[:, 0] >> np.uint32(6), bits[:, 1] >> np.uint32(5)
        return (high.astype(np.float64) * 2.0**26 + low) * 2.0**-53

    def bits(self, size: int) -> Array:
        """`size` random uint32."""
        with device.At(self._index):
            return self._filled("random_bits", None, cupy.empty(size, np.uint32), 4)

    def integers(self, low: int, high: int, shape: Any) -> Array:
        """Whole numbers in [low, high), int64."""
        with device.At(self._index):
            out = cupy.empty(shape, np.int64)
            bounds = (np.int64(low), np.uint64(high - low))
            return self._filled("random_integers", None, out, 2, *bounds)

    def permutation(self, n: int) -> Array:
        """0 to n - 1 in random order, int64: the order of as many random 64-bit numbers.

        Raises:
            DeviceError: inside of a captured step; CuPy's sort cannot be captured.
        """
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a permutation was drawn inside of the captured step, and CuPy's "
                "sort cannot be captured. Draw it before the step"
            )
        with device.At(self._index):
            keys = self.bits(2 * n).view(np.uint64)
            return cupy.argsort(keys).astype(np.int64)


class Key:
    """Which numbers one call draws.

    Attributes:
        generator: whose they are.
        seed, step, site: see Note [Random numbers on a GPU]; `step` is the host's count, which
            stands still while a graph is captured.
    """

    __slots__ = ("generator", "seed", "site", "step")

    def __init__(self, generator: Generator, seed: int, step: int, site: int) -> None:
        self.generator, self.seed, self.step, self.site = generator, seed, step, site

    @property
    def state(self) -> Array:
        """The device array {seed, step} with which a kernel draws them."""
        return self.generator.state_of(self)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.generators: dict[int, Generator] = {}


_thread = _Thread()


def default_generator(index: int | None = None) -> Generator:
    """This thread's generator of a GPU (default: the current one).

    It starts with the seed of the thread's CPU generator, and `allgrad.manual_seed` seeds both.
    """
    number = device.current() if index is None else index
    found = _thread.generators.get(number)
    if found is None:
        seed = random.default_generator().initial_seed()
        found = _thread.generators[number] = Generator.on(number, seed)
    return found


def begin_step() -> None:
    """`Generator.begin_step` of this thread's generator of the current GPU."""
    default_generator().begin_step()


class _Others:
    """The generators of GPUs, as `allgrad.random` knows them."""

    def manual_seed(self, seed: int) -> None:
        for generator in _thread.generators.values():
            generator.manual_seed(seed)

    def states(self) -> dict[str, np.ndarray]:
        return {f"cuda:{i}": g.get_state() for i, g in sorted(_thread.generators.items())}

    def set_states(self, states: dict[str, np.ndarray]) -> None:
        for name, state in states.items():
            index = int(name.partition(":")[2])
            if index < device.count():
                default_generator(index).set_state(state)


random.others.append(_Others())
