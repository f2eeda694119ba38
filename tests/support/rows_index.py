"""Rows of ops that read and write at indices: gather, scatter, index_add, masks, take."""

from __future__ import annotations

from support.inputs import apart, booleans, integers, normal
from support.op_table import row

X, SRC = normal(4, 5, batched=False), normal(3, 5, batched=False)
INDEX = integers(4, 3, batched=False)  # three rows of X, possibly the same
WHERE = integers(4, 3, 5, batched=False)
WHOLE = {"batches": ()}


def _at_rows():
    for name, f in {
        "index_add": lambda lib, F, x, i, s: lib.index_add(x, 0, i, s, alpha=2),
        "index_add_columns": lambda lib, F, x, i, s: x.T.index_add(1, i, s.T),
        "index_add_in_place": lambda lib, F, x, i, s: (x * 1).index_add_(0, i, s) * x,
        "index_put_add": lambda lib, F, x, i, s: x.index_put((i,), s, accumulate=True),
        "put_add": lambda lib, F, x, i, s: (
            lib.tensor(1.0).to(s) * (x * 1).put_(i * 6, s[:, 1], accumulate=True)
        ),
    }.items():
        yield row(name, "Assign", f, X, INDEX, SRC, **WHOLE)
    for name, f in {
        "index_copy": lambda lib, F, x, s: x.index_copy(0, lib.tensor([3, 0, 1]), s),
        "index_copy_in_place": lambda lib, F, x, s: (
            (x * 1).index_copy_(0, lib.tensor([3, 0, 1]), s) * 2
        ),
        "index_put": lambda lib, F, x, s: lib.index_put(
            x, (lib.tensor([1, 0, 3]), lib.tensor([4, 0, 0])), s[:, 0]
        ),
        "put": lambda lib, F, x, s: (x * 1).put_(lib.tensor([-1, 3]), s[0, :2]) * 2,
        "masked_scatter": lambda lib, F, x, s: x.masked_scatter(x.detach() > 0.2, s.repeat(2, 1)),
        "masked_scatter_row": lambda lib, F, x, s: lib.masked_scatter(
            x, s.detach()[0] > 0, s.repeat(2, 1)
        ),
        "masked_scatter_in_place": lambda lib, F, x, s: (x * 1).masked_scatter_(
            s[:1].detach() > 0, s.repeat(2, 1)
        ),
    }.items():
        yield row(name, "Assign", f, X, SRC, **WHOLE)
    yield row(
        "index_fill",
        "Assign",
        lambda lib, F, x, i: lib.index_fill(x, 1, i, 3.0),
        normal(3, 4),
        INDEX,
    )
    yield row(
        "index_fill_tensor",
        "Assign",
        lambda lib, F, x, v: x.index_fill(1, lib.tensor([2, 3]), v.sum()),
        normal(3, 4),
        normal(2, batched=False),
    )


