"""The stand-in for libcudnn's recurrent layers, sequence after sequence in plain NumPy.

Its weight space has gaps, and the gates of `hh` lie apart: only what cudnnGetRNNWeightParams says
is to be relied on. The reserve space holds what the backward calls need; each may be made once.
"""

from __future__ import annotations

import ctypes
import itertools
from ctypes import c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

import numpy as np
from support.emulated_gpu import cudnn_module, device, streams
from support.emulated_gpu.numbers import BFLOAT16, at, read, write

SUCCESS, BAD_PARAM, NOT_SUPPORTED = 0, 2000, 3000
_DTYPES = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 9: BFLOAT16}
_CELLS = {0: "rnn_relu", 1: "rnn_tanh", 2: "lstm", 3: "gru"}
_GATES = {"rnn_relu": 1, "rnn_tanh": 1, "lstm": 4, "gru": 3}
_GAP = 64  # elements
_numbers = itertools.count(0xCD11_0000, 0x10)
descriptors: dict[int, dict[str, Any]] = {}
_FORWARD, _BACKWARD = 1.0, 2.0  # first number of the reserve space


def _create(target: int) -> int:
    number = next(_numbers)
    descriptors[number] = {}
    ctypes.c_void_p.from_address(target).value = number
    return SUCCESS


def _destroy(number: int) -> int:
    del descriptors[number]
    return SUCCESS


def _set_dropout(
    descriptor: int, handle: int, rate: float, states: int | None, size: int, seed: int
) -> int:
    descriptors[descriptor]["rate"] = rate
    return SUCCESS


def _set_rnn(
    descriptor: int, algo: int, cell: int, bias: int, direction: int, mode: int, dtype: int,
    precision: int, math: int, inputs: int, hidden: int, projected: int, layers: int,
    dropout: int, flags: int,
) -> int:  # fmt: skip
    if algo or direction or mode or flags or layers != 1 or projected != hidden:
        return NOT_SUPPORTED
    if precision != 0 or (dtype == 0 and math not in (0, 3)) or bias not in (0, 2):
        return NOT_SUPPORTED
    assert "rate" in descriptors[dropout]
    descriptors[descriptor].update(
        cell=_CELLS[cell], bias=bias == 2, dtype=_DTYPES[dtype], inputs=inputs, hidden=hidden
    )
    return SUCCESS


def _layout(rnn: dict[str, Any]) -> tuple[list[tuple[int, int]], int]:
    """((offset of the matrix, of the bias) of each of the 2 * gates products, elements in all)."""
    gates, hidden, inputs = _GATES[rnn["cell"]], rnn["hidden"], rnn["inputs"]
    first = _GAP
    matrices = [first + g * hidden * inputs for g in range(gates)]
    next_ = first + gates * hidden * inputs + _GAP
    matrices += [next_ + g * (hidden * hidden + _GAP) for g in range(gates)]
    next_ += gates * (hidden * hidden + _GAP)
    biases = [next_ + g * hidden for g in range(2 * gates)] if rnn["bias"] else [-1] * (2 * gates)
    return list(zip(matrices, biases, strict=True)), next_ + 2 * gates * hidden


def _weight_space(handle: int, descriptor: int, target: int) -> int:
    rnn = descriptors[descriptor]
    size = _layout(rnn)[1] * rnn["dtype"].itemsize
    ctypes.c_size_t.from_address(target).value = size
    return SUCCESS


def _weight_params(
    handle: int, descriptor: int, layer: int, size: int, space: int, number: int, matrix: int,
    matrix_at: int, vector: int, vector_at: int,
) -> int:  # fmt: skip
    rnn = descriptors[descriptor]
    places, _ = _layout(rnn)
    if layer or not 0 <= number < len(places):
        return BAD_PARAM
    itemsize = rnn["dtype"].itemsize
    offset, bias_at = places[number]
    ctypes.c_void_p.from_address(matrix_at).value = space + offset * itemsize
    ctypes.c_void_p.from_address(vector_at).value = (
        None if bias_at < 0 else space + bias_at * itemsize
    )
    return SUCCESS


