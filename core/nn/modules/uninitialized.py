"""Parameters and buffers whose shape is not known yet, for lazy modules."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import dtypes
from ...devices import at, device, require
from ...errors import ArgumentError
from ...tensors import Parameter, Tensor
from ...tensors.conversion import target_of


class Uninitialized(Tensor):
    """A tensor without memory; `materialize` gives it a shape and makes it an ordinary one."""

    becomes: type[Tensor] = Tensor
    wanted: np.dtype[Any]
    place: device

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        self.place = require(device)
        self._version = [0]
        self._requires_grad = requires_grad
        self.wanted = dtypes.to_numpy(dtypes.get_default_dtype() if dtype is None else dtype)

    def __getattr__(self, name: str) -> Any:
        if name == "_array":
            raise ArgumentError(
                f"attempted to use an {type(self).__name__}, which has no shape yet. Run a batch "
                "through the lazy module (or load a state) before using its parameters"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def materialize(self, shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary tensor of this shape, with memory that is still to be filled.

        Args:
            shape: the sizes.
            device: where; by default the one that was asked for at the start.
            dtype: by default the one that was asked for at the start.
        """
        to = self.wanted if dtype is None else dtypes.to_numpy(dtype)
        place = self.place if device is None else require(device)
        object.__setattr__(self, "__class__", self.becomes)
        with at(place) as xp:
            self._array = xp.zeros(shape, to)

    @property
    def dtype(self) -> dtypes.dtype:
        return dtypes.from_numpy(self.wanted)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        target = target_of("to", args, kwargs)
        if target.dtype is not None:
            self.wanted = dtypes.to_numpy(target.dtype)
        self.place = target.device or self.place
        return self

    def detach(self) -> Tensor:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        out = type(self)(self._requires_grad, self.place, dtypes.from_numpy(self.wanted))
        memo[id(self)] = out
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._requires_grad, self.place, dtypes.from_numpy(self.wanted))


class UninitializedParameter(Uninitialized, Parameter):
    """A Parameter whose shape is not known yet.

    Args:
        requires_grad: whether it will be trained.
        dtype: of the parameter to be; the default dtype if not given.
    """

    becomes = Parameter


class UninitializedBuffer(Uninitialized):
    """A buffer whose shape is not known yet."""

    def __init__(self, requires_grad: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__(requires_grad, device, dtype)


def is_lazy(value: Any) -> bool:
    """Whether `value` is a parameter or buffer without a shape."""
    return isinstance(value, Uninitialized)
