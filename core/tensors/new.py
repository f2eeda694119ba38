"""Methods that make new tensors in the dtype of another one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, dtypes
from ..backend.arrays import owned
from .graph import TensorBase
from .values import array_of, shape_of


class NewMethods(TensorBase):
    """Methods of Tensor that make new ones, of its dtype unless told otherwise."""

    def _filled(
        self: Any, kind: str, shape: Any, dtype: Any, device: Any, requires_grad: bool, *value: Any
    ) -> Any:
        """A tensor by the array function `kind`, here unless `device` says otherwise."""
        with devices.at(self.device if device is None else device) as xp:
            array = getattr(xp, kind)(shape, *value, dtype=self._own(dtype))
        return self._new(array).requires_grad_(requires_grad)

    def _own(self, dtype: Any) -> np.dtype[Any]:
        return self._array.dtype if dtype is None else dtypes.to_numpy(dtype)

    def new_tensor(
        self: Any, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> Any:
        """A copy of `data` (numbers, nested lists, arrays, tensors)."""
        array = owned(array_of(data).astype(self._own(dtype), copy=False))
        array = devices.moved(array, self.device if device is None else device)
        return self._new(array).requires_grad_(requires_grad)

    def new_zeros(
        self,
        *sizes: Any,
        size: Any = None,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Any:
        """Zeros of a shape."""
        shape = shape_of("new_zeros", sizes, size)
        return self._filled("zeros", shape, dtype, device, requires_grad)

    def new_ones(
        self,
        *sizes: Any,
        size: Any = None,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Any:
        """Ones of a shape."""
        shape = shape_of("new_ones", sizes, size)
        return self._filled("ones", shape, dtype, device, requires_grad)

    def new_empty(
        self,
        *sizes: Any,
        size: Any = None,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Any:
        """Memory with arbitrary contents of a shape."""
        shape = shape_of("new_empty", sizes, size)
        return self._filled("empty", shape, dtype, device, requires_grad)

    def new_full(
        self,
        size: Any,
        fill_value: Any,
        *,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Any:
        """`fill_value` everywhere."""
        shape = shape_of("new_full", (tuple(size),))
        return self._filled("full", shape, dtype, device, requires_grad, fill_value)

    def new(self, *args: Any, device: Any = None) -> Any:
        """As the tensor's legacy type: a copy of one sequence, or memory of the given sizes."""
        if len(args) == 1 and not isinstance(args[0], int):
            return self.new_tensor(args[0], device=device)
        return self.new_empty(*(args or (0,)), device=device)
