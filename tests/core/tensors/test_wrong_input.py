"""Wrong input to shapes, indices and products: PyTorch's exception type, our op and shapes."""

from __future__ import annotations

import pytest

import allgrad as ag
import allgrad.nn.functional as F


def x(lib):
    return lib.arange(6.0).view(2, 3)


def long(lib, *values):
    return lib.tensor(values)


# label -> (call, part of our message). The exception must be of the type that PyTorch raises.
MISTAKES = {
    # shapes
    "mT": (lambda lib, F: lib.ones(3).mT, r"mT.*\(3,\)"),
    "H": (lambda lib, F: lib.ones(2, 2, 2).H, r"H.*\(2, 2, 2\)"),
    "adjoint": (lambda lib, F: lib.ones(3).adjoint(), "adjoint"),
    "movedim_twice": (lambda lib, F: lib.movedim(x(lib), (0, 0), (0, 1)), "movedim.*twice"),
    "movedim_count": (lambda lib, F: lib.movedim(x(lib), (0, 1), (1,)), "movedim.*2.*1"),
    "squeeze_twice": (lambda lib, F: lib.squeeze(x(lib), (0, 0)), "squeeze.*twice"),
    "view_dtype": (lambda lib, F: lib.ones(3).view(lib.float64), r"view.*\(3,\).*float64"),
    "windows_size": (lambda lib, F: x(lib).unfold(1, 4, 1), r"unfold.*0\.\.3.*\(2, 3\).*4"),
    "windows_step": (lambda lib, F: x(lib).unfold(1, 2, 0), "unfold.*step"),
    "strided_outside": (lambda lib, F: lib.as_strided(x(lib), (2, 2), (20, 5)), "as_strided.*25"),
    "strided_negative": (lambda lib, F: lib.as_strided(x(lib), (2,), (-1,)), "as_strided"),
    "strided_count": (lambda lib, F: lib.as_strided(x(lib), (2,), (1, 1)), "as_strided"),
    "broadcast": (lambda lib, F: lib.broadcast_tensors(lib.ones(2), lib.ones(3)), r"\(2,\)|\[2\]"),
    "broadcast_shapes": (lambda lib, F: lib.broadcast_shapes((2,), (3,)), r"\(2,\).*\(3,\)"),
    "resize_leaf": (lambda lib, F: lib.ones(2, requires_grad=True).resize_(3), "resize_"),
    "unsqueeze_leaf": (lambda lib, F: lib.ones(2, requires_grad=True).unsqueeze_(0), "unsqueeze_"),
    "unflatten": (lambda lib, F: x(lib).unflatten(1, (2, 2)), r"unflatten.*\(2, 2\)"),
    "unflatten_nothing": (lambda lib, F: x(lib).unflatten(1, ()), "unflatten"),
    "flatten_order": (lambda lib, F: x(lib).flatten(1, 0), "flatten"),
    # joins and splits
    "cat_nothing": (lambda lib, F: lib.cat([]), "cat"),
    "cat_number": (lambda lib, F: lib.cat([lib.ones(2), 3]), "cat.*element 1.*int"),
    "cat_tensor": (lambda lib, F: lib.cat(lib.ones(2, 3)), "cat.*sequence"),
    "cat_scalar": (lambda lib, F: lib.cat([lib.tensor(1.0), lib.ones(2)]), "cat.*scalar"),
    "hstack": (lambda lib, F: lib.hstack([lib.ones(2, 1), lib.ones(3, 1)]), r"\(2, 1\).*\(3, 1\)"),
    "block_diag": (lambda lib, F: lib.block_diag(lib.ones(1, 1, 1)), "block_diag"),
    "meshgrid": (lambda lib, F: lib.meshgrid(lib.ones(2, 2)), "meshgrid"),
    "meshgrid_order": (lambda lib, F: lib.meshgrid(lib.ones(2), indexing="yx"), "meshgrid.*'yx'"),
    "combinations": (lambda lib, F: lib.combinations(lib.ones(2, 2)), "combinations"),
    "split_negative": (lambda lib, F: lib.split(x(lib), -1), "split.*-1"),
    "split_zero": (lambda lib, F: lib.split(x(lib), 0), "split.*0"),
    "split_sizes": (lambda lib, F: lib.split(x(lib), (4, -1), 1), r"split.*\(2, 3\).*\[4, -1\]"),
    "tensor_split": (lambda lib, F: lib.tensor_split(x(lib), 0), "tensor_split.*0"),
    "hsplit_scalar": (lambda lib, F: lib.hsplit(lib.tensor(1.0), 1), "hsplit"),
    "hsplit": (lambda lib, F: lib.hsplit(x(lib), 2), r"hsplit.*\(2, 3\).*2"),
    "vsplit": (lambda lib, F: lib.vsplit(lib.ones(4), 2), "vsplit"),
    "dsplit": (lambda lib, F: lib.dsplit(x(lib), 1), "dsplit"),
    "narrow_start": (lambda lib, F: lib.narrow(x(lib), 0, -3, 1), "narrow.*-3"),
    "narrow_length": (lambda lib, F: lib.narrow(x(lib), 0, 0, -1), "narrow.*-1"),
    "unbind": (lambda lib, F: lib.unbind(lib.tensor(1.0)), "unbind"),
    # moves
    "repeat_negative": (lambda lib, F: x(lib).repeat(-1, 2), "repeat"),
    "interleave_count": (lambda lib, F: lib.repeat_interleave(x(lib), long(lib, 1, 2, 3), 0),
                         r"repeat_interleave.*\(2, 3\).*3"),
    "interleave_negative": (lambda lib, F: lib.repeat_interleave(x(lib), -1, 0), "-1"),
    "interleave_dtype": (lambda lib, F: lib.repeat_interleave(x(lib), lib.ones(2), 0), "float32"),
    "flip_twice": (lambda lib, F: lib.flip(x(lib), (0, 0)), "flip.*twice"),
    "fliplr": (lambda lib, F: lib.fliplr(lib.ones(3)), "fliplr"),
    "flipud": (lambda lib, F: lib.flipud(lib.tensor(1.0)), "flipud"),
    "rot90": (lambda lib, F: lib.rot90(x(lib), 1, (0, 0)), "rot90"),
    "roll": (lambda lib, F: lib.roll(x(lib), (1, 2)), "roll.*2 shifts"),
    "diag": (lambda lib, F: lib.diag(lib.ones(2, 2, 2)), r"diag.*\(2, 2, 2\)"),
    "diagonal": (lambda lib, F: lib.diagonal(x(lib), 0, 0, 0), "diagonal"),
    "diag_embed": (lambda lib, F: lib.diag_embed(x(lib), 0, 1, 1), "diag_embed"),
    "trace": (lambda lib, F: lib.trace(lib.ones(3)), r"trace.*\(3,\)"),
    "tril": (lambda lib, F: lib.tril(lib.ones(3)), r"tril.*\(3,\)"),
    # margins, unfold and fold
    "pad_mode": (lambda lib, F: F.pad(x(lib), (1, 1), mode="mirror"), "'mirror'.*replicate"),
    "pad_vector": (lambda lib, F: F.pad(lib.ones(3), (1, 1), mode="reflect"), r"pad.*\(3,\)"),
    "pad_value": (lambda lib, F: F.pad(x(lib), (1, 1), mode="reflect", value=3.0), "value"),
    "pad_circular": (lambda lib, F: F.pad(x(lib), (4, 1), mode="circular"), "pad.*up to 3"),
    "pad_crop": (lambda lib, F: F.pad(x(lib), (-2, -2)), "pad"),
    "fold_dims": (lambda lib, F: F.fold(lib.ones(2), 2, 1), r"fold.*\(2,\)"),
    "unfold_kernel": (lambda lib, F: F.unfold(lib.ones(1, 1, 2, 2), 3), r"unfold.*\(3, 3\)"),
    "unfold_stride": (lambda lib, F: F.unfold(lib.ones(1, 1, 2, 2), 1, stride=0), "stride"),
    "fold_blocks": (lambda lib, F: F.fold(lib.ones(1, 4, 3), (3, 3), 2), r"fold.*\(1, 4, 3\)"),
    "fold_channels": (lambda lib, F: F.fold(lib.ones(1, 3, 4), (3, 3), 2), r"fold.*\(1, 3, 4\)"),
    # indices
    "index": (lambda lib, F: x(lib)[2], r"\(2, 3\)"),
    "index_many": (lambda lib, F: x(lib)[0, 0, 0], "too many"),
    "index_scalar": (lambda lib, F: lib.tensor(3.0)[0], "too many|0-dim"),
    "index_tensor": (lambda lib, F: x(lib)[long(lib, 0, 5)], "5"),
    "index_float": (lambda lib, F: x(lib)[lib.tensor([1.0])], "integer or bool.*float32"),
    "index_mask": (lambda lib, F: x(lib)[lib.tensor([True])], "bool"),
    "index_text": (lambda lib, F: x(lib)["a"], "'a'"),
    "gather_dims": (lambda lib, F: x(lib).gather(1, long(lib, 0)), r"gather.*\(2, 3\).*\(1,\)"),
    "gather_range": (lambda lib, F: x(lib).gather(1, lib.tensor([[3]])), r"gather.*0\.\.2.*3"),
    "scatter_range": (lambda lib, F: x(lib).scatter(1, lib.tensor([[5]]), 1.0), "scatter.*5"),
    "scatter_reduce": (lambda lib, F: x(lib).scatter(1, lib.tensor([[0]]), 1.0, reduce="max"),
                       "'max'"),
    "scatter_reduce_kind": (lambda lib, F: x(lib).scatter_reduce(1, lib.tensor([[0]]),
                            lib.ones(1, 1), "most"), "'most'.*amax"),
    "scatter_src": (lambda lib, F: x(lib).scatter(1, lib.tensor([[0, 1]]), lib.ones(1, 1)),
                    r"scatter.*\(1, 2\).*\(1, 1\)"),
    "index_add_range": (lambda lib, F: x(lib).index_add(0, long(lib, 2), lib.ones(1, 3)), "2"),
    "index_add_shape": (lambda lib, F: x(lib).index_add(0, long(lib, 0, 1), lib.ones(2, 2)),
                        r"index_add.*\(2, 3\).*\(2, 2\)"),
    "index_copy": (lambda lib, F: x(lib).index_copy(0, long(lib, 5), lib.ones(1, 3)), "5"),
    "index_fill": (lambda lib, F: x(lib).index_fill(1, long(lib, 3), 9.0), "3"),
    "index_fill_value": (lambda lib, F: x(lib).index_fill(1, long(lib, 0), lib.ones(2)),
                         r"\(2,\)"),
    "index_select_matrix": (lambda lib, F: x(lib).index_select(0, lib.tensor([[0]])), "vector"),
    "index_select_dtype": (lambda lib, F: x(lib).index_select(0, lib.ones(1)), "float32"),
    "index_put_dtype": (lambda lib, F: x(lib).index_put((long(lib, 0),), long(lib, 1)), "int64"),
    "index_put_shape": (lambda lib, F: x(lib).index_put((long(lib, 0),), lib.ones(2)),
                        r"index_put.*\(2,\)"),
    "take": (lambda lib, F: lib.take(x(lib), long(lib, 9)), "take.*9"),
    "take_dtype": (lambda lib, F: lib.take(x(lib), lib.ones(1)), "take.*float32"),
    "put": (lambda lib, F: x(lib).put_(long(lib, 0, 1), lib.ones(1)), r"put_.*\(1,\)"),
    "masked_select": (lambda lib, F: lib.masked_select(x(lib), x(lib)), "bool.*float32"),
    "masked_fill_shape": (lambda lib, F: x(lib).masked_fill(lib.ones(2) > 0, 1.0), r"\(2,\)"),
    "masked_fill_value": (lambda lib, F: x(lib).masked_fill(x(lib) > 0, lib.ones(2)), r"\(2,\)"),
    "masked_scatter": (lambda lib, F: x(lib).masked_scatter(x(lib) > 1, lib.ones(1)), "4.*1"),
    "select_scatter": (lambda lib, F: lib.select_scatter(x(lib), lib.zeros(2), 0, 1),
                       r"\(3,\).*\(2,\)"),
    "fill_diagonal": (lambda lib, F: lib.ones(3).fill_diagonal_(1), r"fill_diagonal_.*\(3,\)"),
    # products and linear algebra
    "mv": (lambda lib, F: lib.mv(x(lib), lib.ones(2)), r"\(2, 3\).*\(2,\)"),
    "mv_dims": (lambda lib, F: lib.mv(lib.ones(3), lib.ones(3)), "mv"),
    "outer": (lambda lib, F: lib.outer(x(lib), lib.ones(3)), r"outer.*\(2, 3\)"),
    "inner": (lambda lib, F: lib.inner(lib.ones(2), lib.ones(3)), r"inner.*\(2,\).*\(3,\)"),
    "addmm": (lambda lib, F: lib.addmm(lib.ones(3, 3), x(lib), lib.ones(3, 2)),
              r"addmm.*\(3, 3\).*\(2, 2\)"),
    "tensordot": (lambda lib, F: lib.tensordot(x(lib), x(lib), 1), r"tensordot.*\(2, 3\)"),
    "cross": (lambda lib, F: lib.linalg.cross(lib.ones(2), lib.ones(2)), r"cross.*\(2,\)"),
    "einsum_letters": (lambda lib, F: lib.einsum("ij", lib.ones(2)), "einsum.*2.*1"),
    "einsum_operands": (lambda lib, F: lib.einsum("ij,jk", x(lib)), "einsum.*2 operands, came 1"),
    "einsum_sizes": (lambda lib, F: lib.einsum("ij,jk", x(lib), x(lib)),
                     r"'j'.*3 and 2.*\(2, 3\)"),
    "einsum_result": (lambda lib, F: lib.einsum("i->j", lib.ones(2)), "einsum.*'i->j'"),
    "einsum_text": (lambda lib, F: lib.einsum("i1", x(lib)), "einsum.*'i1'"),
    "inv_shape": (lambda lib, F: lib.linalg.inv(x(lib)), r"inv.*square.*\(2, 3\)"),
    "inv_dtype": (lambda lib, F: lib.linalg.inv(lib.ones(2, 2, dtype=lib.int64)), "inv.*int64"),
    "inv_half": (lambda lib, F: lib.linalg.inv(lib.ones(2, 2, dtype=lib.float16)), "float16"),
    "inv_singular": (lambda lib, F: lib.linalg.inv(lib.zeros(2, 2)), r"inv.*Singular.*\(2, 2\)"),
    "solve_singular": (lambda lib, F: lib.linalg.solve(lib.zeros(2, 2), lib.ones(2)), "solve"),
    "solve_shape": (lambda lib, F: lib.linalg.solve(lib.eye(2), lib.ones(3)),
                    r"solve.*\(2, 2\).*\(3,\)"),
    "cholesky": (lambda lib, F: lib.linalg.cholesky(-lib.eye(2)), "cholesky.*positive"),
    "det": (lambda lib, F: lib.det(lib.ones(3)), r"det.*\(3,\)"),
    "svd_dims": (lambda lib, F: lib.linalg.svd(lib.ones(3)), "svd"),
    "qr_mode": (lambda lib, F: lib.linalg.qr(x(lib), "full"), "qr.*'full'"),
    "matrix_norm": (lambda lib, F: lib.linalg.matrix_norm(x(lib), 3), "matrix_norm.*3"),
    "matrix_power": (lambda lib, F: lib.linalg.matrix_power(x(lib), 2), r"\(2, 3\)"),
    "multi_dot": (lambda lib, F: lib.linalg.multi_dot([x(lib)]), "multi_dot.*two"),
    "cdist": (lambda lib, F: lib.cdist(x(lib), lib.ones(2, 2)), r"cdist.*\(2, 3\).*\(2, 2\)"),
    "cdist_p": (lambda lib, F: lib.cdist(x(lib), x(lib), p=-1), "cdist.*-1"),
    "cosine": (lambda lib, F: F.cosine_similarity(long(lib, 1), long(lib, 1)), "int64"),
    "cov": (lambda lib, F: lib.cov(lib.ones(2, 2, 2)), r"cov.*\(2, 2, 2\)"),
    # Python's side of a tensor
    "size": (lambda lib, F: x(lib).size(2), r"size.*\[-2, 1\].*2"),
    "stride": (lambda lib, F: x(lib).stride(2), r"stride.*\[-2, 1\].*2"),
    "contains": (lambda lib, F: "a" in x(lib), "str"),
    "format": (lambda lib, F: f"{x(lib):.3f}", "format"),
    "bool_empty": (lambda lib, F: bool(lib.ones(0)), "truth"),
    "numpy": (lambda lib, F: lib.ones(2, requires_grad=True).numpy(), "detach"),
    "deepcopy": (lambda lib, F: __import__("copy").deepcopy(
        lib.ones(2, requires_grad=True) * 2), "leaf"),
}  # fmt: skip
KINDS = (IndexError, TypeError, ValueError, NotImplementedError, RuntimeError)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name):
    torch = pytest.importorskip("torch")
    call, message = MISTAKES[name]
    with pytest.raises(KINDS) as theirs:
        call(torch, torch.nn.functional)
    expected = next(kind for kind in KINDS if isinstance(theirs.value, kind))
    with pytest.raises(expected, match=message):
        call(ag, F)
