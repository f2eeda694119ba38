"""Weight norm and spectral norm in their old form: hooks, and parameters beside the weight.

`parametrizations.weight_norm` and `parametrizations.spectral_norm` are the new form.
"""

from __future__ import annotations

from typing import Any

from ...autograd import no_grad
from ...errors import OptionError
from ...tensors import Parameter, Tensor
from ..modules.module import Module
from .norms import as_matrix, norm_except, power_iteration, random_unit


class WeightNorm:
    """The hook that computes the weight from ``<name>_g`` and ``<name>_v`` before every forward."""

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.dim = name, dim

    def compute_weight(self, module: Module) -> Tensor:
        """The weight of the present direction and length."""
        g: Tensor = getattr(module, f"{self.name}_g")
        v: Tensor = getattr(module, f"{self.name}_v")
        return v * (g / norm_except(v, self.dim))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


class SpectralNorm:
    """The hook that divides ``<name>_orig`` by its largest singular value before every forward."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        if n_power_iterations <= 0:
            raise OptionError(
                f"spectral_norm: expected n_power_iterations above 0, came {n_power_iterations}"
            )
        self.name, self.n_power_iterations, self.dim, self.eps = name, n_power_iterations, dim, eps

    def compute_weight(self, module: Module, do_power_iteration: bool) -> Tensor:
        """The weight divided by the present estimate of its norm."""
        weight: Tensor = getattr(module, f"{self.name}_orig")
        u: Tensor = getattr(module, f"{self.name}_u")
        v: Tensor = getattr(module, f"{self.name}_v")
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            with no_grad():
                # PyTorch's order here: first v from u, then u from v.
                power_iteration(
                    matrix.detach()._canonical().T, v._array, u._array, self.n_power_iterations,
                    self.eps,
                )  # fmt: skip
                u._bump_version()
                v._bump_version()
        sigma = (u.clone() * (matrix @ v.clone())).sum()
        normed: Tensor = weight / sigma
        return normed

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, module.training))


def _refuse_second(module: Module, kind: type, name: str, what: str) -> None:
    for hook in module._hooks.values():
        if isinstance(hook.function, kind) and getattr(hook.function, "name", None) == name:
            raise RuntimeError(f"Cannot register two {what} hooks on the same parameter {name}")


def _take(module: Module, kind: type, name: str, what: str) -> Any:
    """Remove and return the hook of `kind` for `name`."""
    for key, hook in list(module._hooks.items()):
        if isinstance(hook.function, kind) and getattr(hook.function, "name", None) == name:
            del module._hooks[key]
            return hook.function
    raise ValueError(f"{what} of '{name}' not found in {module}")


def _to_parameter(module: Module, name: str, weight: Tensor) -> None:
    delattr(module, name)
    module.register_parameter(name, Parameter(weight.detach().clone()))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """``module.name`` as direction and length, learnt separately (Salimans & Kingma 2016).

    The old form: parameters ``weight_g`` and ``weight_v``, and a hook before forward. The new one
    is `nn.utils.parametrizations.weight_norm`.

    Args:
        dim: the dimension with a length of its own for each index; None for one length.

    Raises:
        RuntimeError: the parameter has weight norm already.
    """
    _refuse_second(module, WeightNorm, name, "weight_norm")
    hook = WeightNorm(name, -1 if dim is None else dim)
    weight = getattr(module, name)
    del module._parameters[name]
    length = norm_except(weight.detach(), hook.dim)
    module.register_parameter(f"{name}_g", Parameter(length))
    module.register_parameter(f"{name}_v", Parameter(weight.detach().clone()))
    hook(module, None)
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the present weight a plain parameter again.

    Raises:
        ValueError: the parameter has no weight norm.
    """
    hook = _take(module, WeightNorm, name, "weight_norm")
    weight = hook.compute_weight(module)
    del module._parameters[f"{name}_g"], module._parameters[f"{name}_v"]
    _to_parameter(module, name, weight)
    return module


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """``module.name`` divided by its largest singular value (Miyato et al. 2018).

    The old form: parameter ``weight_orig``, buffers ``weight_u`` and ``weight_v``, and a hook
    before forward. The new one is `nn.utils.parametrizations.spectral_norm`.

    Args:
        n_power_iterations: steps towards the singular vectors in each forward of training.
        dim: the dimension of the rows; by default 0, or 1 for transposed convolutions.

    Raises:
        RuntimeError: the parameter has spectral norm already.
    """
    _refuse_second(module, SpectralNorm, name, "spectral_norm")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    hook = SpectralNorm(name, n_power_iterations, dim, eps)
    weight = module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    rows, columns = as_matrix(weight.detach(), dim).shape
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(f"{name}_u", random_unit(rows, weight._array, eps))
    module.register_buffer(f"{name}_v", random_unit(columns, weight._array, eps))
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the present weight a plain parameter again.

    Raises:
        ValueError: the parameter has no spectral norm.
    """
    hook = _take(module, SpectralNorm, name, "spectral_norm")
    with no_grad():
        weight = hook.compute_weight(module, False)
    del module._parameters[f"{name}_orig"]
    del module._buffers[f"{name}_u"], module._buffers[f"{name}_v"]
    _to_parameter(module, name, weight)
    return module
