"""Elementwise, reducing, scanning and sorting functions: values, dtypes and ties as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NAN, INF = float("nan"), float("inf")


def plain(value):
    """What a result is, in terms that both libraries share."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if not hasattr(value, "detach"):
        return value
    return value.detach().resolve_conj().numpy()


def same(ours, theirs, what=""):
    if isinstance(theirs, list):
        assert len(ours) == len(theirs), what
        for a, b in zip(ours, theirs, strict=True):
            same(a, b, what)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype}, PyTorch {theirs.dtype}"
        assert ours.shape == theirs.shape, f"{what}: {ours.shape}, PyTorch {theirs.shape}"
        np.testing.assert_allclose(ours, theirs, 2e-6, 1e-7, err_msg=what)
    else:
        assert ours == theirs, what


def tensors(lib):
    """Small tensors with ties, specials and every kind of dtype, as attributes of a class."""

    class T:
        x = lib.tensor([[3.0, -1.5, 0.0, 2.5], [2.5, 2.5, -0.0, -7.25]])
        d = lib.tensor([[0.3, 0.7], [0.2, 0.9]], dtype=lib.float64)
        s = lib.tensor([NAN, INF, -INF, 0.0, -0.0, 1.5])
        n = lib.tensor([[1.0, NAN, 3.0, 2.0], [NAN, 5.0, 4.0, NAN]])
        i = lib.tensor([[5, -3, 0], [2, 2, -8]])
        j = lib.tensor([3, 2, -4])
        u = lib.tensor([0, 1, 255], dtype=lib.uint8)
        b = lib.tensor([[True, False], [False, False]])
        h = lib.tensor([0.5, -2.0], dtype=lib.float16)
        zero = lib.tensor(2.5)
        words = lib.tensor([3, 1, 3, 2, 1, 1])
        empty = lib.zeros(0)

    return T


