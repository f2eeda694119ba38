"""The second-order rule of recurrent layers: their steps, composed of differentiable functions."""

from __future__ import annotations

from typing import Any

from ...ops.rnn import Recurrent, mirrored
from .. import joining
from . import Rule
from .composition import gradients_of
from .node import Node


def _recurrent(node: Node, grad: Any) -> tuple[Any, ...]:
    op = node.op
    x, _, h0, c0, *weights, _ = node.saved
    inputs = [node.input(i, a) for i, a in enumerate((x, h0, c0, *weights))]
    return gradients_of(lambda *values: _layer(op, *values), inputs, list(grad))


def _layer(op: Any, x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, *more: Any) -> tuple[Any, ...]:
    """What the op computes: (y, last h) or (y, last h, last c)."""
    b_ih, b_hh, w_hr = more
    packed = op.batch_sizes is not None
    if op.reverse:
        x = x[x._new(mirrored(op.steps))] if packed else x.flip(0)
    rows = x if packed else x.reshape(-1, x.shape[-1])
    start, outputs = 0, []
    for count in op.steps:
        from_x = _affine(rows[start : start + count], w_ih, b_ih)
        from_h = _affine(h[:count], w_hh, b_hh)
        if op.cell == "lstm":
            out, cell = _lstm(from_x + from_h, c[:count])
            c = _updated(c, cell)
        elif op.cell == "gru":
            out = _gru(from_x, from_h, h[:count])
        else:
            total = from_x + from_h
            out = total.tanh() if op.cell == "rnn_tanh" else total.relu()
        if w_hr is not None:
            out = out @ w_hr.t()
        h = _updated(h, out)
        outputs.append(out)
        start += count
    y = joining.cat(outputs) if packed else joining.stack(outputs)
    if op.reverse:
        y = y[y._new(mirrored(op.steps))] if packed else y.flip(0)
    return (y, h) if c is None else (y, h, c)


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    y = x @ weight.t()
    return y if bias is None else y + bias


def _updated(state: Any, part: Any) -> Any:
    """The state whose first rows are `part`: shorter sequences keep what they end with."""
    count = part.shape[0]
    return part if count == state.shape[0] else joining.cat([part, state[count:]])


def _lstm(gates: Any, c: Any) -> tuple[Any, Any]:
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(from_x: Any, from_h: Any, h: Any) -> Any:
    (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, 1), from_h.chunk(3, 1)
    z = (xz + hz).sigmoid()
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return n + z * (h - n)


RULES: dict[type[Any], Rule] = {Recurrent: _recurrent}