def _set_data(
    descriptor: int, dtype: int, layout: int, longest: int, n: int, width: int, lengths: int,
    fill: int | None,
) -> int:  # fmt: skip
    found = list((ctypes.c_int * n).from_address(lengths))
    if layout != 1 or sorted(found, reverse=True) != found or found[-1] < 1 or found[0] != longest:
        return BAD_PARAM
    descriptors[descriptor].update(lengths=found, width=width, dtype=_DTYPES[dtype])
    return SUCCESS


def _set_tensor(descriptor: int, dtype: int, ndim: int, dims: int, strides: int) -> int:
    found = [tuple((ctypes.c_int * ndim).from_address(a)) for a in (dims, strides)]
    descriptors[descriptor].update(dims=found[0], strides=found[1], dtype=_DTYPES[dtype])
    return SUCCESS


def _temp_sizes(
    handle: int, descriptor: int, mode: int, x: int, workspace: int, reserve: int
) -> int:
    rnn, data = descriptors[descriptor], descriptors[x]
    rows, wide = sum(data["lengths"]), _GATES[rnn["cell"]] * rnn["hidden"]
    ctypes.c_size_t.from_address(workspace).value = 4096
    ctypes.c_size_t.from_address(reserve).value = 4 * (1 + rows * (rnn["inputs"] + 2 * wide))
    return SUCCESS


# -- what a cell computes, one sequence at a time -----------------------------------------------
def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


