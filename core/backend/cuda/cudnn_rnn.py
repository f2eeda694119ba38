"""cuDNN's recurrent layers by its C interface, which the frontend does not wrap.

One layer in one direction; the rows of all sequences are packed (see Note [Packed rows] in
`reference/rnn.py`), which is one of cuDNN's own layouts. cuDNN keeps all weights of a layer in one
buffer and says where each gate's lie; gates come in PyTorch's order (LSTM i, f, g, o; GRU r, z, n).

Source: cuDNN's documentation of cudnnRNNForward and its relatives; cudnn_adv.h of cuDNN 9.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

import cupy

from ...errors import DeviceError, Unsupported
from ..protocol import Dims
from ..reference.rnn import GATES

_DTYPES = {"f4": 0, "f2": 2, "b2": 9}  # cudnnDataType_t
_CELLS = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}  # cudnnRNNMode_t
_STANDARD, _UNIDIRECTIONAL, _LINEAR_INPUT, _PACKED_ONLY = 0, 0, 0, 0
_NO_BIAS, _DOUBLE_BIAS = 0, 2
_DEFAULT_MATH, _TENSOR_OP_MATH, _FMA_MATH = 0, 1, 3
_SEQ_MAJOR_PACKED = 1
_TRAINING = 1
_WGRAD_ADD = 0

_P = c_void_p
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cudnnCreateDropoutDescriptor": (_P,),
    "cudnnSetDropoutDescriptor": (_P, _P, c_float, _P, c_size_t, c_ulonglong),
    "cudnnCreateRNNDescriptor": (_P,),
    "cudnnSetRNNDescriptor_v8": (
        _P, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, _P,
        c_uint,
    ),
    "cudnnGetRNNWeightSpaceSize": (_P, _P, _P),
    "cudnnGetRNNWeightParams": (_P, _P, c_int, c_size_t, _P, c_int, _P, _P, _P, _P),
    "cudnnCreateRNNDataDescriptor": (_P,),
    "cudnnSetRNNDataDescriptor": (_P, c_int, c_int, c_int, c_int, c_int, _P, _P),
    "cudnnDestroyRNNDataDescriptor": (_P,),
    "cudnnCreateTensorDescriptor": (_P,),
    "cudnnDestroyTensorDescriptor": (_P,),
    "cudnnSetTensorNdDescriptor": (_P, c_int, c_int, _P, _P),
    "cudnnGetRNNTempSpaceSizes": (_P, _P, c_int, _P, _P, _P),
    "cudnnRNNForward": (
        _P, _P, c_int, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, c_size_t, _P, c_size_t, _P,
        c_size_t, _P,
    ),
    "cudnnRNNBackwardData_v8": (
        _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, c_size_t, _P, c_size_t, _P,
        c_size_t, _P,
    ),
    "cudnnRNNBackwardWeights_v8": (
        _P, _P, c_int, _P, _P, _P, _P, _P, _P, _P, c_size_t, _P, c_size_t, _P, c_size_t, _P,
    ),
}  # fmt: skip

_loaded: list[Any] = []


def library() -> Any:
    """The C library; cudnn-frontend has loaded it from where it is installed.

    Raises:
        Unsupported: it is not there.
    """
    if not _loaded:
        try:
            found = ctypes.CDLL("libcudnn.so.9")
        except OSError as error:
            raise Unsupported(f"libcudnn.so.9 cannot be loaded ({error})") from error
        for name, arguments in _PROTOTYPES.items():
            getattr(found, name).argtypes = arguments
            getattr(found, name).restype = c_int
        _loaded.append(found)
    return _loaded[0]


def forget() -> None:
    """Open it anew at the next question (another one was installed in this process)."""
    _loaded.clear()


def call(name: str, *arguments: Any) -> None:
    """Call a function of the library.

    Raises:
        Unsupported: cuDNN does not have that.
        DeviceError: cuDNN reports an error.
    """
    status = getattr(library(), name)(*arguments)
    if 3000 <= status < 4000:  # CUDNN_STATUS_NOT_SUPPORTED and its kinds
        raise Unsupported(f"{name}: not supported (status {status})")
    if status:
        raise DeviceError(f"{name}: cuDNN's status {status}")


def _made(kind: str) -> int:
    """A new descriptor."""
    found = c_void_p()
    call(f"cudnnCreate{kind}", byref(found))
    return found.value or 0


class Layer:
    """One layer in one direction, whatever its sequences; its descriptors are never destroyed.

    Attributes:
        descriptor: cuDNN's.
        nbytes: of the buffer of its weights.
        places: (offset in elements, elements) of the gates of each of ih, hh, bias_ih, bias_hh;
            one for all gates where they lie one after another.
    """

    def __init__(
        self, handle: int, cell: str, io: str, inputs: int, hidden: int, bias: bool, tf32: bool
    ) -> None:
        self.handle, self.io, self.hidden = handle, io, hidden
        dropout = _made("DropoutDescriptor")
        call("cudnnSetDropoutDescriptor", dropout, handle, 0.0, None, 0, 0)
        self.descriptor = _made("RNNDescriptor")
        math = _TENSOR_OP_MATH if io != "f4" else _DEFAULT_MATH if tf32 else _FMA_MATH
        call(
            "cudnnSetRNNDescriptor_v8", self.descriptor, _STANDARD, _CELLS[cell],
            _DOUBLE_BIAS if bias else _NO_BIAS, _UNIDIRECTIONAL, _LINEAR_INPUT, _DTYPES[io],
            _DTYPES["f4"], math, inputs, hidden, hidden, 1, dropout, _PACKED_ONLY,
        )  # fmt: skip
        size = c_size_t()
        call("cudnnGetRNNWeightSpaceSize", handle, self.descriptor, byref(size))
        self.nbytes = size.value
        gates = GATES[cell]
        counts = {"ih": hidden * inputs, "hh": hidden * hidden}
        if bias:
            counts |= {"bias_ih": hidden, "bias_hh": hidden}
        found = self._offsets(gates, 4 if io == "f4" else 2)
        self.places = {name: _joined(found[name], n) for name, n in counts.items()}

    def _offsets(self, gates: int, itemsize: int) -> dict[str, list[int]]:
        """Where each gate's weights begin, in elements."""
        space = cupy.empty(max(self.nbytes, 1), cupy.uint8)
        base = space.data.ptr
        matrix, vector = _made("TensorDescriptor"), _made("TensorDescriptor")
        found: dict[str, list[int]] = {"ih": [], "hh": [], "bias_ih": [], "bias_hh": []}
        for number in range(2 * gates):
            at, bias_at = c_void_p(), c_void_p()
            call(
                "cudnnGetRNNWeightParams", self.handle, self.descriptor, 0, self.nbytes, base,
                number, matrix, byref(at), vector, byref(bias_at),
            )  # fmt: skip
            which = "ih" if number < gates else "hh"
            found[which].append(((at.value or base) - base) // itemsize)
            found[f"bias_{which}"].append(((bias_at.value or base) - base) // itemsize)
        for descriptor in (matrix, vector):
            call("cudnnDestroyTensorDescriptor", descriptor)
        return found


def _joined(offsets: list[int], count: int) -> list[tuple[int, int]]:
    """(offset, elements) of neighbouring pieces of `count` elements, joined.

    >>> _joined([0, 6, 20], 6)
    [(0, 12), (20, 6)]
    """
    pieces: list[tuple[int, int]] = []
    for offset in offsets:
        if pieces and sum(pieces[-1]) == offset:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + count)
        else:
            pieces.append((offset, count))
    return pieces


class Sequences:
    """The lengths of a batch's sequences, as a layer is told of them.

    Attributes:
        x, y, h: descriptors of inputs, outputs and states.
        workspace, reserve: bytes of scratch, and of what the backward pass needs.
    """

    def __init__(self, layer: Layer, batch_sizes: Dims, inputs: int) -> None:
        n, dtype = batch_sizes[0], _DTYPES[layer.io]
        lengths = (c_int * n)(*(sum(count > i for count in batch_sizes) for i in range(n)))
        self.x, self.y = _made("RNNDataDescriptor"), _made("RNNDataDescriptor")
        for descriptor, width in ((self.x, inputs), (self.y, layer.hidden)):
            call(
                "cudnnSetRNNDataDescriptor", descriptor, dtype, _SEQ_MAJOR_PACKED,
                len(batch_sizes), n, width, ctypes.cast(lengths, c_void_p), None,
            )  # fmt: skip
        self.h = _made("TensorDescriptor")
        dims, strides = (
            (c_int * 3)(1, n, layer.hidden),
            (c_int * 3)(n * layer.hidden, layer.hidden, 1),
        )
        call(
            "cudnnSetTensorNdDescriptor", self.h, dtype, 3, ctypes.cast(dims, c_void_p),
            ctypes.cast(strides, c_void_p),
        )  # fmt: skip
        workspace, reserve = c_size_t(), c_size_t()
        call(
            "cudnnGetRNNTempSpaceSizes", layer.handle, layer.descriptor, _TRAINING, self.x,
            byref(workspace), byref(reserve),
        )  # fmt: skip
        self.workspace, self.reserve = workspace.value, reserve.value
        destroy = library()
        weakref.finalize(self, destroy.cudnnDestroyRNNDataDescriptor, self.x).atexit = False
        weakref.finalize(self, destroy.cudnnDestroyRNNDataDescriptor, self.y).atexit = False
        weakref.finalize(self, destroy.cudnnDestroyTensorDescriptor, self.h).atexit = False


def forward(
    layer: Layer, seq: Sequences, space: int, scratch: int, reserve: int, x: int, y: int,
    states: tuple[int | None, int, int | None, int | None],
) -> None:  # fmt: skip
    """Run a layer; all numbers are addresses.

    Args:
        space: the weights; scratch, reserve: see `Sequences`.
        states: h0, last h, c0, last c.
    """
    h0, h, c0, c = states
    call(
        "cudnnRNNForward", layer.handle, layer.descriptor, _TRAINING, None, seq.x, x, seq.y, y,
        seq.h, h0, h, seq.h, c0, c, layer.nbytes, space, seq.workspace, scratch, seq.reserve,
        reserve,
    )  # fmt: skip


def backward_data(
    layer: Layer, seq: Sequences, space: int, scratch: int, reserve: int, y: tuple[int, int],
    grad_x: int, h: tuple[int, int | None, int],
    c: tuple[int | None, int | None, int | None],
) -> None:  # fmt: skip
    """Gradients of x and of the initial states.

    Args:
        y: the result and its gradient.
        h, c: initial state, gradient of the last one, gradient of the initial one to be filled.
    """
    call(
        "cudnnRNNBackwardData_v8", layer.handle, layer.descriptor, None, seq.y, *y, seq.x, grad_x,
        seq.h, *h, seq.h, *c, layer.nbytes, space, seq.workspace, scratch, seq.reserve, reserve,
    )  # fmt: skip


def backward_weights(
    layer: Layer, seq: Sequences, grad_space: int, scratch: int, reserve: int, x: int, h0: int,
    y: int,
) -> None:  # fmt: skip
    """Add the gradients of the weights to those in `grad_space`; after `backward_data`."""
    call(
        "cudnnRNNBackwardWeights_v8", layer.handle, layer.descriptor, _WGRAD_ADD, None, seq.x, x,
        seq.h, h0, seq.y, y, layer.nbytes, grad_space, seq.workspace, scratch, seq.reserve, reserve,
    )  # fmt: skip
