"""Elementwise ops, activations, and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ops import activation, elementwise, reduce, softmax, special, trigonometric
from ...ops.base import Op
from ..graph import Value

Mapping = Callable[[Any], Any]


def _direct(kind: str) -> Mapping:
    """An op that ONNX has as it is."""
    return lambda step: step.graph.node(kind, *(step.number(i) for i in range(len(step.inputs))))


def _formula(function: Callable[..., str]) -> Mapping:
    """An op of one input, as a formula of nodes: ``function(node, constant, x)``."""

    def mapping(step: Any) -> str:
        def constant(value: float) -> str:
            return step.graph.constant(np.asarray(value, step.dtype))

        return function(step.graph.node, constant, step.number(0))

    return mapping


def _scaled(step: Any, index: int, factor: float) -> str:
    """Input `index` times `factor`."""
    if factor == 1:
        return step.number(index)
    return step.graph.node(
        "Mul", step.number(index), step.graph.constant(np.asarray(factor, step.dtype))
    )


def _add(step: Any) -> str:
    return step.graph.node("Add", step.number(0), _scaled(step, 1, step["alpha"]))


def _sub(step: Any) -> str:
    return step.graph.node("Sub", step.number(0), _scaled(step, 1, step["alpha"]))


def _add_activations(step: Any) -> str:
    y = step.graph.node("Add", step.number(0), step.number(1))
    return step.graph.node("Relu", y) if step["relu"] else y


def _where(step: Any) -> str:
    condition = step.inputs[0]
    if not isinstance(condition, Value):
        condition = step.graph.constant(np.asarray(condition, bool))
    else:
        condition = step.graph.cast(condition, np.dtype(bool))
    return step.graph.node("Where", condition, step.number(1), step.number(2))


def _clamp(step: Any) -> str:
    bounds = [
        None if v is None else step.graph.constant(np.asarray(v, step.dtype))
        for v in (step["low"], step["high"])
    ]
    return step.graph.node("Clip", step.number(0), *bounds)


def _same(step: Any) -> str:
    return step.inputs[0].name


def _cast(step: Any) -> str:
    return step.graph.cast(step.inputs[0], step["to"])


_FLAT = {"sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round", "rint": "Round"}


def _flat(step: Any) -> str:
    name = getattr(step.both("function")[0], "__name__", "?").lstrip("_")
    x, node = step.number(0), step.graph.node
    if name == "trunc":
        return node("Mul", node("Sign", x), node("Floor", node("Abs", x)))
    if name not in _FLAT:
        raise step.refuse(f"ONNX has no {name}")
    return node(_FLAT[name], x)


def _log_sigmoid(node: Any, constant: Any, x: str) -> str:
    return node("Neg", node("Softplus", node("Neg", x)))


def _softplus(step: Any) -> str:
    beta, node = step["beta"], step.graph.node
    if beta == 1:
        return node("Softplus", step.number(0))
    factor = step.graph.constant(np.asarray(beta, step.dtype))
    return node("Div", node("Softplus", node("Mul", step.number(0), factor)), factor)


def _elu(step: Any) -> str:
    alpha, scale, rate = step["alpha"], step["scale"], step["rate"]
    if rate == 1:
        y = step.graph.node("Elu", step.number(0), alpha=float(alpha))
    elif rate == 1 / alpha:
        y = step.graph.node("Celu", step.number(0), alpha=float(alpha))
    else:
        raise step.refuse(f"ONNX has no ELU of alpha {alpha} and rate {rate}")
    if scale == 1:
        return y
    return step.graph.node("Mul", y, step.graph.constant(np.asarray(scale, step.dtype)))


def _gelu(step: Any) -> str:
    node, x = step.graph.node, step.number(0)

    def constant(value: float) -> str:
        return step.graph.constant(np.asarray(value, step.dtype))

    if step["approximate"] == "tanh":
        cube = node("Mul", node("Mul", x, x), x)
        inner = node("Add", x, node("Mul", cube, constant(0.044715)))
        share = node("Tanh", node("Mul", inner, constant(math.sqrt(2 / math.pi))))
    else:
        share = node("Erf", node("Mul", x, constant(math.sqrt(0.5))))
    return node("Mul", node("Mul", x, constant(0.5)), node("Add", share, constant(1)))


def _prelu(step: Any) -> str:
    x, weight = step.inputs
    count = int(np.prod(weight.shape))
    ones = (1,) * (len(x.shape) - 2) if count > 1 else ()
    target = step.graph.integers(count, *ones)
    slope = step.graph.node("Reshape", weight, target)
    return step.graph.node("PRelu", x, slope)


def _softmax(kind: str) -> Mapping:
    return lambda step: step.graph.node(kind, step.number(0), axis=int(step["axis"]))


# -- reductions ----------------------------------------------------------------------------------
def _reduction(kind: str) -> Mapping:
    return lambda step: step.graph.reduce(kind, step.number(0), step["axes"], step["keepdim"])


def _prod(step: Any) -> str:
    axes = None if step["axis"] is None else (step["axis"],)
    return step.graph.reduce("ReduceProd", step.number(0), axes, step["keepdim"])


def _extreme(step: Any) -> str:
    kind = {np.max: "ReduceMax", np.min: "ReduceMin"}[step["function"]]
    return step.graph.reduce(kind, step.number(0), step["axes"], step["keepdim"])


def _norm(step: Any) -> str:
    kinds = {1: "ReduceL1", 2: "ReduceL2"}
    if step["p"] not in kinds:
        raise step.refuse(f"ONNX has no norm of order {step['p']}")
    kind = kinds[step["p"]]
    return step.graph.reduce(kind, step.number(0), step["axes"], step["keepdim"])


def _var(step: Any) -> str:
    graph, x, axes, keep = step.graph, step.number(0), step["axes"], step["keepdim"]
    centred = graph.node("Sub", x, graph.reduce("ReduceMean", x, axes, True))
    total = graph.reduce("ReduceSum", graph.node("Mul", centred, centred), axes, keep)
    return graph.node("Div", total, graph.constant(np.asarray(step["count"], step.dtype)))


def _cumsum(step: Any) -> str:
    return step.graph.node("CumSum", step.number(0), step.graph.integers(step["axis"]))


_DIRECT: dict[str, tuple[type[Op], ...]] = {
    "Mul": (elementwise.Mul,),
    "Div": (elementwise.Div,),
    "Pow": (elementwise.Pow,),
    "Max": (elementwise.Maximum,),
    "Min": (elementwise.Minimum,),
    "Neg": (elementwise.Neg,),
    "Abs": (elementwise.Abs,),
    "Exp": (elementwise.Exp,),
    "Log": (elementwise.Log,),
    "Sqrt": (elementwise.Sqrt,),
    "Reciprocal": (elementwise.Reciprocal,),
    "Sin": (elementwise.Sin,),
    "Cos": (elementwise.Cos,),
    "Tan": (elementwise.Tan,),
    "Tanh": (elementwise.Tanh,),
    "Sigmoid": (activation.Sigmoid,),
    "Relu": (activation.ReLU,),
    "Erf": (activation.Erf,),
    "Asin": (trigonometric.Asin,),
    "Acos": (trigonometric.Acos,),
    "Atan": (trigonometric.Atan,),
    "Sinh": (trigonometric.Sinh,),
    "Cosh": (trigonometric.Cosh,),
    "Asinh": (trigonometric.Asinh,),
    "Acosh": (trigonometric.Acosh,),
    "Atanh": (trigonometric.Atanh,),
}
MAPPINGS: dict[type[Op], Mapping] = {
    **{op: _direct(kind) for kind, ops in _DIRECT.items() for op in ops},
    elementwise.Add: _add,
    elementwise.Sub: _sub,
    elementwise.Where: _where,
    elementwise.Clamp: _clamp,
    elementwise.Clone: _same,
    elementwise.Cast: _cast,
    elementwise.Flat: _flat,
    elementwise.Square: _formula(lambda node, c, x: node("Mul", x, x)),
    elementwise.Rsqrt: _formula(lambda node, c, x: node("Reciprocal", node("Sqrt", x))),
    elementwise.Expm1: _formula(lambda node, c, x: node("Sub", node("Exp", x), c(1))),
    elementwise.Log1p: _formula(lambda node, c, x: node("Log", node("Add", x, c(1)))),
    elementwise.Log2: _formula(lambda node, c, x: node("Div", node("Log", x), c(math.log(2)))),
    elementwise.Log10: _formula(lambda node, c, x: node("Div", node("Log", x), c(math.log(10)))),
    special.Erfc: _formula(lambda node, c, x: node("Sub", c(1), node("Erf", x))),
    trigonometric.Exp2: _formula(lambda node, c, x: node("Pow", c(2), x)),
    activation.AddActivations: _add_activations,
    activation.SiLU: _formula(lambda node, c, x: node("Mul", x, node("Sigmoid", x))),
    activation.LogSigmoid: _formula(_log_sigmoid),
    activation.Softplus: _softplus,
    activation.LeakyReLU: lambda step: step.graph.node(
        "LeakyRelu", step.number(0), alpha=float(step["slope"])
    ),
    activation.ELU: _elu,
    activation.GELU: _gelu,
    activation.PReLU: _prelu,
    softmax.Softmax: _softmax("Softmax"),
    softmax.LogSoftmax: _softmax("LogSoftmax"),
    reduce.Sum: _reduction("ReduceSum"),
    reduce.Mean: _reduction("ReduceMean"),
    reduce.LogSumExp: _reduction("ReduceLogSumExp"),
    reduce.Prod: _prod,
    reduce.Extreme: _extreme,
    reduce.Norm: _norm,
    reduce.Var: _var,
    reduce.Std: lambda step: step.graph.node("Sqrt", _var(step)),
    reduce.CumSum: _cumsum,
}
