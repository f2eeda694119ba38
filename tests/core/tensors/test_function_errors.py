"""Mistakes with elementwise, reducing, scanning, sorting and random functions.

The exception is of the type that PyTorch raises; the message names the function and what came.
"""

from __future__ import annotations

import pytest

import allgrad as ag

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

# (call, part of our message)
MISTAKES = [
    # shapes
    ("lib.ones(2, 3).atan2(lib.ones(4))", r"atan2.*\(2, 3\).*\(4,\)"),
    ("lib.hypot(lib.ones(2), lib.ones(3))", r"hypot.*\(2,\).*\(3,\)"),
    ("lib.logaddexp(lib.ones(2), lib.ones(3))", r"logaddexp.*\(2,\).*\(3,\)"),
    ("lib.fmax(lib.ones(2), lib.ones(3))", r"fmax.*\(2,\).*\(3,\)"),
    ("lib.lerp(lib.ones(2), lib.ones(3), 0.5)", r"lerp.*\(2,\).*\(3,\)"),
    ("lib.addcmul(lib.ones(2), lib.ones(3), lib.ones(3))", r"addcmul.*\(2,\).*\(3,\)"),
    ("lib.ones(2).xlogy(lib.ones(3))", r"xlogy.*\(2,\).*\(3,\)"),
    ("lib.ones(2).clamp(lib.ones(3))", r"clamp.*\(2,\).*\(3,\)"),
    ("lib.ones(2).isclose(lib.ones(3))", r"isclose.*\(2,\).*\(3,\)"),
    ("lib.ones(2).logical_and(lib.ones(3))", r"logical_and.*\(2,\).*\(3,\)"),
    ("lib.ones(2).dist(lib.ones(3))", r"dist.*\(2,\).*\(3,\)"),
    ("lib.ones(2).heaviside(lib.ones(3))", r"heaviside.*\(2,\).*\(3,\)"),
    # in place
    ("lib.ones(2).add_(lib.ones(2, 2))", r"add_.*\(2,\).*\(2, 2\)"),
    ("lib.ones(2, dtype=lib.int64).add_(1.5)", "add_.*float32.*int64"),
    ("lib.ones(2, dtype=lib.int64).div_(2)", "div_.*float32.*int64"),
    ("lib.ones(2, dtype=lib.bool).add_(1)", "add_.*int64.*bool"),
    ("lib.ones(2, dtype=lib.int64).sin_()", "sin_.*float32.*int64"),
    ("lib.ones(2).float_power_(2)", "float_power_.*float64.*float32"),
    ("lib.ones(2, requires_grad=True).mul_(2)", "mul_: a leaf"),
    ("lib.ones(1).expand(3).add_(lib.ones(3))", "add_.*clone"),
    ("lib.sin_(3)", "sin_.*int"),
    # dtypes
    ("lib.ones(2, dtype=lib.bool) - lib.ones(2, dtype=lib.bool)", "sub.*bool"),
    ("lib.ones(2, dtype=lib.bool) - True", "sub.*bool"),
    ("+lib.ones(2, dtype=lib.bool)", "positive.*bool"),
    ("lib.ones(2, dtype=lib.int64).frac()", "frac.*int64"),
    ("lib.ones(2, dtype=lib.int64).hypot(lib.ones(2, dtype=lib.int64))", "hypot.*int64"),
    ("lib.logaddexp(*[lib.ones(2, dtype=lib.int64)] * 2)", "logaddexp.*int64"),
    ("lib.ones(2).gcd(lib.ones(2))", "gcd.*float32"),
    ("lib.lcm(lib.ones(2), lib.ones(2))", "lcm.*float32"),
    ("lib.nextafter(*[lib.ones(2, dtype=lib.int64)] * 2)", "nextafter.*int64"),
    ("lib.frexp(lib.ones(2, dtype=lib.int64))", "frexp.*int64"),
    ("lib.heaviside(lib.ones(2), lib.ones(2, dtype=lib.float64))", "heaviside.*float32.*float64"),
    ("lib.lerp(lib.ones(2), lib.ones(2, dtype=lib.float64), 0.1)", "lerp.*end.*float32.*float64"),
    ("lib.lerp(*[lib.ones(2, dtype=lib.int64)] * 2, 0.5)", "lerp.*int64"),
    ("lib.addcdiv(*[lib.ones(2, dtype=lib.int64)] * 3)", "addcdiv.*int64"),
    ("lib.add(lib.ones(2, dtype=lib.int64), 1, alpha=0.5)", "add.*alpha.*0.5"),
    ("lib.sub(lib.ones(2, dtype=lib.int64), 1, alpha=0.5)", "sub.*alpha.*0.5"),
    ("lib.isclose(lib.ones(2), lib.ones(2, dtype=lib.float64))", "isclose.*float32.*float64"),
    ("lib.ones(2).isclose(lib.ones(2), rtol=-1)", "isclose.*rtol=-1"),
    ("lib.ones(2) << lib.ones(2, dtype=lib.bool)", "bitwise_left_shift"),
    ("lib.ones(2) & 1", "bitwise_and"),
    ("lib.polygamma(-1, lib.ones(2))", "polygamma.*-1"),
    ("lib.mvlgamma(lib.ones(2), 0)", "mvlgamma.*0"),
    ("lib.ones(2).clamp()", "clamp"),
    ("lib.div(lib.ones(2), 2, rounding_mode='up')", "'up'.*trunc"),
    ("lib.ones(2, dtype=lib.int64) ** -1", "pow"),
    # wrong kinds of arguments
    ("lib.sin(3)", "sin.*tensor.*int"),
    ("lib.exp([1.0])", "exp.*tensor.*list"),
    ("lib.add('a', lib.ones(2))", "add.*str"),
    ("lib.atan2(lib.ones(2), None)", "atan2.*NoneType"),
    ("lib.lerp(lib.ones(2), 1.0, 0.5)", "lerp.*tensor.*float"),
    ("lib.isnan(1.0)", "isnan.*tensor.*float"),
    ("lib.sin(lib.ones(2), out=3)", "out"),
    ("lib.ones(2).sum(nonsense=1)", "nonsense"),
    ("lib.sgn(2)", "sgn.*tensor.*int"),
    ("lib.sum(3)", "sum.*tensor.*int"),
    ("lib.max([1, 2])", "max.*tensor.*list"),
    ("lib.std_mean(2.0)", "std_mean.*tensor.*float"),
    ("lib.cumsum([1], 0)", "cumsum.*tensor.*list"),
    ("lib.sort([1])", "sort.*tensor.*list"),
    ("lib.topk([1], 1)", "topk.*tensor.*list"),
    ("lib.ones(2).max(0, True, 1)", "argument"),
    # dimensions
    ("lib.ones(2).mean(2)", r"mean.*\[-1, 0\].*2"),
    ("lib.ones(2).var(-2)", r"var.*\[-1, 0\].*-2"),
    ("lib.ones(2).prod(1)", "prod.*1"),
    ("lib.ones(2, 2).amax((0, 2))", "amax.*2"),
    ("lib.ones(2).all(1)", "all.*1"),
    ("lib.ones(2).norm(dim=3)", "norm.*3"),
    ("lib.ones(2).cumsum(1)", "cumsum.*1"),
    ("lib.ones(2).cummax(1)", "cummax.*1"),
    ("lib.ones(2).sort(1)", "sort.*1"),
    ("lib.ones(2).argsort(-2)", "argsort.*-2"),
    ("lib.ones(2).median(1)", "median.*1"),
    ("lib.ones(2).quantile(0.5, 1)", "quantile.*1"),
    ("lib.ones(2).unique(dim=1)", "unique.*1"),
    ("lib.ones(2).diff(dim=1)", "diff.*1"),
    ("lib.ones(2).count_nonzero(1)", "count_nonzero.*1"),
    ("lib.tensor(1.0).sum(1)", "sum.*1"),
    ("lib.ones(2, 2).mean((1, -1))", "mean.*twice"),
    # reductions
    ("lib.ones(2, dtype=lib.int64).mean()", "mean.*int64"),
    ("lib.ones(2, dtype=lib.int64).std()", "std.*int64"),
    ("lib.ones(2, dtype=lib.int64).norm()", "norm.*int64"),
    ("lib.ones(2, dtype=lib.int64).nanmean()", "nanmean.*int64"),
    ("lib.ones(2, dtype=lib.int64).logcumsumexp(0)", "logcumsumexp.*int64"),
    ("lib.ones(0).amax()", r"amax.*\(0,\)"),
    ("lib.ones(2, 0).amin(1)", r"amin.*\(2, 0\)"),
    ("lib.ones(0).argmax()", "argmax"),
    ("lib.ones(2, 0).median(1)", r"median.*\(2, 0\)"),
    ("lib.ones(2, 0).mode(1)", r"mode.*\(2, 0\)"),
    ("lib.ones(0).aminmax()", r"\(0,\)"),
    # order
    ("lib.ones(3).kthvalue(4)", r"kthvalue.*1..3.*4"),
    ("lib.ones(3).kthvalue(0)", r"kthvalue.*1..3.*0"),
    ("lib.ones(3).topk(-1)", "topk.*-1"),
    ("lib.ones(3, dtype=lib.float16).quantile(0.5)", "quantile.*float16"),
    ("lib.ones(3).quantile(1.5)", "quantile.*1.5"),
    ("lib.ones(3, dtype=lib.int64).quantile(0.5)", "quantile.*int64"),
    ("lib.ones(3).quantile(lib.ones(1, dtype=lib.float64))", "quantile.*float32.*float64"),
    ("lib.ones(3).quantile(lib.ones(1, 1))", r"quantile.*\(1, 1\)"),
    ("lib.ones(3).quantile(0.5, interpolation='cubic')", "'cubic'.*'linear'"),
    ("lib.ones(0).quantile(0.5)", r"quantile.*\(0,\)"),
    ("lib.tensor(1).diff()", "diff"),
    ("lib.ones(3).diff(-1)", "diff.*-1"),
    ("lib.ones(3, dtype=lib.int64).histc()", "histc.*int64"),
    ("lib.ones(3).histc(0)", "histc.*0"),
    ("lib.ones(3).histc(3, 2, 1)", "histc.*2.0 to 1.0"),
    ("lib.ones(3).bincount()", "bincount.*float32"),
    ("lib.tensor([-1]).bincount()", "bincount.*>= 0"),
    ("lib.tensor([[1]]).bincount()", r"bincount.*\(1, 1\)"),
    ("lib.tensor([1]).bincount(lib.ones(2))", r"bincount.*\(1,\).*\(2,\)"),
    ("lib.tensor([1]).bincount(minlength=-1)", "bincount.*-1"),
    ("lib.trapezoid(lib.ones(3), lib.ones(2))", "trapezoid.*2 and 3"),
    ("lib.ones(3).renorm(2, 0, 1)", r"renorm.*\(3,\)"),
    ("lib.histogram(lib.ones(3, dtype=lib.int64), 2)", "histogram.*int64"),
    ("lib.histogram(lib.ones(3), 2, range=(2.0, 1.0))", "histogram.*2.0, 1.0"),
    ("lib.histogram(lib.ones(3), 2, weight=lib.ones(2))", r"histogram.*\(3,\).*\(2,\)"),
    ("lib.searchsorted(lib.ones(2, 3), lib.ones(3, 1))", r"searchsorted.*\(2, 3\).*\(3, 1\)"),
    ("lib.searchsorted(lib.ones(3), lib.ones(1), right=True, side='left')", "'left'.*right=True"),
    ("lib.bucketize(lib.ones(3), lib.ones(2, 2))", r"bucketize.*\(2, 2\)"),
    # random numbers
    ("lib.ones(2).bernoulli_(1.5)", "bernoulli_.*1.5"),
    ("(lib.ones(2) * 2).bernoulli()", "bernoulli.*2.0"),
    ("lib.ones(2, dtype=lib.int64).bernoulli()", "bernoulli.*int64"),
    ("lib.ones(2).normal_(0, -1)", "normal_.*-1"),
    ("lib.ones(2, dtype=lib.int64).normal_()", "normal_.*int64"),
    ("lib.ones(2).uniform_(2, 1)", "uniform_.*2 and 1"),
    ("lib.ones(2, dtype=lib.int64).uniform_()", "uniform_.*int64"),
    ("lib.ones(2).exponential_(0)", "exponential_.*0"),
    ("lib.ones(2, dtype=lib.int64).exponential_()", "exponential_.*int64"),
    ("lib.ones(2).geometric_(1.5)", "geometric_.*1.5"),
    ("lib.ones(2).log_normal_(0, 0)", "log_normal_.*0"),
    ("lib.ones(2).cauchy_(0, -1)", "cauchy_.*-1"),
    ("lib.ones(2).random_(3, 3)", "random_.*3"),
    ("lib.ones(2, dtype=lib.uint8).random_(0, 300)", "random_.*255"),
    ("lib.ones(3).multinomial(4)", "multinomial.*3.*4"),
    ("lib.ones(3).multinomial(0)", "multinomial.*0"),
    ("lib.ones(2, 2, 2).multinomial(1)", r"multinomial.*\(2, 2, 2\)"),
    ("(-lib.ones(2)).multinomial(1)", "multinomial"),
    ("lib.zeros(2).multinomial(1)", "multinomial"),
    ("lib.ones(2, dtype=lib.int64).multinomial(1)", "multinomial.*int64"),
    ("lib.poisson(-lib.ones(2))", "poisson"),
    ("lib.poisson(lib.ones(2, dtype=lib.int64))", "poisson.*int64"),
    ("lib.normal(lib.ones(2), -lib.ones(2))", "normal"),
    ("lib.normal(lib.ones(2), lib.ones(3))", r"normal.*\(2,\).*\(3,\)"),
    ("lib.normal(0.0, 1.0)", "normal.*size"),
    ("lib.ones(2, requires_grad=True).normal_()", "normal_: a leaf"),
    ("lib.ones(2, requires_grad=True).exponential_()", "exponential_: a leaf"),
]
# Functions that take no number in the place of a tensor.
MISTAKES += [
    (f"lib.{name}({args})", f"{name.replace('all', 'is')}.*tensor.*float")
    for name in (
        "maximum minimum fmax fmin hypot atan2 logaddexp logaddexp2 heaviside isclose allclose "
        "equal logical_and logical_or logical_xor ldexp nextafter gcd lcm dist"
    ).split()
    for args in ("lib.ones(2), 2.0", "2.0, lib.ones(2)")
]
KINDS = (IndexError, TypeError, ValueError, RuntimeError, NotImplementedError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_mistake(text, message):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what we look for
        eval(text, {"lib": torch})
    expected = next(kind for kind in KINDS if isinstance(theirs.value, kind))
    with pytest.raises(expected, match=message):
        eval(text, {"lib": ag})
