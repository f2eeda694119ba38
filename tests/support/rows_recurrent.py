"""Rows of recurrent layers: every cell, both directions, short and long sequences."""

from __future__ import annotations

from support import rows_attention
from support.inputs import normal
from support.op_table import row

from allgrad.nn.functional.recurrent import recurrent

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
INPUT, HIDDEN, BATCH = 3, 4, 2


def run(lib, cell, x, states, weights, both=False):
    """(output, last states) of one layer for x (N, T, I), in either library."""
    if lib.__name__ == "torch":
        flat = [w for direction in weights for w in direction if w is not None]
        if not states:
            size = weights[0][1].shape[1]
            blank = [x.new_zeros(1 + both, x.shape[0], n) for n in (size, HIDDEN)]
            states = blank if cell == "lstm" else blank[:1]
        hx = tuple(states) if cell == "lstm" else states[0]
        biased = weights[0][2] is not None
        return getattr(lib, cell)(x, hx, flat, biased, 1, 0.0, True, both, True)
    padded = [[*direction, *[None] * (5 - len(direction))] for direction in weights]
    y, finals = recurrent(cell, x.transpose(0, 1), states or None, [padded])
    return (y.transpose(0, 1), *finals)


def weights(cell, output=HIDDEN):
    gates = GATES[cell] * HIDDEN
    shapes = ((gates, INPUT), (gates, output), (gates,), (gates,))
    return [normal(*shape, batched=False) for shape in shapes]


def _cells():
    for cell in GATES:
        for steps in (1, 5):
            yield row(
                f"{cell}_{steps}", "Recurrent",
                lambda lib, F, x, *w, c=cell: run(lib, c, x, None, [w]),
                normal(BATCH, steps, INPUT), *weights(cell),
            )  # fmt: skip
        count = 2 if cell == "lstm" else 1
        initial = [normal(2, BATCH, HIDDEN, batched=False)] * count
        yield row(
            f"{cell}_both_ways", "Recurrent",
            lambda lib, F, x, *t, c=cell, n=count:
                run(lib, c, x, t[:n], [t[n : n + 4], t[n + 4 :]], both=True),
            normal(BATCH, 5, INPUT), *initial, *weights(cell), *weights(cell), batches=(),
        )  # fmt: skip
        yield row(
            f"{cell}_no_bias", "Recurrent",
            lambda lib, F, x, i, h, c=cell: run(lib, c, x, None, [(i, h, None, None)]),
            normal(BATCH, 4, INPUT), *weights(cell)[:2],
        )  # fmt: skip
    yield row(
        "lstm_projected", "Recurrent",
        lambda lib, F, x, *w: run(lib, "lstm", x, None, [w]),
        normal(BATCH, 4, INPUT), *weights("lstm", 2), normal(2, HIDDEN, batched=False),
    )  # fmt: skip


ROWS = [*_cells(), *rows_attention.ROWS]