VALUES = [
    # elementwise on integers, bools and numbers
    "t.u.clamp(1, 200)", "t.i.fix()",
    "t.i.sin()", "t.b.cosh()", "t.i.erfc()", "t.u.exp2()", "t.j.lgamma()", "t.i.sgn()",
    "t.j.deg2rad()", "lib.rad2deg(t.x)", "t.i.nan_to_num()",
    "t.s.nan_to_num()", "t.h.nan_to_num(posinf=1.0)", "t.s.nan_to_num(nan=3.0, neginf=-1)",
    "t.i.square()", "t.b.square()",
    "t.i.absolute()", "t.x.positive()", "lib.round(t.x, decimals=1)",
    "(t.i * 13).round()", "t.d.round(decimals=1)", "t.x.negative()", "t.i.angle()", "t.s.angle()",
    "t.h.lgamma()", "t.h.sinh()", "t.h.atan2(t.h)", "t.d.erfinv()", "t.u.logit(eps=0.1)",
    # two operands
    "lib.atan2(t.i, t.j)", "t.x.copysign(-0.0)", "t.i.copysign(t.j)", "t.i.fmax(t.j)",
    "t.s.fmin(t.s.flip(0))", "lib.maximum(t.s, t.s.flip(0))", "t.i.gcd(t.j)", "t.i.lcm(t.j)",
    "t.s.heaviside(lib.tensor(0.5))", "t.j.heaviside(lib.tensor([9]))", "t.i.ldexp(t.j)",
    "t.x.nextafter(t.x + 1)", "lib.frexp(t.x)", "lib.frexp(t.s[3:])", "t.i.float_power(2)",
    "lib.float_power(2, t.j)", "t.i.float_power(t.x[0, 0])", "t.i.xlogy(2.5)",
    "lib.xlogy(3, t.u)", "t.x.lerp(t.x + 2, 1.0)", "t.d.lerp(t.d * 2, t.d)",
    "t.i.addcmul(t.j, t.j, value=2)", "t.x.addcdiv(t.x, t.x + 10)", "lib.hypot(t.x, t.x[0])",
    "t.x.fmod(2)", "t.i.fmod(-3)", "t.i.remainder(-3)", "t.i % 3", "t.x % -2", "7 % t.j",
    "t.i // 2", "t.x.floor_divide(-2)", "t.i.true_divide(2)", "lib.divide(t.x, 2)",
    "lib.div(t.x, 2, rounding_mode='floor')", "lib.rsub(t.i, 3)", "lib.subtract(t.i, 3, alpha=2)",
    "lib.multiply(t.i, t.j)", "2 ** t.j.abs()", "t.j ** 2", "lib.pow(t.x, 3)", "0 ** t.x.abs()",
    "t.u + 300", "t.u * -1", "t.u - 2", "t.u + t.u",
    # limits
    "t.x.clamp(0, 2)", "t.i.clamp(-1)", "t.i.clamp(max=1.5)", "t.x.clamp(3, 1)",
    "t.s.clamp(-1, 1)", "t.x.clip(t.x - 1, t.x[0])", "t.n.clamp(lib.tensor(2.0))",
    "t.x.clamp(lib.tensor(NAN))", "t.i.clamp_min(0)", "lib.clamp_max(t.i, 1)", "t.b.clamp(0, 1)",
    # logic
    "t.s.isposinf()", "t.i.isneginf()", "t.s.signbit()", "t.i.signbit()", "t.s.isreal()",
    "t.x.isclose(t.x + 1e-9)", "t.s.isclose(t.s, equal_nan=True)", "t.s.allclose(t.s)",
    "t.s.allclose(t.s, equal_nan=True)", "t.i.greater(t.j)", "t.i.less_equal(2)",
    "t.x.not_equal(2.5)", "lib.greater_equal(t.i, t.x[:, :3])", "t.i << 2", "t.i >> 1", "1 << t.u",
    "t.i.bitwise_left_shift(t.j.abs())", "lib.bitwise_right_shift(t.i, 1)", "~t.i", "~t.b",
    "t.b & True", "t.i | 6", "5 ^ t.i", "t.b.logical_xor(t.d > 0.5)", "t.i.logical_and(t.j)",
    "t.s.logical_not()", "lib.isin(t.words, lib.tensor([1, 2]))",
    "lib.isin(t.words, 3, invert=True)", "lib.isin(1, t.words)", "t.x == 2.5", "t.u == 255",
    # reductions
    "t.i.sum()", "t.b.sum(0)", "t.u.sum(dtype=lib.int32)", "t.x.sum((0, 1), keepdim=True)",
    "t.x.sum(axis=0)", "t.x.mean(1)", "t.i.mean(dtype=lib.float64)", "t.x.std()",
    "t.x.var(0, False)", "t.x.var(unbiased=False)", "t.x.std(dim=(0, 1), correction=0)",
    "lib.var_mean(t.x, 1)", "lib.std_mean(t.x)", "lib.std_mean(t.x, unbiased=False)",
    "t.i.prod(1)", "t.b.prod()", "t.zero.sum(0)", "t.empty.sum()", "t.empty.prod()",
    "t.x.max()", "t.x.max(0)", "t.x.min(1, keepdim=True)", "t.x.max(1)", "lib.max(t.i, t.j)",
    "lib.min(t.i, other=t.j)", "t.x.amax((0, 1))", "t.x.amin()", "lib.aminmax(t.x)",
    "t.i.aminmax(dim=0, keepdim=True)", "t.x.argmax()", "t.x.argmin(1, keepdim=True)",
    "t.n.max()", "t.n.min(1)", "t.n.argmax(1)", "t.n.amax(0)", "t.zero.max(0)", "t.b.any()",
    "t.b.all(1)", "t.u.all()", "t.u.any(dim=0, keepdim=True)", "t.x.any((0, 1))", "t.empty.all()",
    "t.i.count_nonzero()", "t.i.count_nonzero(1)", "t.i.count_nonzero((0, 1))", "t.n.nansum()",
    "t.n.nansum(1, dtype=lib.float64)", "t.i.nansum()", "t.n.nanmean(0)", "t.n.nanmean()",
    "t.x.logsumexp((0, 1))", "t.i.logsumexp(0)", "t.s.logsumexp(0)", "t.x.norm()",
    "t.x.norm(1, 0)", "lib.norm(t.x, INF, (0, 1))", "t.x.norm(p=0, dim=1)", "lib.norm(t.x, -INF)",
    "t.x.norm('fro', dim=1, keepdim=True)", "t.x.norm(p=-1)", "t.x.norm(dtype=lib.float64)",
    "lib.dist(t.x, t.x + 1, 3)", "t.x.dist(t.x[0])",
    # scans
    "t.i.cumsum(0)", "t.b.cumsum(1)", "t.x.cumsum(-1, dtype=lib.float64)", "t.i.cumprod(1)",
    "t.u.cumprod(0)", "t.n.cumsum(1)", "t.zero.cumsum(0)", "t.zero.cumprod(-1)", "t.x.cummax(1)",
    "t.n.cummax(1)", "t.n.cummin(1)", "t.i.cummin(0)", "t.zero.cummax(0)", "t.s.logcumsumexp(0)",
    "t.x.logcumsumexp(1)", "t.i.diff()", "t.b.diff(dim=0)", "t.x.diff(2)", "t.i.diff(n=0)",
    "lib.diff(t.j, prepend=lib.tensor([7]), append=lib.tensor([1, 1]))", "t.x.diff(5)",
    "t.x.histc(4)", "t.x.histc(3, -2, 2)", "lib.histc(lib.ones(3), 2)", "t.empty.histc(2)",
    "t.words.bincount()", "lib.bincount(t.words, minlength=6)",
    "t.words.bincount(lib.ones(6) / 2)", "t.words.bincount(lib.ones(6).double())",
    "t.words[:0].bincount(minlength=2)", "t.words.bincount(t.words)",
    # order
    "t.x.sort()", "t.x.sort(0, descending=True)", "lib.sort(t.n, dim=1, stable=True)",
    "t.n.sort(1, True)[0]", "t.zero.sort()", "t.x[0].argsort()", "t.i.msort()", "t.x[0].topk(2)",
    "t.n.topk(2, 1)[0]", "lib.topk(t.i, 1, 0, largest=False)", "t.zero.topk(1)",
    "t.x.kthvalue(2)[0]", "t.x.kthvalue(1, 0, True)", "t.x.median()", "t.i.median(1)",
    "t.n.median()", "t.n.median(1)[0]", "t.n.nanmedian()", "t.n.nanmedian(1)", "t.empty.median()",
    "t.zero.median(0)", "lib.tensor([NAN, NAN]).nanmedian()", "t.words.mode()",
    "t.i.mode(1, keepdim=True)", "t.x.mode(0)[0]", "t.x.quantile(0.5)", "t.x.quantile(0.4, 1)",
    "t.x.quantile(lib.tensor([0.1, 0.9]), 0)", "t.d.quantile(0.25, 0, True)",
    "t.n.quantile(0.5, 1)", "t.n.nanquantile(0.5, 1)", "t.n.nanquantile(lib.tensor([0.0, 1.0]))",
    "t.x.quantile(lib.tensor([0.5]), keepdim=True)", "t.x.quantile(0.3, interpolation='nearest')",
    "lib.quantile(t.x, 0.3, 1, keepdim=True, interpolation='midpoint')", "t.zero.quantile(0.3)",
    "t.words.unique()", "t.words.unique(return_inverse=True, return_counts=True)",
    "lib.unique(t.x, return_counts=True)", "t.i.unique(dim=0)", "t.b.unique()",
    "lib.tensor([[1, 2], [1, 2], [0, 5]]).unique(dim=0, return_inverse=True, return_counts=True)",
    "t.words.unique_consecutive(return_inverse=True, return_counts=True)",
    "lib.unique_consecutive(lib.tensor([[1, 1, 2], [1, 1, 2]]), dim=1, return_counts=True)",
    "lib.histogram(t.x, 3)", "t.x.histogram(2, range=(-2.0, 3.0), density=True)",
    "lib.histogram(t.d, lib.tensor([0.0, 0.5, 1.0]).double(), weight=t.d)",
    "lib.searchsorted(t.j.sort()[0], t.i)", "lib.searchsorted(t.j.sort()[0], 2, right=True)",
    "lib.searchsorted(t.x.sort()[0], t.x[:, :2], side='right', out_int32=True)",
    "lib.searchsorted(t.j, t.i, sorter=t.j.argsort())", "lib.bucketize(t.x, t.x[0].sort()[0])",
    "lib.bucketize(t.words, lib.tensor([1, 2, 3]), right=True)", "3 in t.j",
    "2.5 in t.x", "4.5 in t.x",
    "t.empty.unique()", "t.empty.unique_consecutive(return_counts=True)",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", VALUES)
def test_value(text):
    ours, theirs = (
        plain(eval(text, {"lib": lib, "t": tensors(lib), "NAN": NAN, "INF": INF}))
        for lib in (ag, torch)
    )
    same(ours, theirs, text)


SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.3, 3.7, 1e-30, -1e30]
ONE = (
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin tan asin acos atan sinh cosh "
    "tanh asinh acosh atanh sigmoid erf erfc erfinv lgamma digamma logit sinc sign sgn nan_to_num "
    "frac angle floor round square abs deg2rad relu nansum nanmean median nanmedian sum norm prod "
    "diff msort signbit isposinf"
).split()
ALONG = "cummax cummin cumprod cumsum logcumsumexp logsumexp softmax amax sort".split()
TWO = (
    "add mul div pow atan2 hypot logaddexp logaddexp2 fmax fmin maximum minimum xlogy copysign "
    "heaviside nextafter fmod remainder floor_divide float_power clamp_min eq le isclose logical_or"
).split()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(dtype):
    """What functions make of nan, infinities, zeros of both signs, and numbers out of range."""
    wrong = []
    for name in [*ONE, *ALONG, *TWO]:
        results = []
        for lib in (ag, torch):
            x = lib.tensor(SPECIAL, dtype=getattr(lib, dtype))
            if name in TWO:
                results.append(plain(getattr(x.reshape(-1, 1) * 1, name)(x)))
            elif name in ALONG:
                results.append([plain(getattr(x[: i + 1], name)(0)) for i in range(len(SPECIAL))])
            else:
                results.append(plain(getattr(x, name)()))
        try:
            same(*results, name)
        except AssertionError as err:
            wrong.append(str(err))
    assert not wrong, "\n".join(wrong)


