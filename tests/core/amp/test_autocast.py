"""Which functions run in which precision inside `autocast`: PyTorch's choice for each."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as AF
from allgrad import amp

LSTM = (3, 4)

# name -> function of (library, functional module, float32 tensors, bfloat16 tensors, indices)
CASES = {
    "linear": lambda lib, F, f, b, i: F.linear(f(2, 3), f(4, 3), f(4)),
    "linear_mixed": lambda lib, F, f, b, i: F.linear(b(2, 3), f(4, 3), f(4)),
    "bilinear": lambda lib, F, f, b, i: F.bilinear(f(2, 3), f(2, 3), f(4, 3, 3)),
    "matmul": lambda lib, F, f, b, i: lib.matmul(f(2, 3), f(3, 2)),
    "matmul_operator": lambda lib, F, f, b, i: f(2, 3) @ b(3, 2),
    "matmul_vectors": lambda lib, F, f, b, i: f(3) @ f(3),
    "matmul_float64": lambda lib, F, f, b, i: f(2, 3).double() @ f(3, 2).double(),
    "matmul_int": lambda lib, F, f, b, i: i.reshape(1, 2) @ i.reshape(2, 1),
    "mm": lambda lib, F, f, b, i: lib.mm(f(2, 3), f(3, 2)),
    "mv": lambda lib, F, f, b, i: lib.mv(f(2, 3), f(3)),
    "dot": lambda lib, F, f, b, i: lib.dot(f(3), f(3)),
    "vdot": lambda lib, F, f, b, i: lib.vdot(f(3), f(3)),
    "bmm": lambda lib, F, f, b, i: lib.bmm(f(2, 2, 3), f(2, 3, 2)),
    "addmm": lambda lib, F, f, b, i: lib.addmm(f(2, 2), f(2, 3), f(3, 2)),
    "baddbmm": lambda lib, F, f, b, i: lib.baddbmm(f(2, 2, 2), f(2, 2, 3), f(2, 3, 2)),
    "addbmm": lambda lib, F, f, b, i: lib.addbmm(f(2, 2), f(2, 2, 3), f(2, 3, 2)),
    "addmv": lambda lib, F, f, b, i: lib.addmv(f(2), f(2, 3), f(3)),
    "addr": lambda lib, F, f, b, i: lib.addr(f(2, 3), f(2), f(3)),
    "outer": lambda lib, F, f, b, i: lib.outer(f(2), f(3)),
    "inner": lambda lib, F, f, b, i: lib.inner(f(2, 3), f(2, 3)),
    "kron": lambda lib, F, f, b, i: lib.kron(f(2, 2), f(2, 2)),
    "einsum": lambda lib, F, f, b, i: lib.einsum("ij,jk->ik", f(2, 3), f(3, 2)),
    "einsum_diagonal": lambda lib, F, f, b, i: lib.einsum("ii->i", f(3, 3)),
    "tensordot": lambda lib, F, f, b, i: lib.tensordot(f(2, 3), f(3, 2), 1),
    "multi_dot": lambda lib, F, f, b, i: lib.linalg.multi_dot([f(2, 3), f(3, 2)]),
    "prelu": lambda lib, F, f, b, i: F.prelu(f(2, 3), f(3)),
    "attention": lambda lib, F, f, b, i: F.scaled_dot_product_attention(*[f(1, 2, 3, 4)] * 3),
    "lstm": lambda lib, F, f, b, i: lib.nn.LSTM(*LSTM)(f(2, 1, 3))[0],
    "lstm_half": lambda lib, F, f, b, i: lib.nn.LSTM(*LSTM)(b(2, 1, 3))[0],
    "gru": lambda lib, F, f, b, i: lib.nn.GRU(*LSTM)(f(2, 1, 3))[0],
    "gru_half": lambda lib, F, f, b, i: lib.nn.GRU(*LSTM)(b(2, 1, 3))[0],
    "rnn": lambda lib, F, f, b, i: lib.nn.RNN(*LSTM)(f(2, 1, 3))[0],
    "lstm_cell": lambda lib, F, f, b, i: lib.nn.LSTMCell(*LSTM)(f(2, 3))[0],
    "gru_cell": lambda lib, F, f, b, i: lib.nn.GRUCell(*LSTM)(f(2, 3)),
    "rnn_cell": lambda lib, F, f, b, i: lib.nn.RNNCell(*LSTM)(f(2, 3)),
    "mha": lambda lib, F, f, b, i: lib.nn.MultiheadAttention(4, 2)(*[f(2, 1, 4)] * 3)[0],
    "encoder_layer": lambda lib, F, f, b, i: lib.nn.TransformerEncoderLayer(4, 2, 8)(f(2, 1, 4)),
    "cross_entropy": lambda lib, F, f, b, i: F.cross_entropy(b(2, 3), i),
    "cross_entropy_soft": lambda lib, F, f, b, i: F.cross_entropy(b(2, 3), b(2, 3)),
    "nll_loss": lambda lib, F, f, b, i: F.nll_loss(b(2, 3), i),
    "mse_loss": lambda lib, F, f, b, i: F.mse_loss(b(2, 3), b(2, 3)),
    "mse_loss_mixed": lambda lib, F, f, b, i: F.mse_loss(b(2), f(2)),
    "mse_loss_float64": lambda lib, F, f, b, i: F.mse_loss(f(2).double(), f(2).double()),
    "l1_loss": lambda lib, F, f, b, i: F.l1_loss(b(2, 3), b(2, 3)),
    "smooth_l1_loss": lambda lib, F, f, b, i: F.smooth_l1_loss(b(2, 3), b(2, 3)),
    "huber_loss": lambda lib, F, f, b, i: F.huber_loss(b(2, 3), b(2, 3)),
    "bce": lambda lib, F, f, b, i: F.binary_cross_entropy(b(2, 3), b(2, 3)),
    "bce_logits": lambda lib, F, f, b, i: F.binary_cross_entropy_with_logits(b(2, 3), b(2, 3)),
    "kl_div": lambda lib, F, f, b, i: F.kl_div(b(2, 3), b(2, 3), reduction="sum"),
    "hinge": lambda lib, F, f, b, i: F.hinge_embedding_loss(b(2, 3), b(2, 3)),
    "cosine": lambda lib, F, f, b, i: F.cosine_embedding_loss(b(2, 3), b(2, 3), lib.ones(2)),
    "ranking": lambda lib, F, f, b, i: F.margin_ranking_loss(b(2), b(2), b(2)),
    "soft_margin": lambda lib, F, f, b, i: F.soft_margin_loss(b(2, 3), b(2, 3)),
    "multi_margin": lambda lib, F, f, b, i: F.multi_margin_loss(b(2, 3), i),
    "multilabel": lambda lib, F, f, b, i: F.multilabel_margin_loss(b(2, 2), i.repeat(2, 1)),
    "triplet": lambda lib, F, f, b, i: F.triplet_margin_loss(b(2, 3), b(2, 3), b(2, 3)),
    "poisson": lambda lib, F, f, b, i: F.poisson_nll_loss(b(2, 3), b(2, 3)),
    "softmax": lambda lib, F, f, b, i: F.softmax(b(2, 3), 1),
    "softmax_dtype": lambda lib, F, f, b, i: F.softmax(b(2, 3), 1, dtype=lib.float32),
    "log_softmax": lambda lib, F, f, b, i: F.log_softmax(b(2, 3), 1),
    "sum": lambda lib, F, f, b, i: b(2, 3).sum(),
    "mean": lambda lib, F, f, b, i: b(2, 3).mean(1),
    "prod": lambda lib, F, f, b, i: b(2, 3).prod(),
    "var": lambda lib, F, f, b, i: b(2, 3).var(),
    "norm": lambda lib, F, f, b, i: lib.norm(b(2, 3)),
    "exp": lambda lib, F, f, b, i: b(2, 3).exp(),
    "pow": lambda lib, F, f, b, i: b(2, 3) ** 2,
    "trace": lambda lib, F, f, b, i: lib.trace(b(2, 2)),
    "quantile": lambda lib, F, f, b, i: lib.quantile(b(4), 0.5),
    "cdist": lambda lib, F, f, b, i: lib.cdist(b(2, 3), b(2, 3)),
    "pairwise_distance": lambda lib, F, f, b, i: F.pairwise_distance(b(2, 3), b(2, 3)),
    "cosine_similarity": lambda lib, F, f, b, i: F.cosine_similarity(b(2, 3), b(2, 3)),
    "rms_norm": lambda lib, F, f, b, i: F.rms_norm(b(2, 3), (3,), b(3)),
    "mlp": lambda lib, F, f, b, i: lib.nn.Sequential(
        lib.nn.Linear(3, 4), lib.nn.LayerNorm(4), lib.nn.GELU(), lib.nn.Linear(4, 2)
    )(f(2, 3)),
    "layer_norm": lambda lib, F, f, b, i: F.layer_norm(b(2, 3), (3,), f(3), f(3)),
    "layer_norm_float32": lambda lib, F, f, b, i: F.layer_norm(f(2, 3), (3,), f(3), f(3)),
    "group_norm": lambda lib, F, f, b, i: F.group_norm(b(2, 4, 3), 2, f(4), f(4)),
    "batch_norm": lambda lib, F, f, b, i: F.batch_norm(b(2, 4, 3), *[f(4)] * 4, True),
    "instance_norm": lambda lib, F, f, b, i: F.instance_norm(b(2, 4, 3)),
    "normalize": lambda lib, F, f, b, i: F.normalize(b(2, 3)),
    "max_pool2d": lambda lib, F, f, b, i: F.max_pool2d(b(2, 2, 4, 4), 2),
    "avg_pool2d": lambda lib, F, f, b, i: F.avg_pool2d(b(2, 2, 4, 4), 2),
    "avg_pool3d": lambda lib, F, f, b, i: F.avg_pool3d(b(2, 2, 4, 4, 4), 2),
    "max_pool3d": lambda lib, F, f, b, i: F.max_pool3d(b(2, 2, 4, 4, 4), 2),
    "adaptive_avg_pool2d": lambda lib, F, f, b, i: F.adaptive_avg_pool2d(b(2, 2, 4, 4), 2),
    "adaptive_avg_pool3d": lambda lib, F, f, b, i: F.adaptive_avg_pool3d(b(2, 2, 4, 4, 4), 2),
    "grid_sample": lambda lib, F, f, b, i: F.grid_sample(
        b(1, 1, 3, 3), b(1, 2, 2, 2), align_corners=False
    ),
    "interpolate": lambda lib, F, f, b, i: F.interpolate(b(1, 1, 3, 3), scale_factor=2),
    "cat": lambda lib, F, f, b, i: lib.cat([b(2), f(2)]),
    "cat_half": lambda lib, F, f, b, i: lib.cat([b(2), b(2)]),
    "stack": lambda lib, F, f, b, i: lib.stack([b(2), f(2)]),
    "add": lambda lib, F, f, b, i: b(2) + f(2),
    "mul_number": lambda lib, F, f, b, i: b(2) * 2.5,
    "where": lambda lib, F, f, b, i: lib.where(i > 0, b(2), f(2)),
    "gelu": lambda lib, F, f, b, i: F.gelu(b(2)),
    "relu": lambda lib, F, f, b, i: F.relu(b(2)),
    "dropout": lambda lib, F, f, b, i: F.dropout(b(2), 0.5),
    "embedding": lambda lib, F, f, b, i: F.embedding(i, f(3, 2)),
}
for _n in (1, 2, 3):
    CASES[f"conv{_n}d"] = lambda lib, F, f, b, i, n=_n: getattr(F, f"conv{n}d")(
        f(2, 3, *[5] * n), f(4, 3, *[3] * n), f(4)
    )
    CASES[f"conv_transpose{_n}d"] = lambda lib, F, f, b, i, n=_n: getattr(F, f"conv_transpose{n}d")(
        f(2, 3, *[5] * n), f(3, 4, *[3] * n), f(4)
    )


def result_of(lib, functional, make, case):
    rng = np.random.default_rng(3)

    def f(*shape):
        return make(rng.uniform(0.1, 0.9, shape).astype(np.float32))

    def b(*shape):
        return f(*shape).to(lib.bfloat16)

    with lib.autocast("cpu"):
        return CASES[case](lib, functional, f, b, make(np.array([0, 1])))


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_dtype_is_pytorchs(case):
    torch = pytest.importorskip("torch")
    try:
        want = result_of(torch, torch.nn.functional, torch.from_numpy, case)
    except RuntimeError as error:  # on some processors PyTorch has no LSTM in bfloat16
        if "could not create a primitive" not in str(error):
            raise
        pytest.skip(f"PyTorch: {error}")
    got = result_of(ag, AF, ag.from_numpy, case)
    assert str(got.dtype).removeprefix("allgrad.") == str(want.dtype).removeprefix("torch.")
    assert tuple(got.shape) == tuple(want.shape)


def test_the_master_weight_gets_a_float32_gradient():
    weight = ag.tensor([[0.5, 1.25], [2.0, -1.0]], requires_grad=True)
    x = ag.tensor([[1.0, 2.0]])
    with amp.autocast("cpu"):
        y = AF.linear(x, weight)
        assert y.dtype is ag.bfloat16
        loss = AF.mse_loss(y, ag.zeros(1, 2))
    assert loss.dtype is ag.float32
    loss.backward()
    assert weight.grad.dtype is ag.float32
    np.testing.assert_allclose(weight.grad.numpy(), [[3.0, 6.0], [0.0, 0.0]])


def casts_of(weight, function):
    """How often `weight` was cast while `function` ran: the distinct nodes that read it."""
    y = function()
    found, stack, seen = set(), [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen or node.is_leaf_node:
            continue
        seen.add(id(node))
        if any(parent is weight for parent in node.parents):
            found.add(id(node))
        stack.extend(node.parents)
    return len(found), y


@pytest.mark.parametrize(("cache", "casts"), [(True, 1), (False, 3)])
def test_a_weight_is_cast_once_in_the_outermost_region(cache, casts):
    weight = ag.ones(3, 3, requires_grad=True)
    x = ag.ones(2, 3)

    def forward():
        with amp.autocast("cpu", cache_enabled=cache):
            y = AF.linear(AF.linear(x, weight), weight)
            with amp.autocast("cpu"):
                return AF.linear(y, weight).sum()

    count, y = casts_of(weight, forward)
    assert count == casts
    y.backward()
    assert weight.grad.dtype is ag.float32


def test_a_changed_weight_is_cast_anew():
    weight = ag.ones(2, 2, requires_grad=True)
    with amp.autocast("cpu"):
        first = AF.linear(ag.ones(1, 2), weight)
        with ag.no_grad():
            weight.mul_(3)
        second = AF.linear(ag.ones(1, 2), weight)
    assert first.tolist() == [[2, 2]]
    assert second.tolist() == [[6, 6]]


def test_a_cast_made_without_recording_is_not_kept():
    weight = ag.ones(2, 2, requires_grad=True)
    with amp.autocast("cpu"):
        with ag.no_grad():
            AF.linear(ag.ones(1, 2), weight)
        AF.linear(ag.ones(1, 2), weight).sum().backward()
    assert weight.grad.tolist() == [[1, 1], [1, 1]]


def test_regions_nest_and_end():
    x, w = ag.ones(2, 2), ag.ones(2, 2)
    assert not ag.is_autocast_enabled()
    with amp.autocast("cpu", dtype=ag.float16):
        assert ag.get_autocast_dtype("cpu") is ag.float16
        assert (x @ w).dtype is ag.float16
        with amp.autocast("cpu", enabled=False):
            assert not ag.is_autocast_cpu_enabled()
            assert (x @ w).dtype is ag.float32
            with amp.autocast("cpu"):
                assert (x @ w).dtype is ag.bfloat16
        assert (x @ w).dtype is ag.float16
    assert (x @ w).dtype is ag.float32
    with pytest.raises(ZeroDivisionError), amp.autocast("cpu"):
        raise ZeroDivisionError
    assert not ag.is_autocast_enabled("cpu")


def test_decorator_and_reuse():
    region = amp.autocast("cpu")

    @region
    def product(a):
        with region:  # one object, entered twice
            assert (a @ a).dtype is ag.bfloat16
        return a @ a

    assert product(ag.ones(2, 2)).dtype is ag.bfloat16
    assert product.__name__ == "product"
    assert not ag.is_autocast_enabled()


def test_other_threads_are_not_concerned():
    seen = []
    with amp.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append((ag.ones(1, 1) @ ag.ones(1, 1)).dtype))
        thread.start()
        thread.join(30)
    assert seen == [ag.float32]


def test_defaults_can_be_set():
    assert amp.get_autocast_cpu_dtype() is ag.bfloat16
    try:
        ag.set_autocast_dtype("cpu", ag.float16)
        with amp.autocast("cpu"):
            assert (ag.ones(1, 1) @ ag.ones(1, 1)).dtype is ag.float16
    finally:
        ag.set_autocast_dtype("cpu", ag.bfloat16)
    assert ag.is_autocast_cache_enabled()
    try:
        ag.set_autocast_cache_enabled(False)
        assert not ag.is_autocast_cache_enabled()
    finally:
        ag.set_autocast_cache_enabled(True)
    assert amp.is_autocast_available("cpu")
    assert not amp.is_autocast_available("cuda")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="of type `str`, came int"):
        amp.autocast(1)
    with pytest.raises(RuntimeError, match="unknown device type 'gpu'"):
        amp.autocast("gpu")
    with pytest.raises(RuntimeError, match="bfloat16 or float16"):
        ag.set_autocast_dtype("cpu", ag.float32)
    with pytest.warns(UserWarning, match="'cuda' is not available"), amp.autocast("cuda"):
        assert not ag.is_autocast_enabled()
    with pytest.warns(UserWarning, match="bfloat16 or float16"), amp.autocast("cpu", ag.float64):
        assert not ag.is_autocast_enabled()


def test_custom_functions():
    class Square(ag.autograd.Function):
        @staticmethod
        @amp.custom_fwd(device_type="cpu", cast_inputs=ag.float32)
        def forward(ctx, x):
            assert not ag.is_autocast_enabled()
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @amp.custom_bwd(device_type="cpu")
        def backward(ctx, grad):
            assert not ag.is_autocast_enabled()
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    x = ag.tensor([3.0], requires_grad=True)
    with amp.autocast("cpu"):
        y = Square.apply(x.to(ag.bfloat16))
    assert y.dtype is ag.float32
    y.sum().backward()
    assert x.grad.tolist() == [6.0]

    class Product(ag.autograd.Function):
        @staticmethod
        @amp.custom_fwd
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        @amp.custom_bwd
        def backward(ctx, grad):
            assert ag.is_autocast_enabled()
            a, b = ctx.saved_tensors
            return grad @ b.t(), a.t() @ grad

    a = ag.ones(2, 2, requires_grad=True)
    with amp.autocast("cpu"):
        y = Product.apply(a, ag.ones(2, 2))
    assert y.dtype is ag.bfloat16
    y.sum().backward()
    assert a.grad.dtype is ag.float32
    assert a.grad.tolist() == [[2, 2], [2, 2]]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("dtype", "mixed"), [("bfloat16", False), ("float16", False), ("float32", True)]
)
def test_gradients_of_gradients(dtype, mixed):
    torch = pytest.importorskip("torch")

    def penalty(lib):
        x = lib.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=getattr(lib, dtype), requires_grad=True)
        w = lib.tensor([[0.5, 1.0], [2.0, -1.0]], dtype=getattr(lib, dtype), requires_grad=True)
        with lib.autocast("cpu", enabled=mixed):
            y = lib.tanh(lib.nn.functional.linear(x, w)).sum()
        (grad,) = lib.autograd.grad(y, x, create_graph=True)
        (grad * grad).sum().backward()
        assert str(w.grad.dtype).endswith(dtype)
        return w.grad.float().numpy()

    np.testing.assert_allclose(penalty(ag), penalty(torch), rtol=2e-2)
