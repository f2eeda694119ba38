"""Random numbers of one logical shard, on the CPU and on its GPU. See Note [Logical shards].

Stage of the flow: beside `shards`. May import: `allgrad`; where the model is on a GPU, what needs
CuPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from allgrad.utils.data.streams import new_stream, use_stream


class ShardStream:
    """The streams of one seed; `use` goes on where it ended the last time.

    Args:
        seed: of the shard in this step.
        on_gpu: whether the current GPU's generator takes part.
    """

    def __init__(self, seed: int, on_gpu: bool) -> None:
        self._seed, self._on_gpu = seed, on_gpu
        self._numbers = new_stream(seed)
        self._state: np.ndarray | None = None  # of the GPU's, after the first use

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within the block, this thread's default generators draw from these streams."""
        with use_stream(self._numbers):
            if not self._on_gpu:
                yield
                return
            from allgrad.backend.cuda import random  # noqa: PLC0415 - needs CuPy

            generator = random.default_generator()
            before = generator.get_state()
            if self._state is None:
                generator.manual_seed(self._seed)
            else:
                generator.set_state(self._state)
            try:
                yield
            finally:
                self._state = generator.get_state()
                generator.set_state(before)