# Where several elements are equal, or at a kink: how PyTorch shares the gradient among them.
TIED = [0.0, 2.0, 2.0, -1.0, 2.0, -1.0, 0.0, -0.0]
SHARES = [
    "x.max()", "x.min()", "x.amax()", "x.amin(0)", "x.reshape(2, 4).amax(1)", "x.median()",
    "x.nanmedian()", "x.max(0).values * 1", "x.norm(INF)", "x.norm(0)", "x.norm(1)", "x.abs()",
    "x.aminmax().max", "lib.maximum(x, y)", "lib.minimum(x, y)", "lib.fmax(x, y)",
    "lib.fmin(x, y)", "x.clamp(-1, 2)", "x.clamp(y, y + 1)", "x.clamp(min=y)", "x.sgn() * x",
    "x.relu()", "x.cumprod(0)", "x.prod()", "x.norm() * 0 + (x * 0).norm()", "(x * 0).std()",
    "lib.atan2(x * 0, y * 0)", "lib.xlogy(x, y.abs())", "x.copysign(y)", "x ** y.abs()",
    "x.abs() ** y.abs()", "x.pow(0)", "x.sinc()", "lib.logaddexp(x, y)", "x.cummax(0)[0]",
    "x.reshape(2, 4).cummin(1).values", "x.nansum()", "x.logcumsumexp(0)", "x.frac()", "x.hypot(y)",
    "x.logit(0.25)", "x.nan_to_num()", "x.addcdiv(y, y + 5)", "x.fmod(y + 3)", "x.remainder(y + 3)",
    "x.dist(y, INF)", "(x * 0).dist(y * 0)", "x.quantile(0.37)", "x.std(0)",
]  # fmt: skip


@pytest.mark.parametrize("text", SHARES)
def test_gradient_at_ties(text):
    found = []
    for lib in (ag, torch):
        x = lib.tensor(TIED, dtype=lib.float64, requires_grad=True)
        y = lib.tensor([0.0, 2.0, 1.0, 0.0, -3.0, -1.0, -0.0, 1.0], dtype=lib.float64)
        y.requires_grad_(True)
        z = eval(text, {"lib": lib, "x": x, "y": y, "INF": INF})
        (z * lib.arange(1, 1 + z.numel(), dtype=lib.float64).reshape(z.shape)).sum().backward()
        found.append([t.grad.numpy() if t.grad is not None else np.zeros(8) for t in (x, y)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-12, 1e-15, err_msg=text)
