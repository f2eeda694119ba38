"""Rows of ops that move elements: views, joins, padding, indexing, in-place changes."""

from __future__ import annotations

from support.inputs import booleans, integers, normal
from support.op_table import row

S = (3, 4, 5)


def _views():
    yield row("reshape", "Reshape", lambda lib, F, x: x.reshape(x.shape[0], 20), normal(*S))
    yield row(
        "reshape_copy", "Reshape", lambda lib, F, x: x.transpose(1, 2).reshape(-1, 20), normal(*S)
    )
    yield row("view", "Reshape", lambda lib, F, x: x.view(-1, 2, 10), normal(*S))
    yield row("flatten", "Reshape", lambda lib, F, x: x.flatten(1), normal(*S))
    yield row("unflatten", "Reshape", lambda lib, F, x: x.unflatten(1, (2, 2)), normal(*S))
    yield row("squeeze", "Reshape", lambda lib, F, x: x.squeeze(1), normal(3, 1, 5))
    yield row("unsqueeze", "Reshape", lambda lib, F, x: x.unsqueeze(-1), normal(*S))
    yield row("permute", "Permute", lambda lib, F, x: x.permute(2, 0, 1), normal(*S))
    yield row("transpose", "Permute", lambda lib, F, x: x.transpose(0, -1), normal(*S))
    yield row("movedim", "Permute", lambda lib, F, x: lib.movedim(x, 0, 2), normal(*S))
    yield row("t", "Permute", lambda lib, F, x: x.t(), normal(3, 4))
    yield row("expand", "Expand", lambda lib, F, x: x.expand(2, -1, 4, 5), normal(3, 1, 5))
    yield row("narrow", "Slice", lambda lib, F, x: x.narrow(1, 1, 2), normal(*S))
    yield row("select", "Slice", lambda lib, F, x: x.select(1, -1), normal(*S))
    yield row("slice", "Slice", lambda lib, F, x: x[:, 1::2, None, -1], normal(*S))
    yield row("split", "Slice", lambda lib, F, x: x.split([1, 3], 1), normal(*S))
    yield row("split_size", "Slice", lambda lib, F, x: x.split(2, 2), normal(*S))
    yield row("chunk", "Slice", lambda lib, F, x: x.chunk(3, 1), normal(*S))
    yield row("unbind", "Slice", lambda lib, F, x: lib.unbind(x, 1), normal(*S))
    yield row("diagonal", "Diagonal", lambda lib, F, x: lib.diagonal(x, 1, 1, 2), normal(*S))


def _joins():
    yield row(
        "cat", "Cat", lambda lib, F, a, b: lib.cat([a, b], 1), normal(3, 2, 4), normal(3, 5, 4)
    )
    yield row(
        "cat_first", "Cat", lambda lib, F, a, b: lib.cat((a, b, a)), normal(3, 2), normal(1, 2)
    )
    yield row("stack", "Stack", lambda lib, F, a, b: lib.stack([a, b], 1), normal(*S), normal(*S))
    yield row(
        "stack_last", "Stack", lambda lib, F, a, b: lib.stack([a, b], -1), normal(3), normal(3)
    )
    yield row("flip", "Flip", lambda lib, F, x: x.flip(0, 2), normal(*S))
    yield row("roll", "Roll", lambda lib, F, x: x.roll(2, 1), normal(*S))
    yield row("roll_several", "Roll", lambda lib, F, x: x.roll((1, -2), (0, 2)), normal(*S))
    yield row("roll_flat", "Roll", lambda lib, F, x: x.roll(3), normal(*S))
    yield row("repeat", "Repeat", lambda lib, F, x: x.repeat(2, 1, 3), normal(3, 4))
    yield row("tril", "Triangle", lambda lib, F, x: x.tril(-1), normal(*S))
    yield row("triu", "Triangle", lambda lib, F, x: x.triu(1), normal(*S))
    yield row("pad", "Pad", lambda lib, F, x: F.pad(x, (1, 2, 0, 3), value=1.5), normal(*S))
    yield row("pad_crop", "Pad", lambda lib, F, x: F.pad(x, (-1, 2, 1, -2)), normal(*S))
    for mode in ("reflect", "replicate", "circular"):
        yield row(
            f"pad_{mode}",
            "Pad",
            lambda lib, F, x, m=mode: F.pad(x, (2, 1, 1, 2), mode=m),
            normal(2, 3, 4, 5),
            batches=(1,),
        )
        yield row(
            f"pad_{mode}_1d",
            "Pad",
            lambda lib, F, x, m=mode: F.pad(x, (3, 2), mode=m),
            normal(2, 3, 5),
            batches=(1,),
        )


