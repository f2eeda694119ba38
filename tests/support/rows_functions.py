"""Rows of elementwise functions beyond arithmetic, of scans, of order, and of complex numbers."""

from __future__ import annotations

from functools import partial

from support.inputs import Spec, apart, booleans, normal, positive, uniform
from support.op_table import row

S = (3, 4)
FULL = (2, 3, 4)
unit = partial(uniform, -0.9, 0.9)
above_one = partial(uniform, 1.1, 4.0)
fraction = partial(uniform, 0.1, 0.9)

_UNARY = {
    "asin": ("Asin", unit), "acos": ("Acos", unit), "atan": ("Atan", normal),
    "sinh": ("Sinh", normal), "cosh": ("Cosh", normal), "asinh": ("Asinh", normal),
    "acosh": ("Acosh", above_one), "atanh": ("Atanh", unit), "exp2": ("Exp2", normal),
    "sinc": ("Sinc", normal), "erfc": ("Erfc", normal), "erfinv": ("Erfinv", unit),
    "lgamma": ("Lgamma", positive), "digamma": ("Polygamma", positive),
    "logit": ("Logit", fraction), "nan_to_num": ("NanToNum", normal), "frac": ("Sub", normal),
    "fix": ("Flat", normal), "deg2rad": ("Mul", normal),
    "rad2deg": ("Mul", normal), "angle": ("Angle", normal), "absolute": ("Abs", normal),
    "negative": ("Neg", normal), "arctanh": ("Atanh", unit),
}  # fmt: skip


def _unary():
    for name, (op, kind) in _UNARY.items():
        yield row(
            name, op, lambda lib, F, x, name=name: getattr(lib, name)(x), kind(3, 7),
            torch_rounds=name == "digamma",  # its slope is PyTorch's trigamma, to nine digits
        )  # fmt: skip
    yield row("sgn", "Flat", lambda lib, F, x: lib.sgn(x) * x, normal(3, 7))
    negative = partial(uniform, -2.9, -2.1)
    yield row("lgamma_reflected", "Lgamma", lambda lib, F, x: x.lgamma(), negative(3, 5))
    yield row("digamma_reflected", "Polygamma", lambda lib, F, x: x.digamma(), negative(3, 5),
              torch_rounds=True)  # fmt: skip
    yield row("polygamma_1", "Polygamma", lambda lib, F, x: x.polygamma(1), negative(3, 5),
              torch_rounds=True)  # fmt: skip
    yield row("polygamma_3", "Polygamma", lambda lib, F, x: lib.polygamma(3, x), positive(3, 5))
    yield row("mvlgamma", "Lgamma", lambda lib, F, x: x.mvlgamma(3), uniform(2, 5, 3, 5))
    yield row("logit_eps", "Logit", lambda lib, F, x: x.logit(0.3), fraction(3, 7))
    yield row("round_decimals", "Flat", lambda lib, F, x: lib.round(x, decimals=2), normal(3, 7))
    yield row("round_tens", "Flat", lambda lib, F, x: (30 * x).round(decimals=-1), normal(3, 7))
    yield row(
        "nan_to_num_values",
        "NanToNum",
        lambda lib, F, x, m: lib.nan_to_num((x / (~m).to(x.dtype)), 1.5, 7.0, -8.0),
        normal(*S),
        booleans(*S),
        differentiable=False,
    )


