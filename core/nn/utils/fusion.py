"""Batch norm folded into the layer before it, for evaluation; and layers without initialisation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ... import random
from ...autograd import no_grad
from ...tensors import Parameter, Tensor
from ..modules.module import Module


def _scale(rv: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    scale: Tensor = (rv.detach() + eps).rsqrt()
    return scale if weight is None else scale * weight.detach()


def _shifted(bias: Tensor | None, rm: Tensor, scale: Tensor, bn_b: Tensor | None) -> Tensor:
    before = -rm.detach() if bias is None else bias.detach() - rm.detach()
    shifted: Tensor = before * scale
    return shifted if bn_b is None else shifted + bn_b.detach()


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """(weight, bias) of the one convolution that does convolution and batch norm."""
    scale = _scale(bn_rv, bn_eps, bn_w)
    shape = [1] * conv_w.ndim
    shape[1 if transpose else 0] = -1
    weight = conv_w.detach() * scale.reshape(*shape)
    bias = _shifted(conv_b, bn_rm, scale, bn_b)
    return (
        Parameter(weight, requires_grad=conv_w.requires_grad),
        Parameter(bias, requires_grad=conv_w.requires_grad if conv_b is None else True),
    )


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Parameter, Parameter]:
    """(weight, bias) of the one linear layer that does linear layer and batch norm."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def _fused(layer: Any, bn: Any, transpose: bool) -> Any:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("fusion needs the running statistics of the batch norm")
    with no_grad():
        fused = copy.deepcopy(layer)
        weight, bias = fuse_conv_bn_weights(
            fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
            transpose,
        )  # fmt: skip
    fused.weight, fused.bias = weight, bias
    return fused


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A copy of the convolution `conv` that also does the batch norm `bn`, in evaluation.

    Args:
        transpose: `conv` is a transposed convolution.

    Raises:
        AssertionError: one of the two is in training mode.
    """
    return _fused(conv, bn, transpose)


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """A copy of the linear layer that also does the batch norm `bn`, in evaluation.

    Raises:
        AssertionError: one of the two is in training mode, or sizes differ.
    """
    if linear.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError(
            f"fusion: the linear layer has {linear.out_features} outputs, the batch norm "
            f"{bn.num_features} features"
        )
    return _fused(linear, bn, False)


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Module:
    """An instance of a module class whose parameters nobody should rely on.

    The state of the random generator is the same afterwards.

    Args:
        module_cls: a subclass of Module.
        args, kwargs: for its constructor.

    Raises:
        RuntimeError: not a module class.
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    generator = random.default_generator()
    before = generator.get_state()
    try:
        return module_cls(*args, **kwargs)
    finally:
        generator.set_state(np.asarray(before))
