"""`allgrad.cuda.capture`: a training step as one CUDA graph.

    step = allgrad.cuda.capture(train_step)
    for images, labels in loader:
        loss = step(images, labels)

The first calls run eagerly: they are steps like any other, and everything is set up in them. The
next one records the step, and from then on every call launches the recording: augmentation,
forward, loss, backward, all-reduce, clipping and optimizer with the host work of one launch. Eager
and captured steps compute the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..backend import arrays
from ..backend.cuda import availability
from ..errors import DeviceError
from ..tensors import Tensor
from .graphs import CUDAGraph, graph
from .info import driver

__all__ = ["CapturedStep", "capture"]

# Signatures of one step that are recorded; each holds the memory of a whole step.
_MOST_GRAPHS = 8


class _Recorded:
    """One recording of the step.

    Attributes:
        graph: what is launched.
        inputs: the tensors that the recording reads its arguments from.
        outputs: what the step returned, in which every launch leaves its results.
    """

    def __init__(self, graph: CUDAGraph, inputs: list[Tensor], outputs: Any) -> None:
        self.graph, self.inputs, self.outputs = graph, inputs, outputs


class CapturedStep:
    """A step function that records itself; made by `capture`.

    Attributes:
        replays: calls that launched a recording.
        eager_calls: calls that ran the function itself.
    """

    def __init__(self, function: Callable[..., Any], warmup: int, enabled: bool) -> None:
        functools.update_wrapper(self, function)
        self.__name__: str = getattr(function, "__name__", type(function).__name__)
        self._function, self._warmup, self._enabled = function, warmup, enabled
        self._recorded: dict[Any, _Recorded] = {}
        self._seen: dict[Any, int] = {}
        self.replays = self.eager_calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make one step.

        Args:
            args, kwargs: tensors in any nest of lists, tuples and dicts, from any device: a
                replay copies their values to where the recording reads them. Everything else is
                part of the recording; another value makes another one, as another shape does.

        Returns:
            What the function returns. Tensors in it are overwritten by the next call: ``clone()``
            what must last.

        Raises:
            RuntimeError: the step does something that cannot be recorded; the message says what.
        """
        if not self._enabled or not availability.in_use():
            return self._eagerly(args, kwargs)
        tensors: list[Tensor] = []
        key = _signature((args, kwargs), tensors)
        recorded = self._recorded.get(key)
        if recorded is None:
            count = self._seen.get(key, 0)
            if count < self._warmup:
                self._seen[key] = count + 1
                return self._eagerly(args, kwargs)
            recorded = self._record(key, args, kwargs)
        for place, value in zip(recorded.inputs, tensors, strict=True):
            if value is not place:
                place.copy_(value, non_blocking=True)
        recorded.graph.replay()
        self.replays += 1
        return recorded.outputs

    def _eagerly(self, args: Any, kwargs: Any) -> Any:
        self.eager_calls += 1
        _begin_step()
        return self._function(*args, **kwargs)

    def _record(self, key: Any, args: Any, kwargs: Any) -> _Recorded:
        if len(self._recorded) >= _MOST_GRAPHS:
            raise DeviceError(
                f"cuda.capture: {self.__name__} was called with more than {_MOST_GRAPHS} different "
                "shapes or values of its arguments, each of which would need a recording. Pad "
                "batches to one shape (drop_last=True), pass changing numbers as tensors, or use "
                "capture(step, enabled=False)"
            )
        inputs: list[Tensor] = []
        placed_args, placed_kwargs = _placed((args, kwargs), inputs)
        recording = CUDAGraph()
        with graph(recording):
            _begin_step()
            outputs = self._function(*placed_args, **placed_kwargs)
        found = self._recorded[key] = _Recorded(recording, inputs, outputs)
        return found

    def reset(self) -> None:
        """Forget all recordings; the next calls are eager and record anew.

        Needed when the step has changed: another model, other parameters trained, other memory.
        """
        driver("capture").synchronize()
        self._recorded.clear()
        self._seen.clear()

    def __repr__(self) -> str:
        return (
            f"<CapturedStep {self.__name__}: {self.eager_calls} eager calls, {self.replays} "
            f"replays of {len(self._recorded)} recordings>"
        )


def capture(
    step: Callable[..., Any] | None = None, *, warmup: int = 3, enabled: bool = True
) -> Any:
    """Let `step` be recorded as a CUDA graph and launched as one piece; also a decorator.

    Args:
        step: makes one training step. It may not look at values on the GPU (`item`, ``if loss >
            1``, printing): return tensors, and look at them outside. It shall do the same work in
            every call.
        warmup: calls of each signature that run eagerly before one is recorded; at least 1.
        enabled: False runs every call eagerly, for debugging and for comparison; so does a
            machine without a GPU.

    Returns:
        A `CapturedStep`, to be called as `step`.

    Raises:
        ValueError: `warmup` below 1: libraries and optimizers set themselves up in the first call.

    >>> import allgrad as ag
    >>> twice = ag.cuda.capture(lambda x: 2 * x)
    >>> twice(ag.ones(2))
    tensor([2., 2.])
    """
    if warmup < 1:
        raise ValueError(f"cuda.capture: expected a warmup of 1 or more, came {warmup}")
    if step is None:
        return functools.partial(capture, warmup=warmup, enabled=enabled)
    return CapturedStep(step, warmup, enabled)


def _begin_step() -> None:
    """Draw the random numbers of the next step from now on, eager and captured ones alike."""
    if availability.in_use():
        from ..backend.cuda import random  # noqa: PLC0415 - needs CuPy

        random.begin_step()


def _signature(nest: Any, tensors: list[Tensor]) -> Any:
    """What two calls must have in common for one recording; notes the tensors in order."""
    if isinstance(nest, Tensor):
        tensors.append(nest)
        array = nest._array
        return ("tensor", array.shape, array.dtype.str, array.dtype.name, nest._requires_grad)
    if isinstance(nest, tuple | list):
        return (type(nest).__name__, *(_signature(v, tensors) for v in nest))
    if isinstance(nest, dict):
        return ("dict", *((k, _signature(v, tensors)) for k, v in nest.items()))
    try:
        hash(nest)
    except TypeError:
        return (type(nest).__name__, id(nest))
    return (type(nest).__name__, nest)


def _placed(nest: Any, inputs: list[Tensor]) -> Any:
    """The same nest with tensors on the GPU that only the recording uses."""
    if isinstance(nest, Tensor):
        there = nest.detach()
        there = there.clone() if arrays.on_device(nest._array) else there.cuda()
        inputs.append(there)
        return there.requires_grad_(nest._requires_grad)
    if isinstance(nest, tuple):
        parts = [_placed(v, inputs) for v in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    if isinstance(nest, list):
        return [_placed(v, inputs) for v in nest]
    if isinstance(nest, dict):
        return {k: _placed(v, inputs) for k, v in nest.items()}
    return nest
