"""Rows of elementwise ops, activations and reductions."""

from __future__ import annotations

from support.inputs import apart, booleans, normal, positive, uniform
from support.op_table import row

S = (3, 4)


def _binary():
    yield row("add", "Add", lambda lib, F, a, b: a + b, normal(*S), normal(*S))
    yield row(
        "add_alpha", "Add", lambda lib, F, a, b: lib.add(a, b, alpha=0.5), normal(*S), normal(*S)
    )
    yield row("add_scalar", "Add", lambda lib, F, a: 2 + a + 1.5, normal(*S))
    yield row(
        "add_broadcast",
        "Add",
        lambda lib, F, a, b: a + b,
        normal(3, 1, 4, batched=False),
        normal(2, 1),
        batches=(1,),
    )
    yield row(
        "add_activations",
        "AddActivations",
        lambda lib, F, a, b: a + b,
        normal(2, 3, 4),
        normal(2, 3, 4),
    )
    yield row(
        "add_activations_relu",
        "AddActivations",
        lambda lib, F, a, b: F.relu(a + b),
        normal(2, 3, 4, 4),
        normal(2, 3, 4, 4),
    )
    yield row("sub", "Sub", lambda lib, F, a, b: a - b, normal(*S), normal(*S))
    yield row(
        "sub_alpha",
        "Sub",
        lambda lib, F, a, b: lib.sub(a, b, alpha=3),
        normal(*S),
        normal(4, batched=False),
    )
    yield row("rsub", "Sub", lambda lib, F, a: 1 - a, normal(*S))
    yield row("mul", "Mul", lambda lib, F, a, b: a * b, normal(*S), normal(*S))
    yield row("mul_scalar", "Mul", lambda lib, F, a: 3 * a * 0.5, normal(*S))
    yield row(
        "mul_broadcast",
        "Mul",
        lambda lib, F, a, b: a * b,
        normal(2, 3, 4),
        normal(1, 3, 1, batched=False),
    )
    yield row("mul_zero_dim", "Mul", lambda lib, F, a, b: a * b, normal(*S), normal())
    yield row("mul_same", "Mul", lambda lib, F, a: a * a, normal(*S))
    yield row("div", "Div", lambda lib, F, a, b: a / b, normal(*S), positive(*S))
    yield row("div_scalar", "Div", lambda lib, F, a: a / 3, normal(*S))
    yield row("rdiv", "Div", lambda lib, F, a: 2 / a, positive(*S))
    yield row("pow", "Pow", lambda lib, F, a, b: a**b, positive(*S), normal(*S))
    yield row("pow_square", "Square", lambda lib, F, a: a**2, normal(*S))
    yield row("pow_cube", "Pow", lambda lib, F, a: a**3, normal(*S))
    yield row("pow_half", "Pow", lambda lib, F, a: a**0.5, positive(*S))
    yield row("pow_negative", "Pow", lambda lib, F, a: a**-1.5, positive(*S))
    yield row("pow_zero", "Pow", lambda lib, F, a: a**0, normal(*S))
    yield row("rpow", "Pow", lambda lib, F, a: 2**a, normal(*S))
    yield row("maximum", "Maximum", lambda lib, F, a, b: lib.maximum(a, b), normal(*S), normal(*S))
    yield row(
        "minimum",
        "Minimum",
        lambda lib, F, a, b: lib.minimum(a, b),
        normal(*S),
        normal(4, batched=False),
    )
    yield row(
        "where",
        "Where",
        lambda lib, F, c, a, b: lib.where(c, a, b),
        booleans(*S),
        normal(*S),
        normal(*S),
    )
    yield row(
        "where_scalar", "Where", lambda lib, F, c, a: lib.where(c, a, 2.5), booleans(*S), normal(*S)
    )
    yield row(
        "masked_fill",
        "Where",
        lambda lib, F, c, a: a.masked_fill(c, -1.0),
        booleans(*S),
        normal(*S),
    )
    yield row("clamp", "Clamp", lambda lib, F, a: a.clamp(-0.5, 0.7), normal(*S))
    yield row("clamp_low", "Clamp", lambda lib, F, a: a.clamp(min=0.1), normal(*S))
    yield row(
        "clamp_tensors",
        "Where",
        lambda lib, F, a, b, c: lib.clamp(a, b, c),
        normal(*S),
        uniform(-2, -0.5, *S),
        uniform(0.5, 2, *S),
    )
    yield row("remainder", "Sub Mul", lambda lib, F, a, b: a % b, normal(*S), positive(*S))
    yield row("fmod", "Sub Mul", lambda lib, F, a, b: lib.fmod(a, b), normal(*S), positive(*S))
    yield row("cast", "Cast", lambda lib, F, a: (a.to(lib.float64) * 2).to(a.dtype), normal(*S))
    yield row("clone", "Clone", lambda lib, F, a: a.clone(), normal(*S))
    yield row("neg", "Neg", lambda lib, F, a: -a, normal(*S))


