"""Recurrent layers on GPUs through cuDNN: LSTM, GRU, plain cells; one layer and direction a call.

The weights are packed into cuDNN's buffer once per forward pass, by one copy for each of the four
arrays; the backward pass uses the same buffer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy

from ...backends import cudnn as settings
from ...errors import Unsupported
from ..protocol_recurrent import Array, Dims, RecurrentGrads, RecurrentWeights
from . import cudnn_rnn
from .base import element_type, fast, require_elements
from .cudnn import address
from .cudnn_base import CudnnBase, aligned

_NAMES = ("ih", "hh", "bias_ih", "bias_hh")


class _Kept(NamedTuple):
    """What the backward pass needs."""

    layer: cudnn_rnn.Layer
    sequences: cudnn_rnn.Sequences
    x: Array
    h0: Array
    c0: Array | None
    y: Array
    space: Array
    reserve: Array


class CudaRecurrent(CudnnBase):
    """Kernels `recurrent_*` of the backend protocol."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: dict[Any, cudnn_rnn.Layer] = {}
        self._sequences: dict[Any, cudnn_rnn.Sequences] = {}

    @fast
    def recurrent_forward(
        self,
        cell: str,
        x: Array,
        h0: Array,
        c0: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
    ) -> tuple[Array, Array, Array | None, Any]:
        if weights.hr is not None:
            raise Unsupported("projection")
        io = element_type(x, h0, c0, *weights)
        require_elements(x, h0)
        batch_sizes = tuple(batch_sizes)
        if batch_sizes[0] != len(h0):
            raise Unsupported("a sequence without steps")
        layer, sequences = self._described(cell, io, x.shape[1], weights, batch_sizes)
        x, h0, c0 = aligned(x), aligned(h0), None if c0 is None else aligned(c0)
        y, h = cupy.empty((len(x), layer.hidden), x.dtype), cupy.empty(h0.shape, x.dtype)
        c = None if c0 is None else cupy.empty(c0.shape, x.dtype)
        space = self._packed(layer, weights)
        reserve = cupy.empty(max(sequences.reserve, 1), cupy.uint8)
        cudnn_rnn.forward(
            layer, sequences, address(space), self._scratch(sequences), address(reserve),
            address(x), address(y), (_address(h0), address(h), _address(c0), _address(c)),
        )  # fmt: skip
        return y, h, c, _Kept(layer, sequences, x, h0, c0, y, space, reserve)

    @fast
    def recurrent_backward(
        self,
        cell: str,
        grad_y: Array,
        grad_h: Array | None,
        grad_c: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
        saved: Any,
        with_x: bool = True,
    ) -> RecurrentGrads:
        if not isinstance(saved, _Kept):
            raise Unsupported("another kernel served the forward pass")
        element_type(grad_y, grad_h, grad_c, saved.x)
        k = saved
        grad_y = aligned(grad_y)
        grad_h, grad_c = (None if g is None else aligned(g) for g in (grad_h, grad_c))
        grad_x, grad_h0 = cupy.empty_like(k.x), cupy.empty_like(k.h0)
        grad_c0 = None if k.c0 is None else cupy.empty_like(k.c0)
        scratch = self._scratch(k.sequences)
        reserve = k.reserve.copy()  # cuDNN changes it, and the graph may be walked again
        cudnn_rnn.backward_data(
            k.layer, k.sequences, address(k.space), scratch, address(reserve),
            (address(k.y), address(grad_y)), address(grad_x),
            (address(k.h0), _address(grad_h), address(grad_h0)),
            (_address(k.c0), _address(grad_c), _address(grad_c0)),
        )  # fmt: skip
        space = cupy.zeros(k.space.shape, k.space.dtype)
        cudnn_rnn.backward_weights(
            k.layer, k.sequences, address(space), scratch, address(reserve), address(k.x),
            address(k.h0), address(k.y),
        )  # fmt: skip
        ih, hh, bias_ih, bias_hh = (self._unpacked(k, space, weights, n) for n in _NAMES)
        assert ih is not None
        assert hh is not None
        given_x = grad_x if with_x else None
        return RecurrentGrads(given_x, grad_h0, grad_c0, ih, hh, bias_ih, bias_hh, None)

    def _described(
        self, cell: str, io: str, inputs: int, weights: RecurrentWeights, batch_sizes: Dims
    ) -> tuple[cudnn_rnn.Layer, cudnn_rnn.Sequences]:
        """What cuDNN is told of the layer and of the lengths; kept for the next call."""
        cudnn = self.plans.cudnn
        cudnn.bind()
        kind = (
            cell, io, inputs, weights.hh.shape[1], weights.bias_ih is not None, settings.allow_tf32
        )  # fmt: skip
        layer = self._layers.get(kind)
        if layer is None:
            layer = self._layers[kind] = cudnn_rnn.Layer(cudnn.handle, *kind)
        found = self._sequences.get((kind, batch_sizes))
        if found is None:
            if len(self._sequences) > _MOST_SEQUENCES:
                self._sequences.clear()
            found = cudnn_rnn.Sequences(layer, batch_sizes, inputs)
            self._sequences[kind, batch_sizes] = found
        return layer, found

    def _scratch(self, sequences: cudnn_rnn.Sequences) -> int:
        cudnn = self.plans.cudnn
        return cudnn.workspace.at_least(sequences.workspace, cudnn.bind())

    def _packed(self, layer: cudnn_rnn.Layer, weights: RecurrentWeights) -> Array:
        """The weights in cuDNN's buffer."""
        dtype = weights.ih.dtype
        space = cupy.zeros(-(-layer.nbytes // dtype.itemsize), dtype)
        for name, pieces in layer.places.items():
            given, done = getattr(weights, name).reshape(-1), 0
            for offset, count in pieces:
                space[offset : offset + count] = given[done : done + count]
                done += count
        return space

    def _unpacked(
        self, k: _Kept, space: Array, weights: RecurrentWeights, name: str
    ) -> Array | None:
        """The gradient of one of the arrays of weights, in memory of its own."""
        like = getattr(weights, name)
        if like is None:
            return None
        grad, done = cupy.empty(like.shape, like.dtype), 0
        flat = grad.reshape(-1)
        for offset, count in k.layer.places[name]:
            flat[done : done + count] = space[offset : offset + count]
            done += count
        return grad


_MOST_SEQUENCES = 4096  # kinds of batches that are remembered


def _address(array: Array | None) -> int | None:
    return None if array is None else address(array)