def _pairs():
    two = (normal(*S), normal(*S))
    for name, op, inputs in (
        ("atan2", "Atan2", two),
        ("hypot", "Hypot", two),
        ("logaddexp", "LogAddExp", two),
        ("logaddexp2", "LogAddExp2", two),
        ("copysign", "CopySign", two),
        ("fmax", "Fmax", two),
        ("fmin", "Fmin", two),
        ("xlogy", "XLogY", (normal(*S), positive(*S))),
        ("ldexp", "Mul Pow", two),
        ("float_power", "Pow Cast", (positive(*S), normal(*S))),
    ):
        yield row(name, op, lambda lib, F, a, b, name=name: getattr(lib, name)(a, b), *inputs)
        broadcast = (inputs[0], inputs[1].resized(S[1:]))
        small = Spec(broadcast[1].draw, S[1:], batched=False)
        yield row(
            f"{name}_broadcast",
            op,
            lambda lib, F, a, b, name=name: getattr(a, name)(b),
            inputs[0],
            small,
        )
    yield row(
        "xlogy_zero",
        "XLogY",
        lambda lib, F, a, b, m: lib.xlogy(a * m.to(a.dtype), b),
        normal(*S),
        positive(*S),
        booleans(*S),
    )
    yield row("xlogy_number", "XLogY", lambda lib, F, b: lib.xlogy(2, b), positive(*S))
    yield row("copysign_number", "CopySign", lambda lib, F, a: lib.copysign(a, -1), normal(*S))
    yield row("frexp", "Mantissa", lambda lib, F, a: lib.frexp(a).mantissa, normal(*S))
    for label, weight in (("low", 0.2), ("high", 0.9)):
        yield row(
            f"lerp_{label}",
            "Sub",
            lambda lib, F, a, b, w=weight: lib.lerp(a, b, w),
            *two,
        )
    yield row("lerp_tensor", "Mul", lambda lib, F, a, b, w: a.lerp(b, w), *two, normal(*S))
    yield row(
        "addcmul", "Add Mul", lambda lib, F, a, b, c: lib.addcmul(a, b, c, value=0.3), *two,
        normal(4, batched=False),
    )  # fmt: skip
    yield row(
        "addcdiv", "Add Div", lambda lib, F, a, b, c: a.addcdiv(b, c, value=2), *two, positive(*S)
    )
    yield row("clamp_min", "Clamp", lambda lib, F, a: a.clamp_min(0.2), normal(*S))
    yield row("clamp_max", "Where", lambda lib, F, a, b: lib.clamp_max(a, b), *two)
    yield row("rsub_alpha", "Sub", lambda lib, F, a, b: lib.rsub(a, b, alpha=2), *two)


def _reductions():
    options = {"batches": (1,)}
    yield row("var_mean", "Var Mean", lambda lib, F, x: lib.var_mean(x, 1), normal(*FULL))
    yield row(
        "std_mean", "Std Mean", lambda lib, F, x: lib.std_mean(x, 1, correction=0, keepdim=True),
        normal(*FULL),
    )  # fmt: skip
    yield row("aminmax", "Extreme", lambda lib, F, x: tuple(x.aminmax(dim=1)), apart(*FULL))
    yield row("nansum", "Sum Where", lambda lib, F, x, m: _with_nan(lib, x, m).nansum(1),
              normal(*FULL), booleans(*FULL), differentiable=False)  # fmt: skip
    yield row("nanmean", "Sum Where Div", lambda lib, F, x: lib.nanmean(x, -1), normal(*FULL))
    yield row("dist", "Norm", lambda lib, F, a, b: lib.dist(a, b, 3), normal(*S), normal(*S),
              **options)  # fmt: skip
    for p in (0, -1, -2, 1.5, float("-inf"), "fro"):
        op = {0: "Mul", float("-inf"): "Extreme"}.get(p, "Norm")
        yield row(
            f"norm_order_{p}", op,
            lambda lib, F, x, p=p: lib.norm(x, p, (0, 2)) * x.sum(),
            apart(*FULL), **options,
        )  # fmt: skip
    yield row("sum_axis", "Sum", lambda lib, F, x: lib.sum(x, axis=1, keepdims=True), normal(*FULL))
    yield row("median", "Extreme", lambda lib, F, x: x.median(), apart(*FULL), **options)
    yield row("median_dim", "Pick", lambda lib, F, x: x.median(1, keepdim=True)[0], apart(*FULL))
    yield row("nanmedian", "Extreme", lambda lib, F, x: x.nanmedian(), apart(*FULL), **options)
    yield row("nanmedian_dim", "Pick", lambda lib, F, x: x.nanmedian(-1).values, apart(*FULL))
    yield row("kthvalue", "Pick", lambda lib, F, x: lib.kthvalue(x, 2, 1).values, apart(*FULL))
    yield row("mode", "Pick", lambda lib, F, x: x.mode(1).values, apart(*FULL))
    yield row("msort", "Pick", lambda lib, F, x: lib.msort(x), apart(*FULL))
    for kind in ("linear", "lower", "higher", "nearest", "midpoint"):
        yield row(
            f"quantile_{kind}", "Gather",
            lambda lib, F, x, k=kind: x.quantile(0.3, 1, interpolation=k),
            apart(*FULL), **options,
        )  # fmt: skip
    yield row(
        "quantile_vector", "Gather",
        lambda lib, F, x, q: lib.quantile(x, q, 2, keepdim=True),
        apart(*FULL), uniform(0, 1, 3, batched=False, constant=True), **options,
    )  # fmt: skip
    yield row("quantile_all", "Gather", lambda lib, F, x: x.quantile(0.61), apart(*FULL), **options)
    yield row("nanquantile", "Gather", lambda lib, F, x: x.nanquantile(0.61, 0), apart(*FULL),
              **options)  # fmt: skip