_UNARY = {
    "abs": ("Abs", normal), "exp": ("Exp", normal), "expm1": ("Expm1", normal),
    "log": ("Log", positive), "log2": ("Log2", positive), "log10": ("Log10", positive),
    "log1p": ("Log1p", positive), "sqrt": ("Sqrt", positive), "rsqrt": ("Rsqrt", positive),
    "reciprocal": ("Reciprocal", positive), "square": ("Square", normal), "sin": ("Sin", normal),
    "cos": ("Cos", normal), "tan": ("Tan", lambda *s: uniform(-1, 1, *s)), "tanh": ("Tanh", normal),
    "sigmoid": ("Sigmoid", normal), "erf": ("Erf", lambda *s: uniform(-5, 5, *s)),
    "floor": ("Flat", normal), "ceil": ("Flat", normal), "round": ("Flat", normal),
    "trunc": ("Flat", normal), "sign": ("Flat", normal),
}  # fmt: skip


def _unary():
    for name, (op, kind) in _UNARY.items():
        yield row(name, op, lambda lib, F, x, name=name: getattr(lib, name)(x), kind(3, 7))
    for shape in ((), (1,), (2, 0, 3)):
        yield row(
            f"exp_{len(shape)}d", "Exp", lambda lib, F, x: x.exp(), normal(*shape), batches=()
        )


def _activations():
    settings = {
        "relu": ("ReLU", {}),
        "relu6": ("Clamp", {}),
        "hardtanh": ("Clamp", {"min_val": -0.4, "max_val": 0.9}),
        "leaky_relu": ("LeakyReLU", {"negative_slope": 0.2}),
        "elu": ("ELU", {"alpha": 1.3}),
        "selu": ("ELU", {}),
        "celu": ("ELU", {"alpha": 0.5}),
        "gelu": ("GELU", {}),
        "silu": ("SiLU", {}),
        "mish": ("Mul Softplus Tanh", {}),
        "softplus": ("Softplus", {"beta": 2.0, "threshold": 1.0}),
        "logsigmoid": ("LogSigmoid", {}),
        "softsign": ("Div Abs", {}),
        "hardsigmoid": ("Clamp", {}),
        "hardswish": ("Mul Clamp", {}),
        "tanh": ("Tanh", {}),
        "sigmoid": ("Sigmoid", {}),
    }
    for name, (ops, options) in settings.items():
        yield row(
            f"F.{name}",
            ops,
            lambda lib, F, x, name=name, options=options: getattr(F, name)(x, **options),
            uniform(-4, 4, 4, 9),
            torch_rounds=name == "hardsigmoid",
        )
    yield row(
        "F.gelu_tanh", "GELU", lambda lib, F, x: F.gelu(x, approximate="tanh"), uniform(-4, 4, 4, 9)
    )
    yield row(
        "prelu_one",
        "PReLU",
        lambda lib, F, x, w: F.prelu(x, w),
        normal(3, 4, 5),
        normal(1, batched=False),
    )
    yield row(
        "prelu_channels",
        "PReLU",
        lambda lib, F, x, w: F.prelu(x, w),
        normal(3, 4, 5),
        normal(4, batched=False),
    )


