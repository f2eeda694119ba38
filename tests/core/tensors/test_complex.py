"""Complex tensors: every function against PyTorch and finite differences, views, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

S = (3, 4)

# name -> (function of complex tensors, how many). Results may be real or complex.
FUNCTIONS = {
    "add": (lambda lib, a, b: a + b, 2),
    "add_alpha": (lambda lib, a, b: lib.add(a, b, alpha=2 - 1j), 2),
    "sub_alpha": (lambda lib, a, b: lib.sub(a, b, alpha=0.5j), 2),
    "mul": (lambda lib, a, b: a * b, 2),
    "mul_number": (lambda lib, a: a * (1 - 2j) * 3, 1),
    "div": (lambda lib, a, b: a / b, 2),
    "rdiv": (lambda lib, a: (2 + 1j) / a, 1),
    "pow": (lambda lib, a, b: a**b, 2),
    "pow_number": (lambda lib, a: a**3, 1),
    "pow_square": (lambda lib, a: a**2, 1),
    "pow_complex": (lambda lib, a: a ** (0.5 + 1j), 1),
    "rpow": (lambda lib, a: 2**a, 1),
    "with_real": (lambda lib, a, b: a * b.real + b.imag / a, 2),
    "matmul": (lambda lib, a, b: a @ b.t(), 2),
    "dot": (lambda lib, a, b: a[0] @ b[1], 2),
    "adjoint": (lambda lib, a, b: a.mH @ b, 2),
    "sum": (lambda lib, a: a.sum(1), 1),
    "mean": (lambda lib, a: a.mean(0, keepdim=True), 1),
    "prod": (lambda lib, a: a.prod(1), 1),
    "cumsum": (lambda lib, a: a.cumsum(0), 1),
    "cumprod": (lambda lib, a: a.cumprod(1), 1),
    "logsumexp": (lambda lib, a: a.logsumexp(1), 1),
    "var": (lambda lib, a: a.var(1), 1),
    "std": (lambda lib, a: a.std(), 1),
    "norm": (lambda lib, a: a.norm(dim=1), 1),
    "norm_3": (lambda lib, a: lib.norm(a, 3), 1),
    "norm_1": (lambda lib, a: lib.norm(a, 1, 0), 1),
    "norm_inf": (lambda lib, a: lib.norm(a, float("inf")), 1),
    "where": (lambda lib, a, b: lib.where(a.real > 0, a, b), 2),
    "lerp": (lambda lib, a, b: lib.lerp(a, b, 0.3), 2),
    "addcmul": (lambda lib, a, b: lib.addcmul(a, a, b, value=2), 2),
    "cat": (lambda lib, a, b: lib.cat([a, b]), 2),
    "index": (lambda lib, a: a[[0, 0, 2]], 1),
    "flip": (lambda lib, a: a.flip(0), 1),
    "conj_product": (lambda lib, a: a * a.conj(), 1),
    "to_real": (lambda lib, a: lib.view_as_real(a * 2), 1),
    "angle": (lambda lib, a: a.angle(), 1),
    **{
        name: (lambda lib, a, name=name: getattr(a, name)(), 1)
        for name in (
            "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "conj", "cos", "cosh", "exp",
            "exp2", "expm1", "log", "log10", "log1p", "log2", "neg", "reciprocal", "rsqrt", "sgn",
            "sigmoid", "sin", "sinc", "sinh", "sqrt", "square", "tan", "tanh", "clone",
        )
    },
    "real": (lambda lib, a: a.real * 2, 1),
    "imag": (lambda lib, a: a.imag * 2, 1),
}  # fmt: skip

LIMITS = {np.complex64: (3e-4, 3e-5), np.complex128: (1e-10, 1e-11)}


def numbers(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size, turn = rng.uniform(0.4, 1.6, S), rng.uniform(-3, 3, S)
        made.append((size * np.exp(1j * turn)).astype(dtype))
    return made


def cotangent(value):
    rng = np.random.default_rng(5)
    g = rng.standard_normal(value.shape)
    if value.dtype.kind == "c":
        g = g + 1j * rng.standard_normal(value.shape)
    return np.asarray(g, value.dtype)


def run(lib, function, arrays):
    leaves = [lib.tensor(a, requires_grad=True) for a in arrays]
    y = function(lib, *leaves)
    value = y.detach().resolve_conj().numpy()
    y.backward(lib.tensor(cotangent(value)))
    return value, [t.grad.resolve_conj().numpy() for t in leaves]


@pytest.mark.parametrize("dtype", LIMITS, ids=["c64", "c128"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_like_torch(name, dtype):
    function, count = FUNCTIONS[name]
    arrays = numbers(count, dtype)
    value, grads = run(ag, function, arrays)
    expected, expected_grads = run(torch, function, arrays)
    assert value.dtype == expected.dtype
    relative, absolute = LIMITS[dtype]
    np.testing.assert_allclose(value, expected, relative, absolute)
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, relative, absolute)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences(name):
    """The gradient is dL/dx + i dL/dy of the real loss L = Re(conj(g) f(x + iy))."""
    function, count = FUNCTIONS[name]
    arrays = numbers(count, np.complex128, seed=1)
    value, grads = run(ag, function, arrays)
    g = cotangent(value)

    def loss(moved):
        y = function(ag, *map(ag.tensor, moved)).numpy()
        return float((np.conj(g) * y).real.sum())

    step = 1e-6
    rng = np.random.default_rng(2)
    for i, grad in enumerate(grads):
        for part in (1, 1j):
            direction = rng.standard_normal(S) * part
            ends = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[i] = arrays[i] + sign * step * direction
                ends.append(loss(moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            found = float((np.conj(grad) * direction).real.sum())
            assert abs(found - slope) <= 1e-6 * max(1, abs(slope)), (i, part)


def test_real_input_gets_the_real_part():
    for lib in (ag, torch):
        x = lib.tensor([1.0, 2.0], requires_grad=True)
        z = lib.tensor([1 + 1j, 2 - 3j], requires_grad=True)
        (x * z).abs().sum().backward()
        assert x.grad.dtype == lib.float32
        assert z.grad.dtype == lib.complex64
        np.testing.assert_allclose(x.grad.numpy(), [2**0.5, 13**0.5], rtol=1e-6)


def test_casts_between_real_and_complex():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    (x.to(ag.complex128) * 1j).imag.sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert ag.tensor([1, 2]).to(ag.complex64).tolist() == [1, 2]


PROGRAMS = {
    "real_in_place": lambda lib, z: z.real.mul_(2),
    "imag_in_place": lambda lib, z: z.imag.add_(1),
    "view_in_place": lambda lib, z: lib.view_as_real(z)[..., 0].exp_(),
    "set_real": lambda lib, z: setattr(z, "real", lib.ones(3, 4, dtype=lib.float64)),
    "set_imag": lambda lib, z: setattr(z, "imag", z.real * 3),
    "mul_in_place": lambda lib, z: z.mul_(1j),
    "copy": lambda lib, z: z[0].copy_(z[1]),
    "complex_view": lambda lib, z: lib.view_as_complex(lib.view_as_real(z)).mul_(2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_views_and_changes_in_place(name):
    (array,) = numbers(1, np.complex128)
    found = []
    for lib in (ag, torch):
        leaf = lib.tensor(array, requires_grad=True)
        z = leaf * 1
        PROGRAMS[name](lib, z)
        z.backward(lib.tensor(cotangent(array)))
        found.append((z.detach().numpy(), leaf.grad.numpy()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-12)


def test_views_share_memory():
    z = ag.tensor([1 + 2j, 3 + 4j])
    ag.view_as_real(z)[0, 1] = 9
    z.real.zero_()
    assert z.tolist() == [9j, 4j]
    pairs = ag.zeros(2, 2)
    ag.view_as_complex(pairs).fill_(1 - 1j)
    assert pairs.tolist() == [[1, -1], [1, -1]]
    x = ag.ones(2)
    assert ag.real(x) is x
    assert x.real is x
    assert x.conj() is x


def test_creation():
    assert ag.tensor([1 + 2j]).dtype is ag.complex64
    assert ag.zeros(2, dtype=ag.complex128).tolist() == [0, 0]
    assert ag.randn(2, dtype=ag.complex64).dtype is ag.complex64
    z = ag.randn(20000, dtype=ag.complex128)
    assert abs(float(z.abs().square().mean()) - 1) < 0.05  # half of it in each part
    assert float(ag.rand(2000, dtype=ag.complex64).imag.min()) >= 0
    assert ag.polar(ag.ones(1), ag.zeros(1)).item() == 1
    assert complex(ag.tensor(1 + 2j)) == 1 + 2j
    assert ag.tensor(1 + 2j).item() == 1 + 2j


MISTAKES = {
    "backward": lambda lib, z: (z * 1).sum().backward(),
    "backward_real_gradient": lambda lib, z: (z * 1).backward(lib.ones(2)),
    "backward_complex_gradient": lambda lib, z: z.abs().backward(lib.ones(2).to(lib.complex64)),
    "imag": lambda lib, z: lib.imag(lib.ones(2)),
    "view_as_real": lambda lib, z: lib.view_as_real(lib.ones(2)),
    "view_as_complex": lambda lib, z: lib.view_as_complex(lib.ones(3)),
    "view_as_complex_dtype": lambda lib, z: lib.view_as_complex(lib.ones(2, dtype=lib.int64)),
    "view_as_complex_strides": lambda lib, z: lib.view_as_complex(lib.ones(2, 3).t()),
    "complex_dtypes": lambda lib, z: lib.complex(lib.ones(2), lib.ones(2, dtype=lib.float64)),
    "complex_integers": lambda lib, z: lib.complex(*[lib.ones(2, dtype=lib.int64)] * 2),
    "complex_shapes": lambda lib, z: lib.complex(lib.ones(2), lib.ones(3)),
    "polar_integers": lambda lib, z: lib.polar(*[lib.ones(2, dtype=lib.int64)] * 2),
    "into_real": lambda lib, z: lib.ones(2).mul_(z.detach()),
    "copy_dtype": lambda lib, z: lib.ones(2).add_(1j),
    "number": lambda lib, z: float(z[0]),
    **{
        name: lambda lib, z, name=name: getattr(lib, name)(z)
        for name in (
            "floor", "ceil", "round", "trunc", "sign", "erf", "lgamma", "max", "min", "argmax",
            "sort", "median", "amax", "isposinf", "signbit", "frac",
        )
    },
    **{
        name: lambda lib, z, name=name: getattr(lib, name)(z, z)
        for name in ("lt", "ge", "maximum", "fmin", "clamp", "atan2", "floor_divide", "remainder")
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name):
    for lib in (torch, ag):
        z = lib.tensor([1 + 1j, 2 - 1j], requires_grad=True)
        with pytest.raises(RuntimeError):
            MISTAKES[name](lib, z)