def _statistics():
    options = {"batches": ()}
    yield row("trapezoid", "Sum", lambda lib, F, y: lib.trapezoid(y, dx=0.3), normal(*FULL))
    yield row("trapezoid_places", "Sum Mul", lambda lib, F, y, x: lib.trapz(y, x, dim=1),
              normal(*FULL), normal(3, batched=False))  # fmt: skip
    yield row("cumulative_trapezoid", "CumSum",
              lambda lib, F, y: lib.cumulative_trapezoid(y, dim=1), normal(*FULL))  # fmt: skip
    yield row("renorm", "Norm Where", lambda lib, F, x: x.renorm(2, 1, 1.5), apart(*FULL),
              **options)  # fmt: skip


def _with_nan(lib, x, mask):
    return lib.where(mask, x, lib.full_like(x, float("nan")))


def _scans():
    yield row("cumprod", "CumProd", lambda lib, F, x: x.cumprod(1), normal(*FULL))
    yield row(
        "cumprod_zeros", "CumProd", lambda lib, F, x, m: (x * m.to(x.dtype)).cumprod(0),
        normal(5, 3), booleans(5, 3),
    )  # fmt: skip
    yield row("logcumsumexp", "LogCumSumExp", lambda lib, F, x: x.logcumsumexp(-1), normal(*FULL))
    yield row("cummax", "Gather", lambda lib, F, x: x.cummax(1).values, apart(*FULL))
    yield row("cummin", "Gather", lambda lib, F, x: lib.cummin(x, 0)[0], apart(*FULL), batches=(1,))
    yield row("diff", "Sub", lambda lib, F, x: lib.diff(x), normal(*FULL))
    yield row(
        "diff_twice", "Sub Cat", lambda lib, F, x, y: x.diff(2, 1, prepend=y), normal(*FULL),
        normal(*FULL),
    )  # fmt: skip


def _complex():
    """Functions of complex numbers whose inputs and outputs are real ones."""
    two = (normal(*S), normal(*S))
    ops = "ToComplex"
    yield row("complex", f"{ops} Real Imag",
              lambda lib, F, a, b: _parts(lib, lib.complex(a, b)), *two)  # fmt: skip
    yield row("polar", f"{ops} Mul", lambda lib, F, a, b: _parts(lib, lib.polar(a, b)),
              positive(*S), normal(*S))  # fmt: skip
    yield row("view_as_complex", "ViewAsComplex Abs",
              lambda lib, F, a: lib.view_as_complex(a * 1).abs(), normal(3, 4, 2),
              batches=(1,))  # fmt: skip
    yield row("view_as_real", f"ViewAsReal {ops}",
              lambda lib, F, a, b: lib.view_as_real(lib.complex(a, b)), *two,
              batches=(1,))  # PyTorch stumbles over an empty one  # fmt: skip
    for name, op in (("conj", "Conj"), ("sgn", "Sgn"), ("exp", "Exp"), ("sqrt", "Sqrt")):
        yield row(
            f"complex_{name}", f"{op} {ops}",
            lambda lib, F, a, b, name=name: _parts(lib, getattr(lib, name)(lib.complex(a, b))),
            *two,
        )  # fmt: skip
    yield row("complex_angle", "Angle", lambda lib, F, a, b: lib.complex(a, b).angle(), *two)


def _parts(lib, z):
    z = z.resolve_conj()
    return lib.real(z), lib.imag(z)


ROWS = [
    *_unary(), *_pairs(), *_reductions(), *_statistics(), *_scans(), *_complex(),
]  # fmt: skip
