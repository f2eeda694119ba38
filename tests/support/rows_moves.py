"""Rows of ops that view, join, split, repeat and blank out elements: the breadth of PyTorch's."""

from __future__ import annotations

from support.inputs import integers, normal
from support.op_table import row

S = (3, 4, 5)
SAMPLE = {"batches": (1,)}  # the batch is the channel there, or must not be empty


def _axes():
    for name, f in {
        "swapaxes": lambda lib, F, x: lib.swapaxes(x, 0, 2),
        "swapdims": lambda lib, F, x: x.swapdims(1, 2),
        "moveaxis": lambda lib, F, x: lib.moveaxis(x, (0, 1), (2, 0)),
        "movedim_negative": lambda lib, F, x: x.movedim(-1, 0),
        "adjoint": lambda lib, F, x: x.adjoint(),
        "mT": lambda lib, F, x: x.mT * x.mH,
        "T": lambda lib, F, x: x[0].T * x[0].H if len(x) else x.mT,
    }.items():
        yield row(name, "Permute", f, normal(*S))
    yield row("ravel", "Reshape", lambda lib, F, x: lib.ravel(x), normal(*S))
    yield row("squeeze_dims", "Reshape", lambda lib, F, x: x.squeeze((1, 3)), normal(3, 1, 5, 1))
    yield row(
        "atleast",
        "Reshape",
        lambda lib, F, x: lib.atleast_3d(x, x[0] if len(x) else x.sum(0)),
        normal(3, 4),
    )
    yield row(
        "atleast_scalar",
        "Reshape",
        lambda lib, F, x: (lib.atleast_1d(x.sum()), lib.atleast_2d(x.sum())),
        normal(3),
    )
    yield row(
        "broadcast_tensors",
        "Expand",
        lambda lib, F, a, b: lib.broadcast_tensors(a, b),
        normal(3, 1, 5),
        normal(4, 1, batched=False),
    )
    yield row("view_in_place", "Permute Reshape", _viewed_in_place, normal(3, 4))


def _viewed_in_place(lib, F, x):
    y = x * 1
    y.t_().unsqueeze_(1).transpose_(0, 2)
    y[:1] *= 2
    return y.squeeze_(1) * lib.arange(4)


def _windows():
    for name, f in {
        "windows": lambda lib, F, x: x.unfold(1, 3, 1) * 2,
        "windows_step": lambda lib, F, x: x.unfold(-1, 2, 2).unfold(1, 2, 1),
        "windows_one": lambda lib, F, x: x.unfold(2, 5, 1),
    }.items():
        yield row(name, "Windows", f, normal(*S))
    yield row("windows_scalar", "Windows", lambda lib, F, x: x.sum().unfold(0, 1, 1), normal(3))
    yield row(
        "strided",
        "Strided",
        lambda lib, F, x: (x * 1).as_strided((2, 3), (1, 2), 1),
        normal(3, 4, batched=False),
        batches=(),
    )
    yield row(
        "strided_overlap",
        "Strided",
        lambda lib, F, x: (x * 2).as_strided((3, 2, 2), (2, 1, 0), 2),
        normal(4, 4, batched=False),
        batches=(),
    )

    def changed_later(lib, F, x):
        y = x * 1
        part = y.unfold(0, 2, 1)
        y.mul_(3)
        return part * part

    yield row("windows_of_changed", "AsStrided", changed_later, normal(4, batched=False))


def _images():
    for name, f in {
        "unfold": lambda lib, F, x: F.unfold(x, 2),
        "unfold_all": lambda lib, F, x: F.unfold(x, (2, 3), 2, (2, 1), (1, 2)),
        "unfold_unbatched": lambda lib, F, x: F.unfold(x[0], 3, stride=2),
    }.items():
        yield row(name, "Unfold", f, normal(2, 3, 5, 6), **SAMPLE)
    for name, f in {
        "fold": lambda lib, F, x: F.fold(x, (3, 4), 2),
        "fold_unbatched": lambda lib, F, x: F.fold(x[0], (3, 4), 2),
        "fold_all": lambda lib, F, x: F.fold(x, (3, 4), (2, 2), (2, 1), (1, 0), (2, 1)),
    }.items():
        yield row(name, "Fold", f, normal(2, 8, 6), **SAMPLE)


