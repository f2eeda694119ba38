"""PyTorch's first constructors: ``FloatTensor([1, 2])``, ``LongTensor(3, 4)`` and so on."""

from __future__ import annotations

from typing import Any

from .. import dtypes
from .conversion import LEGACY_NAMES
from .tensor import Tensor
from .values import legacy_array

__all__ = [
    "BFloat16Tensor",
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
]


class TensorType:
    """A tensor type of old: makes tensors of one dtype, and knows them by ``isinstance``.

    Called with one sequence, array or tensor, it copies the values; called with integers (or one
    `Size`), it gives memory of these sizes with arbitrary contents.

    >>> LongTensor([1, 2]).dtype, FloatTensor(2, 3).shape
    (allgrad.int64, allgrad.Size([2, 3]))
    """

    def __init__(self, dtype_name: str) -> None:
        self._dtype_name = dtype_name
        self.__name__ = LEGACY_NAMES[dtype_name]

    @property
    def dtype(self) -> dtypes.dtype:
        """The dtype of its tensors."""
        return dtypes.from_name(self._dtype_name)

    def __call__(self, *args: Any) -> Tensor:
        return Tensor(legacy_array(args, self.dtype.numpy))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype is self.dtype

    def __repr__(self) -> str:
        return f"<class 'allgrad.{self.__name__}'>"


HalfTensor, BFloat16Tensor = TensorType("float16"), TensorType("bfloat16")
FloatTensor, DoubleTensor = TensorType("float32"), TensorType("float64")
ByteTensor, CharTensor, ShortTensor = TensorType("uint8"), TensorType("int8"), TensorType("int16")
IntTensor, LongTensor, BoolTensor = TensorType("int32"), TensorType("int64"), TensorType("bool")
