"""The Tensor: a NumPy array, its place in the graph, and the rules of aliasing.

May import: autograd, ops, backend, dtypes, errors. The methods that compute live in the mixins
beside this file (`arithmetic.py`, `reductions.py`, `shaping.py`, `indexing.py`).

Note [Layout]
Outputs of convolutions, pools and norms are channels-last in memory while their logical shape
stays (N, C, H, W). This is ours and invisible: before anything that could reveal it (a view,
`numpy()`, `data_ptr`, saving) the tensor's own memory is replaced by a contiguous copy. So the
invariant is: an array that is not C-contiguous belongs either to one tensor alone, or to a view
that the user asked for.

Note [Pending outputs]
The output of an op that can absorb a following ReLU (convolution, linear, batch norm, addition of
two activations) is computed only when someone looks at it; if the next op is a ReLU, one fused
kernel does both. Pending tensors have no attribute `_array` yet; reading it computes it. Anything
that could change the inputs of a pending op (in-place operations, `numpy()`, optimizer steps)
first computes all pending outputs of the thread: see `graph.py`. What a pending op will change, the
running statistics of a batch norm, waits with it: reading them makes it run. Memory that the user
holds as a NumPy array is never waited for. Asking for the gradient of a pending tensor whose ReLU
was absorbed leads the gradient through it again.

Note [Versions]
Tensors that share memory share one version counter, a list with one integer. In-place operations
count it up; ops remember the version of what they saved and refuse to use a changed one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes
from ..autograd.mode import mode
from ..backend.arrays import address_of, as_array, contiguous, on_device, owned
from ..errors import ArgumentError, GradientError, ShapeError
from ..ops.base import Op
from . import formatting, graph
from .arithmetic import ArithmeticMethods
from .axes import AxesMethods
from .complex_numbers import ComplexMethods
from .conversion import CastMethods, ConversionMethods
from .distinct import DistinctMethods
from .dlpack import DlpackMethods
from .filling import FillingMethods
from .gradients import GradientMethods
from .indexing import IndexingMethods
from .layouts import LayoutMethods
from .logic import LogicMethods
from .masking import MaskingMethods
from .matrices import MatrixMethods
from .moving import MovingMethods
from .mutating import InPlaceMethods
from .new import NewMethods
from .pairs import PairMethods
from .products import ProductMethods
from .reductions import ReductionMethods, axis_of
from .sampling import SamplingMethods
from .scans import ScanMethods
from .scatter import ScatterMethods
from .shaping import ShapingMethods
from .size import Size
from .sorting import SortingMethods
from .splitting import SplittingMethods
from .statistics import StatisticsMethods
from .unary import UnaryMethods
from .values import legacy_array
from .windows import WindowMethods

_blank = object.__new__


class Tensor(
    GradientMethods,
    ArithmeticMethods,
    UnaryMethods,
    PairMethods,
    InPlaceMethods,
    LogicMethods,
    ProductMethods,
    MatrixMethods,
    ReductionMethods,
    ScanMethods,
    SortingMethods,
    DistinctMethods,
    StatisticsMethods,
    ComplexMethods,
    SamplingMethods,
    LayoutMethods,
    ShapingMethods,
    AxesMethods,
    WindowMethods,
    SplittingMethods,
    MovingMethods,
    ConversionMethods,
    DlpackMethods,
    CastMethods,
    IndexingMethods,
    ScatterMethods,
    MaskingMethods,
    FillingMethods,
    NewMethods,
):
    """A multi-dimensional array that can be differentiated, with PyTorch's interface.

    Args:
        args: a NumPy array, wrapped without a copy (PyTorch copies it to float32). Or as in
            PyTorch: sizes, for memory with arbitrary contents; or one sequence of numbers; both
            give the default dtype. Users rather make tensors with `allgrad.tensor`,
            `allgrad.from_numpy`, `allgrad.zeros` and so on.
        requires_grad: whether `backward` shall compute a gradient for this tensor.

    >>> Tensor([1, 2]), Tensor(2, 3).shape
    (tensor([1., 2.]), allgrad.Size([2, 3]))
    """

    is_leaf_node = True
    __array_priority__ = 1000  # NumPy's binary operators give way to ours

    def __init__(self, *args: Any, requires_grad: bool = False) -> None:
        if args and (isinstance(args[0], np.ndarray | np.generic) or on_device(args[0])):
            array = args[0]
            self._array = array if type(array) is np.ndarray else as_array(array)
            requires_grad = requires_grad or (len(args) > 1 and args[1])
        else:
            self._array = legacy_array(args)
        self._version = graph.Untracked((0,)) if mode.inference else [0]
        if requires_grad:
            self.requires_grad = True

    def __getattr__(self, name: str) -> Any:
        # Reached only for attributes that are not set; see Note [Pending outputs].
        if name == "_array":
            if self._pending is not None:
                graph.compute(self)
                return self.__dict__["_array"]
            if self._owed is not None:
                graph.settle(self)
                return self.__dict__["_array"]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # -- description ---------------------------------------------------------------------------
    @property
    def shape(self) -> Size:
        """Sizes of the dimensions."""
        return Size(self._array.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of dimension `dim`."""
        if dim is None:
            return self.shape
        return self._array.shape[axis_of(dim, self._array.ndim, "size")]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    def dim(self) -> int:
        """Number of dimensions."""
        return self._array.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._array.size

    nelement = numel
    ndimension = dim

    @property
    def dtype(self) -> dtypes.dtype:
        """Type of the elements."""
        return dtypes.from_numpy(self._array.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self._array.itemsize

    def element_size(self) -> int:
        """Bytes per element."""
        return self._array.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._array.nbytes

    @property
    def is_leaf(self) -> bool:
        """True when no recorded operation made this tensor."""
        return graph.node_of(self) is None

    @property
    def grad_fn(self) -> Op | None:
        """The operation that made this tensor, or None for a leaf."""
        return graph.node_of(self)

    def stride(self, dim: int | None = None) -> Any:
        """Steps, in elements, between neighbours along each dimension (or along `dim`)."""
        array = self._canonical()
        strides = tuple(s // array.itemsize for s in array.strides)
        return strides if dim is None else strides[axis_of(dim, array.ndim, "stride")]

    def data_ptr(self) -> int:
        """Address of the first element."""
        return address_of(self._canonical())

    def __len__(self) -> int:
        if self._array.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self._array)

    def __iter__(self) -> Iterator[Tensor]:
        if self._array.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(len(self._array))])

    def __repr__(self) -> str:
        return formatting.tensor_text(self)

    def __format__(self, spec: str) -> str:
        if spec and self.ndim:
            raise TypeError(
                f"format: {spec!r} is for one number, this tensor has shape {tuple(self.shape)}"
            )
        return format(self.item(), spec) if self.ndim == 0 else repr(self)

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, Tensor | bool | int | float | complex | np.generic):
            raise ShapeError(f"in: expected a tensor or a number, came {type(element).__name__}")
        return bool((self == element).any())

    def __complex__(self) -> complex:
        return complex(self.item())

    @staticmethod
    def _new(array: np.ndarray) -> Tensor:
        out = _blank(Tensor)  # without __init__: this runs once per op
        out._array = array if type(array) is np.ndarray else as_array(array)
        out._version = [0]
        return out

    @staticmethod
    def _new_pending() -> Tensor:
        out = Tensor.__new__(Tensor)
        out._version = [0]
        return out

    # -- out of the graph ------------------------------------------------------------------------
    def _canonical(self) -> np.ndarray:
        """The array, made contiguous first if its layout is our own choice (Note [Layout])."""
        array = self._array
        if not array.flags.c_contiguous and self._base is None and not self._exposed:
            self._array = array = contiguous(array)
        return array

    def _bump_version(self) -> None:
        """Note that the memory was changed in place."""
        self._version[0] += 1

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The values as a NumPy array that shares this tensor's memory.

        Args:
            force: give a copy where that is needed: ``t.detach().cpu().numpy()``.

        Raises:
            RuntimeError: the tensor requires grad and `force` is not set.
            TypeError: the tensor is on a GPU and `force` is not set.
        """
        if self.requires_grad and not force:
            raise GradientError(
                "numpy(): this tensor requires grad, so changes of the array would go unnoticed. "
                "Use tensor.detach().numpy()."
            )
        if on_device(self._array):
            if not force:
                raise TypeError(
                    f"can't convert {self.device} device type tensor to numpy. Use tensor.cpu() to "
                    "copy the tensor to main memory first."
                )
            return self.detach().cpu().numpy()
        graph.compute_all()
        array = self._canonical()
        t: Any = self
        while t is not None:
            t._exposed, t = True, t._base
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy and not self.requires_grad and not on_device(self._array):
            return np.array(self.detach()._array, dtype=dtype)
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def item(self) -> Any:
        """The value of a one-element tensor as a Python number.

        Raises:
            RuntimeError: the tensor has more than one element.
        """
        if self._array.size != 1:
            raise ArgumentError(
                f"item(): expected a tensor with one element, came shape {tuple(self.shape)}"
            )
        return self._array.item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self._array.tolist()

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise ShapeError(
                "the truth value of a tensor is clear for one element only, came shape "
                f"{tuple(self.shape)}; use .any() or .all()"
            )
        return bool(self._array.item())

    def __index__(self) -> int:
        if self._array.dtype.kind not in "iub":
            raise TypeError("only integer tensors of one element can be used as an index")
        return int(self.item())

    def detach(self) -> Tensor:
        """The same memory, outside the graph."""
        graph.compute_all()
        out = Tensor(self._canonical())
        out._version = self._version
        out._base = self if self._base is None else self._base
        out._exposed = self._exposed
        return out

    @property
    def data(self) -> Tensor:
        """The same memory, outside the graph; changes of it are not tracked."""
        out = self.detach()
        out._version = [0]
        return out

    @data.setter
    def data(self, value: Tensor) -> None:
        graph.compute_all()
        self._canonical()  # run what would still change the old memory
        self._array = value._canonical()
        self._version = value._version

    def detach_(self) -> Tensor:
        """Leave the graph: become a leaf that requires no gradient."""
        self._node, self._requires_grad = None, False
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise GradientError(
                "deepcopy: only leaf tensors can be copied, this one was computed; use "
                "detach().clone()"
            )
        graph.compute_all()
        out = type(self).__new__(type(self))
        memo[id(self)] = out
        out._array, out._version = owned(self._canonical()), [0]
        out._requires_grad = self._requires_grad
        if self._grad is not None:
            out._grad = copy.deepcopy(self._grad, memo)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        if self._node is not None:
            raise GradientError("pickle: only leaf tensors can be pickled; use detach()")
        graph.compute_all()
        return _unpickled, (type(self), self._canonical(), self._requires_grad)


def _unpickled(kind: type[Tensor], array: np.ndarray, requires_grad: bool) -> Tensor:
    out = kind.__new__(kind)
    Tensor.__init__(out, array, requires_grad)
    return out


class Parameter(Tensor):
    """A tensor that a Module registers as its parameter.

    Args:
        data: the values; the memory is shared.
        requires_grad: whether it is trained.
    """

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__(data._canonical(), requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def is_tensor(value: Any) -> bool:
    """True for tensors."""
    return isinstance(value, Tensor)
