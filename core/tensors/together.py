"""Tensors of several devices in one op: what PyTorch allows, and its error for the rest.

Nobody looks at devices beforehand, which would cost every op: arrays of different devices refuse
each other, and what is here is asked only then. May import: devices, ops, graph.
"""

from __future__ import annotations

from typing import Any

from .. import devices
from ..backend.arrays import is_array
from ..errors import DeviceError
from ..ops.transfer import Move
from .graph import TensorBase, apply


def together(name: str, inputs: Any, op: Any = None) -> tuple[Any, ...] | None:
    """The inputs of an op on one device, its numbers from main memory copied to the GPU.

    A tensor of the CPU without dimensions may stand beside those of a GPU; its gradient goes back.

    Args:
        name: of the op, for errors.
        op: it, if its own settings may be arrays.

    Returns:
        None: they are on one device; something else was refused.

    Raises:
        DeviceError: on several, some of the CPU's with dimensions.
    """
    arrays = [t._array for t in inputs if isinstance(t, TensorBase)]
    settings = [] if op is None else _settings(op)
    places = [devices.of(a) for a in (*arrays, *settings)]
    there = [p for p in places if p.type != "cpu"]
    if not there or all(p == there[0] for p in places):
        return None
    numbers = all(p == there[0] or not a.ndim for p, a in zip(places, arrays, strict=False))
    if numbers and all(p == there[0] for p in places[len(arrays) :]):
        return tuple(_moved(t, there[0]) for t in inputs)
    raise different(name, *inputs, settings=settings)


def _settings(op: Any) -> list[Any]:
    """Arrays that an op was made with: indices, factors of classes."""
    values = [v for k, v in vars(op).items() if k not in ("saved", "out")]
    for v in [v for v in values if type(v) is tuple]:
        values.extend(v)
    return [v for v in values if is_array(v)]


def _moved(value: Any, target: devices.device) -> Any:
    if not isinstance(value, TensorBase) or devices.of(value._array) == target:
        return value
    return apply(Move(target), value)


def different(name: str, *inputs: Any, settings: Any = ()) -> DeviceError:
    """The error for inputs on several devices, naming them all."""
    what = [
        *((f"input {i}", t._array) for i, t in enumerate(inputs) if isinstance(t, TensorBase)),
        *(("an index or weight", a) for a in settings),
    ]
    found = [(name, tuple(a.shape), str(devices.of(a))) for name, a in what]
    names = sorted({place for _, _, place in found}, reverse=True)  # PyTorch's "cuda:0 and cpu"
    where = ", ".join(f"{name} of shape {shape} on {place}" for name, shape, place in found)
    return DeviceError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{names[0]} and {names[1]}! ({name}: {where}.) Move them to one, e.g. by "
        f".to({names[0]!r}) for data, models by model.to({names[0]!r})"
    )
