"""`gradcheck`, `gradgradcheck` and `autograd.functional`, against PyTorch and by known mistakes."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad.autograd import functional, gradcheck, gradgradcheck
from allgrad.autograd.numerical import GradcheckError

X = np.array([[0.3, -1.2, 2.0], [0.7, 1.1, -0.4]])
W = np.linspace(-1, 1, 12).reshape(4, 3)


def leaf(array, dtype=ag.float64):
    return ag.tensor(array, dtype=dtype, requires_grad=True)


class Wrong(ag.autograd.Function):
    """x**2, whose gradient is right, and whose second derivative is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x.detach()


GOOD = {
    "one": (lambda x: x.sin(), (X,)),
    "two": (lambda x, w: F.linear(x, w).tanh(), (X, W)),
    "several outputs": (lambda x: (x.exp(), x.sum(0)), (X,)),
    "an output that is constant": (lambda x: (x * 2, x.detach() * 0), (X,)),
    "scalar": (lambda x: (x**3).mean(), (X,)),
    "conv": (lambda x, w: F.conv1d(x.reshape(1, 2, 3), w.reshape(2, 2, 3), padding=1), (X, W)),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", GOOD)
def test_right_gradients_pass(name, fast):
    function, arrays = GOOD[name]
    inputs = tuple(leaf(a) for a in arrays)
    assert gradcheck(function, inputs, fast_mode=fast, check_grad_dtypes=True)
    assert gradgradcheck(function, inputs, fast_mode=fast)
    assert gradgradcheck(function, inputs, gen_non_contig_grad_outputs=True, fast_mode=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_complex_numbers(fast):
    z = ag.tensor(X[0] + 1j * X[1], dtype=ag.complex128, requires_grad=True)
    assert gradcheck(lambda z: z * z, z, fast_mode=fast)
    assert gradcheck(lambda z: z.abs(), z, fast_mode=fast)
    assert gradgradcheck(lambda z: z * z.exp(), z, fast_mode=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_wrong_gradients_fail(fast):
    x = leaf(X)
    assert gradcheck(Wrong.apply, x, fast_mode=fast)
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to"):
        gradgradcheck(Wrong.apply, x, fast_mode=fast)
    assert gradgradcheck(Wrong.apply, x, raise_exception=False, fast_mode=fast) is False
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda x: x * x.detach(), x, fast_mode=fast)


def test_random_backward_fails():
    class Noisy(ag.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 + 1e-7 * ag.rand(()))

    x = leaf(X)
    with pytest.raises(GradcheckError, match="two backward passes"):
        gradcheck(Noisy.apply, x)
    assert gradcheck(Noisy.apply, x, nondet_tol=1e-6)


def test_arguments():
    with pytest.raises(ValueError, match="requires_grad"):
        gradcheck(lambda x: x, ag.ones(2))
    with pytest.warns(UserWarning, match="double precision"):
        gradcheck(lambda x: x * 2, leaf(X, ag.float32), eps=1e-2, atol=1e-2)
    for option in ("check_forward_ad", "check_batched_grad", "masked"):
        with pytest.raises(NotImplementedError, match=option):
            gradcheck(lambda x: x, leaf(X), **{option: True})
    with pytest.raises(ValueError, match="check_backward_ad"):
        gradcheck(lambda x: x, leaf(X), check_backward_ad=False)


# -- functional ----------------------------------------------------------------------------------
def two(lib):
    return (lib.tensor(X), lib.tensor(W[:2])), (lib.tensor(X * 2), lib.tensor(W[2:]))


def scalar(x, y):
    return (x**2 * y).sum() + (x * y**3).sin().sum()


def pair(x, y):
    return x * y.exp(), (x + y**2).sum(0)


def independent(x, y):
    return x * 3


PROGRAMS = {
    "jacobian": lambda lib, f: f.jacobian(pair, two(lib)[0]),
    "jacobian one": lambda lib, f: f.jacobian(lambda x: x**2, two(lib)[0][0]),
    "jacobian vectorized": lambda lib, f: f.jacobian(pair, two(lib)[0], vectorize=True),
    "jacobian unused": lambda lib, f: f.jacobian(independent, two(lib)[0]),
    "jacobian constant": lambda lib, f: f.jacobian(lambda x: lib.ones(2), two(lib)[0][0]),
    "hessian": lambda lib, f: f.hessian(scalar, two(lib)[0]),
    "hessian one": lambda lib, f: f.hessian(lambda x: (x**3).prod(), two(lib)[0][0]),
    "vjp": lambda lib, f: f.vjp(pair, two(lib)[0], (two(lib)[1][0], two(lib)[1][1][0])),
    "vjp scalar": lambda lib, f: f.vjp(scalar, two(lib)[0]),
    "jvp": lambda lib, f: f.jvp(pair, *two(lib)),
    "jvp unused": lambda lib, f: f.jvp(independent, *two(lib)),
    "hvp": lambda lib, f: f.hvp(scalar, *two(lib)),
    "vhp": lambda lib, f: f.vhp(scalar, *two(lib)),
    "vhp linear": lambda lib, f: f.vhp(lambda x, y: x.sum() + y.sum(), *two(lib)),
}


def flat(result):
    if isinstance(result, tuple):
        return [t for r in result for t in flat(r)]
    return [result]


@pytest.mark.torch
@pytest.mark.parametrize("name", PROGRAMS)
def test_functional_like_torch(name):
    torch = pytest.importorskip("torch")
    ours = flat(PROGRAMS[name](ag, functional))
    theirs = flat(PROGRAMS[name](torch, torch.autograd.functional))
    for a, b in zip(ours, theirs, strict=True):
        assert a.requires_grad == b.requires_grad
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["jacobian", "hessian", "vjp", "jvp", "vhp", "hvp"])
def test_functional_results_can_be_differentiated(kind):
    torch = pytest.importorskip("torch")
    results = []
    for lib, f in ((ag, functional), (torch, torch.autograd.functional)):
        x = lib.tensor(X, requires_grad=True)
        options = {} if kind in ("jacobian", "hessian") else {"v": lib.tensor(X[::-1].copy())}
        if kind == "vjp":
            options = {"v": lib.tensor(2.0, dtype=lib.float64)}
        call = getattr(f, kind)
        out = flat(call(lambda x: (x**3).sum(), x, create_graph=True, **options))[-1]
        results.append(lib.autograd.grad((out * out).sum(), x)[0].numpy())
    np.testing.assert_allclose(*results, rtol=1e-10)


def test_functional_mistakes():
    x = ag.tensor(X)
    with pytest.raises(RuntimeError, match="independent"):
        functional.jacobian(lambda x: ag.ones(2), x, strict=True)
    with pytest.raises(RuntimeError, match="independent of input 1"):
        functional.vjp(independent, (x, x), x, strict=True)
    with pytest.raises(RuntimeError, match="expected v of shapes"):
        functional.vjp(lambda x: x * 2, x, ag.ones(2))
    with pytest.raises(RuntimeError, match="left out"):
        functional.vjp(lambda x: x * 2, x)
    with pytest.raises(RuntimeError, match="one element"):
        functional.hessian(lambda x: x * 2, x)
    with pytest.raises(TypeError, match="inputs"):
        functional.jacobian(lambda x: x, 3)
    with pytest.raises(TypeError, match="outputs"):
        functional.jacobian(lambda x: 3, x)
    with pytest.raises(ValueError, match="strategy"):
        functional.jacobian(lambda x: x, x, strategy="forward-mode")