def _joins():
    pair = (normal(3, 2, 4), normal(3, 2, 4))
    for name, f in {
        "hstack": lambda lib, F, a, b: lib.hstack([a, b]),
        "vstack": lambda lib, F, a, b: lib.vstack((a, b)),
        "dstack": lambda lib, F, a, b: lib.dstack([a, b]),
        "row_stack": lambda lib, F, a, b: lib.row_stack([a, b]),
        "concatenate": lambda lib, F, a, b: lib.concatenate([a, b], -1),
        "cat_empty": lambda lib, F, a, b: lib.concat([lib.zeros(0).to(a), a, b], 1),
        "column_stack_3d": lambda lib, F, a, b: lib.column_stack([a, b]),
    }.items():
        yield row(name, "Cat", f, *pair)
    vectors = (normal(3), normal(3))
    for name, f in {
        "hstack_1d": lambda lib, F, a, b: lib.hstack([a, b]),
        "vstack_1d": lambda lib, F, a, b: lib.vstack((a, b)),
        "dstack_1d": lambda lib, F, a, b: lib.dstack([a, b]),
        "column_stack": lambda lib, F, a, b: lib.column_stack([a, b]),
        "block_diag": lambda lib, F, a, b: lib.block_diag(a, b.reshape(-1, 1), a.sum()),
    }.items():
        yield row(name, "Cat", f, *vectors)
    yield row(
        "meshgrid",
        "Expand",
        lambda lib, F, a, b: lib.meshgrid(a, b, indexing="ij"),
        normal(3),
        normal(4, batched=False),
    )
    yield row(
        "meshgrid_xy",
        "Expand",
        lambda lib, F, a, b: lib.meshgrid(a, b, b.sum(), indexing="xy"),
        normal(3),
        normal(4, batched=False),
    )
    yield row(
        "cartesian_prod",
        "Stack",
        lambda lib, F, a, b: lib.cartesian_prod(a, b, a),
        normal(3),
        normal(2, batched=False),
    )
    yield row(
        "combinations",
        "Take",
        lambda lib, F, x: (lib.combinations(x), lib.combinations(x, 3, True)),
        normal(4),
    )


def _splits():
    for name, f in {
        "tensor_split": lambda lib, F, x: lib.tensor_split(x, 3, 1),
        "tensor_split_at": lambda lib, F, x: x.tensor_split((1, -1, 9), 2),
        "hsplit": lambda lib, F, x: lib.hsplit(x, 2),
        "dsplit": lambda lib, F, x: lib.dsplit(x, [2]),
        "split_with_sizes": lambda lib, F, x: lib.split_with_sizes(x, [1, 0, 3], 1),
    }.items():
        yield row(name, "Slice", f, normal(*S))
    yield row("vsplit", "Slice", lambda lib, F, x: lib.vsplit(x, [1]), normal(4, 3))


def _moves():
    for name, op, f in (
        ("fliplr", "Flip", lambda lib, F, x: lib.fliplr(x)),
        ("flipud", "Flip", lambda lib, F, x: x.flipud()),
        ("rot90", "Flip", lambda lib, F, x: lib.rot90(x, 1, (1, 2))),
        ("rot90_back", "Flip", lambda lib, F, x: x.rot90(-1, (0, 2))),
        ("rot90_twice", "Flip", lambda lib, F, x: x.rot90(2)),
        ("tile", "Repeat", lambda lib, F, x: lib.tile(x, (2, 3))),
        ("tile_more", "Repeat", lambda lib, F, x: x.tile(2, 1, 1, 2)),
        ("repeat_interleave", "Expand", lambda lib, F, x: lib.repeat_interleave(x, 3, 1)),
        ("repeat_interleave_flat", "Expand", lambda lib, F, x: x.repeat_interleave(2)),
        ("diag_embed", "DiagEmbed", lambda lib, F, x: lib.diag_embed(x)),
        ("diag_embed_at", "DiagEmbed", lambda lib, F, x: x.diag_embed(-2, 2, 0)),
        ("diagflat", "DiagEmbed", lambda lib, F, x: x.diagflat(1)),
    ):
        yield row(name, op, f, normal(*S))
    yield row(
        "repeat_interleave_counts",
        "Take",
        lambda lib, F, x, n: lib.repeat_interleave(x, n, dim=1),
        normal(3, 4),
        integers(4, 4, batched=False),
    )
    yield row("diag", "Diagonal Clone", lambda lib, F, x: lib.diag(x, 1), normal(3, 4))
    yield row("diag_vector", "DiagEmbed", lambda lib, F, x: x.diag(-1), normal(3))
    yield row("trace", "Diagonal", lambda lib, F, x: lib.trace(x) * x.trace(), normal(3, 4))

    def triangles(lib, F, x):
        return (x * 1).tril_(1) + (x * 2).triu_()

    yield row("triangles_in_place", "Triangle", triangles, normal(*S))


ROWS = [*_axes(), *_windows(), *_images(), *_joins(), *_splits(), *_moves()]