def _reductions():
    full = (2, 3, 4)
    for name, op in (
        ("sum", "Sum"),
        ("mean", "Mean"),
        ("amax", "Extreme"),
        ("amin", "Extreme"),
        ("logsumexp", "LogSumExp"),
        ("var", "Var"),
        ("std", "Std"),
    ):
        for label, dims in (("1", 1), ("0_2", (0, 2)), ("last_kept", -1)):
            kept = label == "last_kept"
            empty_fails = name in ("amax", "amin") or label == "0_2"
            yield row(
                f"{name}_{label}", op,
                lambda lib, F, x, n=name, d=dims, k=kept: getattr(lib, n)(x, d, keepdim=k),
                apart(*full), batches=() if name in ("var", "std") and empty_fails
                else (1,) if empty_fails else (0, 1),
            )  # fmt: skip
    yield row("sum_all", "Sum", lambda lib, F, x: x.sum(), normal(*full))
    yield row("mean_all", "Mean", lambda lib, F, x: x.mean(), normal(*full), batches=(1,))
    yield row("max_all", "Extreme", lambda lib, F, x: x.max(), apart(*full), batches=(1,))
    yield row("min_all", "Extreme", lambda lib, F, x: x.min(), apart(*full), batches=(1,))
    yield row("max_dim", "Pick", lambda lib, F, x: x.max(1).values, apart(*full))
    yield row("min_dim_kept", "Pick", lambda lib, F, x: x.min(-1, keepdim=True)[0], apart(*full))
    yield row("var_all", "Var", lambda lib, F, x: x.var(), normal(*full), batches=(1,))
    yield row("var_biased", "Var", lambda lib, F, x: x.var(1, unbiased=False), normal(*full))
    yield row("var_correction", "Var", lambda lib, F, x: lib.var(x, 2, correction=2), normal(*full))
    yield row(
        "std_all", "Std", lambda lib, F, x: x.std(unbiased=False), normal(*full), batches=(1,)
    )
    yield row("prod_all", "Prod", lambda lib, F, x: x.prod(), normal(2, 3))
    yield row("prod_dim", "Prod", lambda lib, F, x: x.prod(1), normal(*full))
    yield row("prod_kept", "Prod", lambda lib, F, x: x.prod(-1, keepdim=True), normal(*full))
    yield row(
        "prod_with_zeros",
        "Prod",
        lambda lib, F, x, m: (x * m.to(x.dtype)).prod(1),
        normal(5, 3),
        booleans(5, 3),
    )
    yield row("cumsum", "CumSum", lambda lib, F, x: x.cumsum(1), normal(*full))
    for p in (1, 2, 3, 0.5, float("inf")):
        yield row(
            f"norm_{p}",
            "Norm" if p != float("inf") else "Extreme",
            lambda lib, F, x, p=p: lib.norm(x, p, 1),
            apart(*full),
        )
    yield row("norm_all", "Norm", lambda lib, F, x: x.norm(), normal(*full))
    yield row("normalize", "Norm", lambda lib, F, x: F.normalize(x, dim=-1), normal(*full))
    yield row("sort", "Pick", lambda lib, F, x: x.sort(1).values, apart(*full))
    yield row("sort_down", "Pick", lambda lib, F, x: x.sort(0, descending=True)[0], apart(*full))
    yield row("topk", "Pick", lambda lib, F, x: x.topk(2, -1).values, apart(*full))
    yield row(
        "topk_small", "Pick", lambda lib, F, x: x.topk(2, 1, largest=False).values, apart(*full)
    )
    for name, op in (("softmax", "Softmax"), ("log_softmax", "LogSoftmax")):
        for dim in (1, -1):
            yield row(
                f"{name}_{dim}",
                op,
                lambda lib, F, x, n=name, d=dim: getattr(F, n)(x, d),
                normal(*full),
            )
    yield row("softmin", "Softmax", lambda lib, F, x: F.softmin(x, 1), normal(*full))


ROWS = [*_binary(), *_unary(), *_activations(), *_reductions()]