def _scatters():
    yield row(
        "scatter_number",
        "Scatter",
        lambda lib, F, x, i: lib.scatter(x, 0, i, 2.5),
        X,
        WHERE,
        **WHOLE,
    )
    yield row(
        "scatter_value",
        "Scatter",
        lambda lib, F, x, i: (x * 1).scatter_(1, i, value=2.5) * x,
        X,
        WHERE,
        **WHOLE,
    )
    yield row(
        "scatter_reduce_add",
        "Scatter",
        lambda lib, F, x, i: lib.scatter(x, 0, i, -1.5, reduce="add"),
        X,
        WHERE,
        **WHOLE,
        torch=False,
    )  # there it has no gradient
    yield row(
        "scatter_reduce_multiply",
        "ScatterReduce",
        lambda lib, F, x, i: x.scatter(0, i, -1.5, reduce="multiply"),
        X,
        WHERE,
        **WHOLE,
        torch=False,
    )
    yield row(
        "scatter_add_in_place",
        "Scatter",
        lambda lib, F, x, i, s: (x * 2).scatter_add_(0, i, s),
        X,
        WHERE,
        SRC,
        **WHOLE,
    )
    for kind in ("sum", "prod", "mean", "amax", "amin"):
        for own in (True, False):
            yield row(
                f"scatter_reduce_{kind}_{own}", "ScatterReduce",
                lambda lib, F, x, i, s, k=kind, o=own: lib.scatter_reduce(
                    x, 0, i, s, k, include_self=o
                ),
                apart(4, 5, batched=False), WHERE, apart(3, 6, batched=False), **WHOLE,
                # PyTorch wants no src that is larger where it takes a gradient
                torch=False,
            )  # fmt: skip
            yield row(
                f"scatter_reduce_{kind}_{own}_small", "ScatterReduce",
                lambda lib, F, x, i, s, k=kind, o=own: x.scatter_reduce(
                    0, i, s, k, include_self=o
                ),
                apart(4, 5, batched=False), WHERE, apart(3, 5, batched=False), **WHOLE,
            )  # fmt: skip
    yield row(
        "scatter_reduce_in_place",
        "ScatterReduce",
        lambda lib, F, x, i, s: (x * 2).scatter_reduce_(0, i, s, "mean"),
        X,
        WHERE,
        SRC,
        **WHOLE,
    )
    yield row(
        "scatter_reduce_zeros",
        "ScatterReduce",
        lambda lib, F, x, i, s: (x * (x > 0)).scatter_reduce(0, i, s * (s > 0), "prod"),
        X,
        WHERE,
        SRC,
        **WHOLE,
    )
    for kind in ("prod", "mean", "amax", "amin"):
        yield row(
            f"index_reduce_{kind}",
            "ScatterReduce",
            lambda lib, F, x, i, s, k=kind: x.index_reduce(0, i, s, k),
            apart(4, 5, batched=False),
            INDEX,
            apart(3, 5, batched=False),
            **WHOLE,
        )


def _reads():
    yield row("take_flat", "Take", lambda lib, F, x, i: lib.take(x, i - 2), X, WHERE, **WHOLE)
    yield row(
        "take_along_dim",
        "Gather",
        lambda lib, F, x, i: lib.take_along_dim(x, i[:1], 0),
        X,
        WHERE,
        **WHOLE,
    )
    yield row(
        "take_along_dim_flat", "Gather", lambda lib, F, x, i: x.take_along_dim(i), X, WHERE, **WHOLE
    )
    yield row(
        "gather_scalar",
        "Gather",
        lambda lib, F, x: x.sum().gather(0, lib.tensor([0, 0])),
        normal(3),
    )
    yield row(
        "index_select_scalar",
        "Take",
        lambda lib, F, x: x.sum().index_select(0, lib.tensor([0])),
        normal(3),
    )
    yield row(
        "masked_select",
        "Take",
        lambda lib, F, x, m: lib.masked_select(x, m),
        normal(3, 4),
        booleans(4, batched=False),
    )
    yield row(
        "masked_fill_value",
        "Where",
        lambda lib, F, x, m: x.masked_fill(m, x.sum()),
        normal(3, 4),
        booleans(3, 4),
    )
    yield row(
        "uint8_mask",
        "Take",
        lambda lib, F, x, m: x[m.to(lib.bool)] if lib.__name__ == "torch" else x[m.to(lib.uint8)],
        normal(3, 4),
        booleans(3, 4),
    )


def _parts():
    yield row(
        "select_scatter",
        "AssignView",
        lambda lib, F, x, s: lib.select_scatter(x, s[0], 0, 2),
        X,
        SRC,
        **WHOLE,
    )
    yield row(
        "slice_scatter",
        "AssignView",
        lambda lib, F, x, s: x.slice_scatter(s, 0, 1),
        X,
        SRC,
        **WHOLE,
    )
    yield row(
        "slice_scatter_step",
        "AssignView",
        lambda lib, F, x, s: x.slice_scatter(s[:2], 0, 0, 4, 2),
        X,
        SRC,
        **WHOLE,
    )
    yield row(
        "diagonal_scatter",
        "AssignView",
        lambda lib, F, x, s: x.diagonal_scatter(s[:, 0], -1),
        X,
        SRC,
        **WHOLE,
    )
    yield row(
        "fill_diagonal",
        "Where",
        lambda lib, F, x: (x * 1).fill_diagonal_(3) * x,
        normal(4, 3),
        batches=(1,),
    )


ROWS = [*_at_rows(), *_scatters(), *_reads(), *_parts()]
