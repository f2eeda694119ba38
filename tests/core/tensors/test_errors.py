"""Mistakes: the exception is PyTorch's, the message names the op and what did not fit."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F

# label -> (call, part of our message). The exception must be of the type that PyTorch raises.
MISTAKES = {
    "add": (lambda lib, F: lib.ones(2, 3) + lib.ones(4), r"add.*\(2, 3\).*\(4,\)"),
    "mul": (lambda lib, F: lib.ones(2, 3) * lib.ones(2, 4), r"mul.*\(2, 3\).*\(2, 4\)"),
    "where": (lambda lib, F: lib.where(lib.ones(2) > 0, lib.ones(3), lib.ones(2)),
              r"where.*\(3,\)"),
    "eq": (lambda lib, F: lib.ones(2) == lib.ones(3), r"eq.*\(2,\).*\(3,\)"),
    "add_list": (lambda lib, F: lib.ones(2) + [1, 2], "unsupported operand"),  # noqa: RUF005
    "add_none": (lambda lib, F: lib.add(lib.ones(2), None), "add.*NoneType"),
    "matmul": (lambda lib, F: lib.ones(2, 3) @ lib.ones(2, 3), r"matmul.*\(2, 3\).*\(2, 3\)"),
    "matmul_dtype": (lambda lib, F: lib.ones(2, 2) @ lib.ones(2, 2, dtype=lib.float64),
                     r"matmul.*float32.*float64"),
    "mm": (lambda lib, F: lib.mm(lib.ones(2), lib.ones(2, 3)), r"mm.*\(2,\)"),
    "bmm": (lambda lib, F: lib.bmm(lib.ones(2, 2, 2), lib.ones(3, 2, 2)), "bmm"),
    "dot": (lambda lib, F: lib.dot(lib.ones(2, 2), lib.ones(2)), "dot"),
    "reshape": (lambda lib, F: lib.ones(2, 3).reshape(4, 2), r"reshape.*\(2, 3\).*\(4, 2\)"),
    "reshape_two_unknown": (lambda lib, F: lib.ones(4).reshape(-1, -1), "reshape"),
    "view": (lambda lib, F: lib.ones(2, 3).t().view(6), "view.*reshape"),
    "permute": (lambda lib, F: lib.ones(2, 3).permute(0, 0), "permute"),
    "transpose": (lambda lib, F: lib.ones(2, 3).transpose(0, 2), "transpose"),
    "squeeze_dim": (lambda lib, F: lib.ones(2).squeeze(1), "squeeze"),
    "unsqueeze_dim": (lambda lib, F: lib.ones(2).unsqueeze(3), "unsqueeze"),
    "expand": (lambda lib, F: lib.ones(2, 3).expand(4, 3), r"expand.*\(2, 3\).*\(4, 3\)"),
    "cat": (lambda lib, F: lib.cat([lib.ones(2, 3), lib.ones(2, 4)]), r"cat.*\(2, 3\).*\(2, 4\)"),
    "cat_dim": (lambda lib, F: lib.cat([lib.ones(2)], 1), "cat"),
    "stack": (lambda lib, F: lib.stack([lib.ones(2), lib.ones(3)]), r"stack.*\(2,\).*\(3,\)"),
    "stack_nothing": (lambda lib, F: lib.stack([]), "stack"),
    "split": (lambda lib, F: lib.ones(5).split([2, 2]), "split"),
    "chunk": (lambda lib, F: lib.ones(5).chunk(0), "chunk"),
    "narrow": (lambda lib, F: lib.ones(5).narrow(0, 3, 4), "narrow"),
    "select": (lambda lib, F: lib.ones(5).select(0, 5), "select"),
    "repeat": (lambda lib, F: lib.ones(2, 2).repeat(3), "repeat"),
    "sum_dim": (lambda lib, F: lib.ones(2).sum(1), r"sum.*\[-1, 0\].*1"),
    "sum_twice": (lambda lib, F: lib.ones(2, 2).sum((0, 0)), "sum"),
    "mean_integers": (lambda lib, F: lib.ones(2, dtype=lib.int64).mean(), "mean.*int64"),
    "max_nothing": (lambda lib, F: lib.ones(0).max(), "max"),
    "max_empty_dim": (lambda lib, F: lib.ones(2, 0).max(1), "max"),
    "topk": (lambda lib, F: lib.ones(3).topk(4), "topk"),
    "softmax_integers": (lambda lib, F: F.softmax(lib.ones(2, dtype=lib.int64), 0), "softmax"),
    "item": (lambda lib, F: lib.ones(2).item(), r"item.*\(2,\)"),
    "bool": (lambda lib, F: bool(lib.ones(2)), r"truth.*\(2,\)"),
    "float": (lambda lib, F: float(lib.ones(2)), "item"),
    "len": (lambda lib, F: len(lib.tensor(1)), "0-d"),
    "iter": (lambda lib, F: list(lib.tensor(1)), "0-d"),
    "index": (lambda lib, F: [1, 2][lib.tensor(1.0)], "integer"),
    "sub_bool": (lambda lib, F: lib.ones(2, dtype=lib.bool) - lib.ones(2, dtype=lib.bool),
                 "sub.*bool"),
    "neg_bool": (lambda lib, F: -lib.ones(2, dtype=lib.bool), "neg.*bool"),
    "invert_float": (lambda lib, F: ~lib.ones(2), "bitwise_not"),
    "and_float": (lambda lib, F: lib.ones(2) & lib.ones(2), "bitwise_and"),
    "pow_negative": (lambda lib, F: lib.tensor([2]) ** -1, "pow"),
    "ragged": (lambda lib, F: lib.tensor([[1, 2], [3]]), "equal lengths"),
    "text": (lambda lib, F: lib.tensor("abc"), "numbers"),
    "text_list": (lambda lib, F: lib.tensor(["a"]), "numbers"),
    "from_list": (lambda lib, F: lib.from_numpy([1, 2]), "ndarray"),
    "arange_step": (lambda lib, F: lib.arange(1, 2, 0), "arange"),
    "gather_index": (lambda lib, F: lib.ones(2, 2).gather(0, lib.tensor([[2, 0]])), "gather"),
    "gather_dtype": (lambda lib, F: lib.ones(2).gather(0, lib.ones(1)), "gather.*float32"),
    "index_select": (lambda lib, F: lib.ones(2).index_select(0, lib.tensor([2])), "index_select"),
    "scatter_dtype": (lambda lib, F: lib.ones(2).scatter(0, lib.tensor([0]),
                      lib.ones(1, dtype=lib.float64)), "scatter.*float64"),
    "masked_fill": (lambda lib, F: lib.ones(2).masked_fill(lib.ones(2), 1.0), "masked_fill"),
    "clamp_nothing": (lambda lib, F: lib.ones(2).clamp(), "clamp"),
    "t": (lambda lib, F: lib.ones(2, 2, 2).t(), r"t:.*\(2, 2, 2\)"),
    "linear": (lambda lib, F: F.linear(lib.ones(2, 3), lib.ones(4, 5)),
               r"linear.*\(2, 3\).*\(4, 5\)"),
    "linear_bias": (lambda lib, F: F.linear(lib.ones(2, 3), lib.ones(4, 3), lib.ones(3)), "bias"),
    "linear_dtype": (lambda lib, F: F.linear(lib.ones(2, 3), lib.ones(4, 3, dtype=lib.float64)),
                     "linear.*float32.*float64"),
    "conv_channels": (lambda lib, F: F.conv2d(lib.ones(1, 2, 4, 4), lib.ones(3, 1, 3, 3)),
                      r"conv2d.*\(1, 2, 4, 4\).*\(3, 1, 3, 3\)"),
    "conv_kernel": (lambda lib, F: F.conv2d(lib.ones(1, 1, 2, 2), lib.ones(1, 1, 3, 3)), "kernel"),
    "conv_dims": (lambda lib, F: F.conv2d(lib.ones(1, 1, 4), lib.ones(1, 1, 3)), "conv2d"),
    "conv_bias": (lambda lib, F: F.conv2d(lib.ones(1, 1, 4, 4), lib.ones(2, 1, 3, 3), lib.ones(3)),
                  "bias"),
    "conv_dtype": (lambda lib, F: F.conv2d(lib.ones(1, 1, 4, 4), lib.ones(2, 1, 3, 3,
                   dtype=lib.float64)), "conv2d.*float32.*float64"),
    "conv_same": (lambda lib, F: F.conv2d(lib.ones(1, 1, 4, 4), lib.ones(1, 1, 3, 3), stride=2,
                  padding="same"), "stride"),

    "conv_transpose": (
        lambda lib, F: F.conv_transpose2d(lib.ones(1, 2, 4, 4), lib.ones(3, 2, 3, 3)),
        "conv_transpose2d"),
    "max_pool": (lambda lib, F: F.max_pool2d(lib.ones(1, 1, 2, 2), 3), "max_pool2d"),
    "max_pool_padding": (lambda lib, F: F.max_pool2d(lib.ones(1, 1, 4, 4), 2, padding=2),
                         "padding"),
    "batch_norm_one": (lambda lib, F: F.batch_norm(lib.ones(1, 3), None, None, training=True),
                       "more than one value"),
    "batch_norm_shape": (lambda lib, F: F.batch_norm(lib.ones(2, 3), lib.ones(4), lib.ones(4)),
                         r"batch_norm.*\(2, 3\)"),
    "layer_norm": (lambda lib, F: F.layer_norm(lib.ones(2, 3), (4,)),
                   r"layer_norm.*\(4,\).*\(2, 3\)"),
    "group_norm": (lambda lib, F: F.group_norm(lib.ones(2, 3), 2), "group_norm"),
    "dropout": (lambda lib, F: F.dropout(lib.ones(2), 1.5), "0..1"),
    "embedding": (lambda lib, F: F.embedding(lib.tensor([3]), lib.ones(3, 2)), "embedding.*0..2"),
    "embedding_dtype": (lambda lib, F: F.embedding(lib.ones(1), lib.ones(3, 2)), "embedding"),
    "cross_entropy_batch": (lambda lib, F: F.cross_entropy(lib.ones(2, 3), lib.tensor([0])),
                            r"cross_entropy.*\(2, 3\).*\(2,\).*\(1,\)"),
    "cross_entropy_class": (lambda lib, F: F.cross_entropy(lib.ones(1, 3), lib.tensor([3])),
                            "3 is out of bounds"),
    "cross_entropy_shape": (lambda lib, F: F.cross_entropy(lib.ones(2, 3), lib.ones(2, 4)),
                            "shape"),
    "cross_entropy_weight": (lambda lib, F: F.cross_entropy(lib.ones(2, 3), lib.tensor([0, 1]),
                             weight=lib.ones(2)), "weight"),
    "cross_entropy_reduction": (lambda lib, F: F.cross_entropy(lib.ones(2, 3), lib.tensor([0, 1]),
                                reduction="avg"), "'avg'.*mean"),
    "nll_dtype": (lambda lib, F: F.nll_loss(lib.ones(2, 3), lib.ones(2)), "nll_loss.*float32"),
    "mse": (lambda lib, F: F.mse_loss(lib.ones(2, 3), lib.ones(4)), r"mse_loss.*\(2, 3\).*\(4,\)"),
    "bce_shape": (lambda lib, F: F.binary_cross_entropy(lib.ones(2), lib.ones(3)),
                  r"\(2,\).*\(3,\)"),
    "bce_range": (lambda lib, F: F.binary_cross_entropy(lib.ones(2) * 2, lib.ones(2)), "0..1"),
    "bce_logits": (lambda lib, F: F.binary_cross_entropy_with_logits(lib.ones(2), lib.ones(3)),
                   r"\(2,\).*\(3,\)"),
    "pad": (lambda lib, F: F.pad(lib.ones(1, 1, 3), (4, 0), mode="reflect"), "pad"),
    "pad_odd": (lambda lib, F: F.pad(lib.ones(3), (1, 1, 1)), "pad"),
    "one_hot": (lambda lib, F: F.one_hot(lib.tensor([3]), 3), "one_hot"),
}  # fmt: skip

# PyTorch raises another type there, or none; ours is meant.
OURS_ALONE = {
    "add_none": TypeError,
    "conv_dims": RuntimeError,
    "one_hot": IndexError,
    "stack_nothing": RuntimeError,
    "mse": RuntimeError,
    "dropout": ValueError,
    "text_list": TypeError,
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name):
    torch = pytest.importorskip("torch")
    call, message = MISTAKES[name]
    expected = OURS_ALONE.get(name)
    if expected is None:
        with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what we look for
            call(torch, torch.nn.functional)
        expected = next(
            kind for kind in (IndexError, TypeError, ValueError, RuntimeError, NotImplementedError)
            if isinstance(theirs.value, kind)
        )  # fmt: skip
    with pytest.raises(expected, match=message):
        call(ag, F)


def test_dtypes_that_do_not_exist():
    with pytest.raises(RuntimeError, match=r"uint16.*known: float16"):
        ag.from_numpy(np.zeros(2, np.uint16))
    with pytest.raises(RuntimeError, match="byte order"):
        ag.from_numpy(np.zeros(2, ">f4"))