def _indexing():
    yield row(
        "take", "Take", lambda lib, F, x, i: x[:, i], normal(*S), integers(4, 6, batched=False)
    )
    yield row(
        "take_two",
        "Take",
        lambda lib, F, x, i, j: x[i, :, j],
        normal(3, 4, 5, batched=False),
        integers(3, 2, 2, batched=False),
        integers(5, 2, batched=False),
        batches=(),
    )
    yield row(
        "take_after_int",
        "Take Slice",
        lambda lib, F, x, i: x[-1, :, i],
        normal(3, 4, 5, batched=False),
        integers(5, 2, batched=False),
        batches=(),
    )
    yield row("take_mask", "Take", lambda lib, F, x, m: x[m], normal(*S), booleans(3, 4))
    yield row(
        "index_select",
        "Take",
        lambda lib, F, x, i: lib.index_select(x, 1, i),
        normal(*S),
        integers(4, 3, batched=False),
    )
    yield row(
        "gather", "Gather", lambda lib, F, x, i: x.gather(1, i), normal(3, 4), integers(4, 3, 6)
    )
    yield row(
        "scatter",
        "Scatter",
        lambda lib, F, x, s: x.scatter(1, lib.arange(4).flip(0).expand(len(x), 4), s),
        normal(3, 4),
        normal(3, 4),
    )
    yield row(
        "scatter_add",
        "Scatter",
        lambda lib, F, x, i, s: x.scatter_add(1, i, s),
        normal(3, 4),
        integers(4, 3, 4),
        normal(3, 4),
    )
    yield row(
        "scatter_add_larger_src",
        "Scatter",
        lambda lib, F, x, i, s: x.scatter_add(1, i, s),
        normal(3, 4),
        integers(4, 3, 4),
        normal(3, 5),
        torch=False,
    )
    yield row(
        "embedding",
        "Embedding",
        lambda lib, F, i, w: F.embedding(i, w),
        integers(5, 3, 4),
        normal(5, 6, batched=False),
    )
    yield row(
        "embedding_padding",
        "Embedding",
        lambda lib, F, i, w: F.embedding(i, w, padding_idx=-2),
        integers(5, 3, 4),
        normal(5, 6, batched=False),
        differentiable=False,
    )


def _changed(lib, F, x, key, value):
    y = x * 1
    y[key] = value
    return y


def _in_place():
    yield row(
        "assign",
        "AssignView",
        lambda lib, F, x, v: _changed(lib, F, x, (slice(None), 1), v),
        normal(3, 4),
        normal(3),
    )
    yield row(
        "assign_broadcast",
        "AssignView",
        lambda lib, F, x, v: _changed(lib, F, x, (slice(None), slice(1, 3)), v),
        normal(*S),
        normal(1, 1, 5, batched=False),
    )
    yield row(
        "assign_mask",
        "Assign",
        _changed,
        normal(*S),
        booleans(3, 4),
        normal(5, batched=False),
    )

    def region(lib, F, x, v):
        y = x * 1
        y[:, 1:3].mul_(v)
        return y

    yield row("assign_view", "AssignView", region, normal(3, 4), normal(3, 2))

    def view_of_changed(lib, F, x):
        y = x * 1
        part = y[:, 1:]
        y.mul_(3)
        return part * part

    yield row("as_strided", "AsStrided", view_of_changed, normal(3, 4))

    def expanded_of_changed(lib, F, x):
        y = x * 1
        wide = y.expand(-1, 4, 5)
        y.mul_(2)
        return wide * wide

    yield row("as_strided_expanded", "AsStrided", expanded_of_changed, normal(3, 1, 5))


ROWS = [*_views(), *_joins(), *_indexing(), *_in_place()]