class _Cell:
    """Weights of one layer in float32."""

    def __init__(self, rnn: dict[str, Any], space: int) -> None:
        gates, hidden, inputs = _GATES[rnn["cell"]], rnn["hidden"], rnn["inputs"]
        dtype, (places, _) = rnn["dtype"], _layout(rnn)
        self.kind, self.gates = rnn["cell"], gates

        def piece(offset: int, dims: tuple[int, ...]) -> np.ndarray:
            if offset < 0:
                return np.zeros(dims, np.float32)
            strides = (dims[1], 1) if len(dims) == 2 else (1,)
            return read(space + offset * dtype.itemsize, dims, dtype, strides)

        self.w = [piece(m, (hidden, inputs)) for m, _ in places[:gates]]
        self.r = [piece(m, (hidden, hidden)) for m, _ in places[gates:]]
        self.bw = [piece(b, (hidden,)) for _, b in places[:gates]]
        self.br = [piece(b, (hidden,)) for _, b in places[gates:]]

    def step(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> dict[str, Any]:
        """Everything that one step of one sequence computes."""
        a = [w @ x + b for w, b in zip(self.w, self.bw, strict=True)]
        u = [r @ h + b for r, b in zip(self.r, self.br, strict=True)]
        if self.kind == "lstm":
            i, f, g, o = (
                _sigmoid(a[0] + u[0]), _sigmoid(a[1] + u[1]), np.tanh(a[2] + u[2]),
                _sigmoid(a[3] + u[3]),
            )  # fmt: skip
            new = f * c + i * g
            return {"g": (i, f, g, o), "c": new, "h": o * np.tanh(new), "x": x, "h0": h, "c0": c}
        if self.kind == "gru":
            r, z = _sigmoid(a[0] + u[0]), _sigmoid(a[1] + u[1])
            n = np.tanh(a[2] + r * u[2])
            return {"g": (r, z, n, u[2]), "c": None, "h": (1 - z) * n + z * h, "x": x, "h0": h}
        v = a[0] + u[0]
        y = np.tanh(v) if self.kind == "rnn_tanh" else np.maximum(v, 0)
        return {"g": (y,), "c": None, "h": y, "x": x, "h0": h}

    def back(self, s: dict[str, Any], dh: np.ndarray, dc: Any) -> tuple[Any, Any, Any, Any]:
        """(gradients before the gates from x, and from h, of h0 past the gates, of c0)."""
        if self.kind == "lstm":
            i, f, g, o = s["g"]
            t = np.tanh(s["c"])
            dc = dc + dh * o * (1 - t**2)
            d = [dc * g * i * (1 - i), dc * s["c0"] * f * (1 - f), dc * i * (1 - g**2)]
            d.append(dh * t * o * (1 - o))
            return d, d, 0, dc * f
        if self.kind == "gru":
            r, z, n, un = s["g"]
            dn = dh * (1 - z) * (1 - n**2)
            dz = dh * (s["h0"] - n) * z * (1 - z)
            dr = dn * un * r * (1 - r)
            return [dr, dz, dn], [dr, dz, dn * r], dh * z, None
        (y,) = s["g"]
        d = [dh * (1 - y**2) if self.kind == "rnn_tanh" else dh * (y > 0)]
        return d, d, 0, None


def _rows(lengths: list[int]) -> list[list[int]]:
    """The packed rows of each sequence."""
    starts, row = [], 0
    for t in range(lengths[0]):
        starts.append(row)
        row += sum(length > t for length in lengths)
    return [[starts[t] + i for t in range(length)] for i, length in enumerate(lengths)]


class _Call:
    """What the three calls share: arrays by address."""

    def __init__(self, handle: int, rnn: int, data: int) -> None:
        self.rnn, self.lengths = descriptors[rnn], descriptors[data]["lengths"]
        self.dtype, self.n = self.rnn["dtype"], len(self.lengths)
        self.total = sum(self.lengths)
        self.hidden, self.inputs = self.rnn["hidden"], self.rnn["inputs"]
        self.wide = _GATES[self.rnn["cell"]] * self.hidden
        self.stream = streams.by_pointer(cudnn_module.handles[handle]["stream"])

    def get(self, ptr: int | None, rows: int, width: int) -> np.ndarray:
        if ptr is None:
            return np.zeros((rows, width), np.float32)
        return read(ptr, (rows, width), self.dtype, (width, 1))

    def put(self, ptr: int, values: np.ndarray) -> None:
        write(ptr, values, self.dtype, (values.shape[1], 1))

    def place(self, ptr: int | None, rows: int, width: int) -> list[tuple[int, int]]:
        return [] if ptr is None else [(ptr, rows * width * self.dtype.itemsize)]

    def reserve(self, ptr: int) -> np.ndarray:
        count = 1 + self.total * (self.inputs + 2 * self.wide)
        return at(ptr, (count,), np.float32, (1,))

    def unroll(self, cell: _Cell, x: np.ndarray, h0: np.ndarray, c0: np.ndarray) -> list[Any]:
        """All steps of all sequences."""
        found = []
        for i, rows in enumerate(_rows(self.lengths)):
            h, c, steps = h0[i], c0[i], []
            for row in rows:
                steps.append(cell.step(x[row], h, c))
                h, c = steps[-1]["h"], steps[-1]["c"]
            found.append((rows, steps))
        return found


def _forward(
    handle: int, rnn: int, mode: int, lengths: int | None, x_desc: int, x: int, y_desc: int, y: int,
    h_desc: int, hx: int | None, hy: int | None, c_desc: int, cx: int | None, cy: int | None,
    weight_bytes: int, weights: int, work_bytes: int, work: int, reserve_bytes: int, reserve: int,
) -> int:  # fmt: skip
    call = _Call(handle, rnn, x_desc)
    if mode != 1 or lengths is not None:
        return NOT_SUPPORTED
    if descriptors[h_desc]["dims"] != (1, call.n, call.hidden):
        return BAD_PARAM
    assert weight_bytes == _layout(call.rnn)[1] * call.dtype.itemsize
    n, hidden = call.n, call.hidden

    def action() -> None:
        source = call.get(x, call.total, call.inputs)
        h0, c0 = call.get(hx, n, hidden), call.get(cx, n, hidden)
        out, h, c = np.zeros((call.total, hidden), np.float32), h0.copy(), c0.copy()
        for i, (rows, steps) in enumerate(call.unroll(_Cell(call.rnn, weights), source, h0, c0)):
            for row, step in zip(rows, steps, strict=True):
                out[row] = step["h"]
            h[i], c[i] = steps[-1]["h"], 0 if steps[-1]["c"] is None else steps[-1]["c"]
        call.put(y, out)
        if hy is not None:
            call.put(hy, h)
        if cy is not None:
            call.put(cy, c)
        held = call.reserve(reserve)
        held[0], held[1 : 1 + source.size] = _FORWARD, source.ravel()
        at(work, (work_bytes,), np.uint8, (1,))[...] = 0xFF

    states = call.place(hx, n, hidden) + call.place(cx, n, hidden)
    written = call.place(hy, n, hidden) + call.place(cy, n, hidden)
    device.launch(
        "cudnnRNNForward", action,
        [*call.place(x, call.total, call.inputs), *states, (weights, weight_bytes)],
        [*call.place(y, call.total, hidden), *written, (work, work_bytes),
         (reserve, reserve_bytes)],
        call.stream,
    )  # fmt: skip
    return SUCCESS


def _backward_data(
    handle: int, rnn: int, lengths: int | None, y_desc: int, y: int, dy: int, x_desc: int, dx: int,
    h_desc: int, hx: int | None, dhy: int | None, dhx: int | None, c_desc: int, cx: int | None,
    dcy: int | None, dcx: int | None, weight_bytes: int, weights: int, work_bytes: int, work: int,
    reserve_bytes: int, reserve: int,
) -> int:  # fmt: skip
    call = _Call(handle, rnn, x_desc)
    n, hidden = call.n, call.hidden

    def action() -> None:
        held = call.reserve(reserve)
        assert held[0] == _FORWARD, "the reserve space is not a forward pass's"
        size = call.total * call.inputs
        source = held[1 : 1 + size].reshape(call.total, call.inputs).copy()
        h0, c0 = call.get(hx, n, hidden), call.get(cx, n, hidden)
        cell, grad = _Cell(call.rnn, weights), call.get(dy, call.total, hidden)
        dh_all, dc_all = call.get(dhy, n, hidden), call.get(dcy, n, hidden)
        to_x = np.zeros((call.total, call.wide), np.float32)
        to_h, dx_all = to_x.copy(), np.zeros((call.total, call.inputs), np.float32)
        for i, (rows, steps) in enumerate(call.unroll(cell, source, h0, c0)):
            dh, dc = dh_all[i], dc_all[i]
            for row, step in zip(reversed(rows), reversed(steps), strict=True):
                from_x, from_h, past, dc_before = cell.back(step, dh + grad[row], dc)
                dh = past + sum(r.T @ d for r, d in zip(cell.r, from_h, strict=True))
                dc = dc if dc_before is None else dc_before
                dx_all[row] = sum(w.T @ d for w, d in zip(cell.w, from_x, strict=True))
                to_x[row], to_h[row] = np.concatenate(from_x), np.concatenate(from_h)
            dh_all[i], dc_all[i] = dh, dc
        call.put(dx, dx_all)
        for ptr, values in ((dhx, dh_all), (dcx, dc_all)):
            if ptr is not None:
                call.put(ptr, values)
        held[0] = _BACKWARD
        held[1 + size :] = np.concatenate([to_x.ravel(), to_h.ravel()])

    states = [p for a in (hx, dhy, cx, dcy) for p in call.place(a, n, hidden)]
    written = [p for a in (dhx, dcx) for p in call.place(a, n, hidden)]
    device.launch(
        "cudnnRNNBackwardData", action,
        [*call.place(y, call.total, hidden), *call.place(dy, call.total, hidden), *states,
         (weights, weight_bytes)],
        [*call.place(dx, call.total, call.inputs), *written, (work, work_bytes),
         (reserve, reserve_bytes)],
        call.stream,
    )  # fmt: skip
    return SUCCESS


def _backward_weights(
    handle: int, rnn: int, add: int, lengths: int | None, x_desc: int, x: int, h_desc: int,
    hx: int | None, y_desc: int, y: int, weight_bytes: int, dweights: int, work_bytes: int,
    work: int, reserve_bytes: int, reserve: int,
) -> int:  # fmt: skip
    call = _Call(handle, rnn, x_desc)
    if add != 0:
        return NOT_SUPPORTED
    n, hidden, gates = call.n, call.hidden, _GATES[call.rnn["cell"]]

    def action() -> None:
        held = call.reserve(reserve)
        assert held[0] == _BACKWARD, "cudnnRNNBackwardData has not been called"
        source, out = call.get(x, call.total, call.inputs), call.get(y, call.total, hidden)
        h0, before = call.get(hx, n, hidden), np.zeros((call.total, hidden), np.float32)
        for i, rows in enumerate(_rows(call.lengths)):
            for row, last in zip(rows, [None, *rows], strict=False):
                before[row] = h0[i] if last is None else out[last]
        size = call.total * call.inputs
        both = held[1 + size :].reshape(2, call.total, gates, hidden)
        places, _ = _layout(call.rnn)
        for number, (matrix_at, bias_at) in enumerate(places):
            grads = both[number // gates, :, number % gates]
            share = grads.T @ (source if number < gates else before)
            _add(call, dweights, matrix_at, share)
            if bias_at >= 0:
                _add(call, dweights, bias_at, grads.sum(axis=0)[None])

    device.launch(
        "cudnnRNNBackwardWeights", action,
        [*call.place(x, call.total, call.inputs), *call.place(hx, n, hidden),
         *call.place(y, call.total, hidden), (reserve, reserve_bytes)],
        [(dweights, weight_bytes), (work, work_bytes)], call.stream,
    )  # fmt: skip
    return SUCCESS


def _add(call: _Call, space: int, offset: int, share: np.ndarray) -> None:
    ptr = space + offset * call.dtype.itemsize
    call.put(ptr, call.get(ptr, *share.shape) + share)


_P = c_void_p
# As cudnn_adv.h and cudnn_ops.h declare them.
FUNCTIONS: dict[str, Any] = {
    "cudnnCreateDropoutDescriptor": ((_P,), _create),
    "cudnnSetDropoutDescriptor": ((_P, _P, c_float, _P, c_size_t, c_ulonglong), _set_dropout),
    "cudnnCreateRNNDescriptor": ((_P,), _create),
    "cudnnSetRNNDescriptor_v8": ((_P, *(c_int,) * 12, _P, c_uint), _set_rnn),
    "cudnnGetRNNWeightSpaceSize": ((_P, _P, _P), _weight_space),
    "cudnnGetRNNWeightParams": (
        (_P, _P, c_int, c_size_t, _P, c_int, _P, _P, _P, _P), _weight_params
    ),
    "cudnnCreateRNNDataDescriptor": ((_P,), _create),
    "cudnnDestroyRNNDataDescriptor": ((_P,), _destroy),
    "cudnnSetRNNDataDescriptor": ((_P, c_int, c_int, c_int, c_int, c_int, _P, _P), _set_data),
    "cudnnCreateTensorDescriptor": ((_P,), _create),
    "cudnnDestroyTensorDescriptor": ((_P,), _destroy),
    "cudnnSetTensorNdDescriptor": ((_P, c_int, c_int, _P, _P), _set_tensor),
    "cudnnGetRNNTempSpaceSizes": ((_P, _P, c_int, _P, _P, _P), _temp_sizes),
    "cudnnRNNForward": (
        (_P, _P, c_int, *(_P,) * 11, c_size_t, _P, c_size_t, _P, c_size_t, _P), _forward
    ),
    "cudnnRNNBackwardData_v8": (
        (*(_P,) * 16, c_size_t, _P, c_size_t, _P, c_size_t, _P), _backward_data
    ),
    "cudnnRNNBackwardWeights_v8": (
        (_P, _P, c_int, *(_P,) * 7, c_size_t, _P, c_size_t, _P, c_size_t, _P), _backward_weights
    ),
}  # fmt: skip
