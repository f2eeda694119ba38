"""Pruning: parts of a parameter held at zero by a mask, under PyTorch's names.

``prune`` of `weight` turns the parameter into `weight_orig`, adds the buffer `weight_mask`, and
sets ``weight = weight_orig * weight_mask`` before every forward. `remove` makes it permanent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ...backend.arrays import as_array
from ...errors import ArgumentError, OptionError, ShapeError
from ...tensors import Tensor
from ...tensors.sampling import uniform_beside
from ..modules.module import Module


def _hooks_of(module: Module, name: str | None = None) -> Iterator[tuple[int, Any]]:
    """(id, pruning method) of the hooks that prune `module` (the parameter `name`)."""
    for key, hook in list(module._hooks.items()):
        method = hook.function
        if isinstance(method, BasePruningMethod) and name in (None, method._tensor_name):
            yield key, method


class BasePruningMethod(ABC):
    """A way to choose what is pruned; subclasses define `compute_mask`.

    Attributes:
        PRUNING_TYPE: "unstructured", "structured" (whole channels along `dim`) or "global": over
            which part of an already pruned tensor a further pruning chooses.
    """

    PRUNING_TYPE = "unstructured"
    _tensor_name: str = ""

    def __call__(self, module: Module, inputs: Any) -> None:
        """Set the pruned tensor; runs before every forward."""
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """A mask of the shape of `t`, 0 where `t` is pruned or `default_mask` is 0."""

    def apply_mask(self, module: Module) -> Tensor:
        """The parameter times its mask."""
        mask: Tensor = getattr(module, f"{self._tensor_name}_mask")
        original: Tensor = getattr(module, f"{self._tensor_name}_orig")
        pruned: Tensor = mask.to(original.dtype) * original
        return pruned

    @classmethod
    def apply(
        cls,
        module: Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune ``module.name``; a second pruning is combined with the first.

        Args:
            args, kwargs: for the constructor of the method.
            importance_scores: what to choose by, instead of the values themselves.

        Raises:
            ShapeError: scores of another shape.
        """
        method: Any = cls(*args, **kwargs)
        method._tensor_name = name
        for key, before in _hooks_of(module, name):
            container = PruningContainer(before)
            container.add_pruning_method(method)
            del module._hooks[key]
            method = container
        tensor = getattr(module, name)
        scores = tensor if importance_scores is None else importance_scores
        if scores.shape != tensor.shape:
            raise ShapeError(
                f"prune: expected importance_scores of shape {tuple(tensor.shape)} as {name!r}, "
                f"came {tuple(scores.shape)}"
            )
        first = not isinstance(method, PruningContainer)
        if first:
            original = module._parameters.pop(name)
            module.register_parameter(f"{name}_orig", original)
            before_mask = Tensor(np.ones_like(tensor._canonical()))
        else:
            before_mask = getattr(module, f"{name}_mask").detach().clone()
        mask = method.compute_mask(scores.detach(), before_mask)
        if first:
            module.register_buffer(f"{name}_mask", mask)
        else:
            setattr(module, f"{name}_mask", mask)
        method(module, None)
        module.register_forward_pre_hook(method)
        found: BasePruningMethod = method
        return found

    def prune(
        self,
        t: Tensor,
        default_mask: Tensor | None = None,
        importance_scores: Tensor | None = None,
    ) -> Tensor:
        """A pruned copy of `t`, without touching any module."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise ShapeError(
                f"prune: expected importance_scores of shape {tuple(t.shape)}, came "
                f"{tuple(scores.shape)}"
            )
        mask = Tensor(np.ones_like(t._canonical())) if default_mask is None else default_mask
        pruned: Tensor = t * self.compute_mask(scores.detach(), mask)
        return pruned

    def remove(self, module: Module) -> None:
        """Make the pruning permanent: the parameter is the pruned one again."""
        name = self._tensor_name
        weight = self.apply_mask(module).detach()
        original = module._parameters.pop(f"{name}_orig")
        del module._buffers[f"{name}_mask"]
        if original is None:
            raise AttributeError(f"prune: {name}_orig of {type(module).__name__} is None")
        original.data = weight
        delattr(module, name)
        setattr(module, name, original)


class PruningContainer(BasePruningMethod):
    """Several prunings of one tensor, one after the other."""

    def __init__(self, *args: BasePruningMethod) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        for method in args:
            if not self._tensor_name:
                self._tensor_name = method._tensor_name
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Append a method for the same tensor.

        Raises:
            TypeError: not a pruning method.
            ValueError: a method for another tensor.
        """
        if method is not None and not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is None:
            return
        if method._tensor_name != self._tensor_name:
            raise ValueError(
                f"PruningContainer: prunes {self._tensor_name!r}, the method "
                f"{method._tensor_name!r}"
            )
        inner = method._pruning_methods if isinstance(method, PruningContainer) else (method,)
        self._pruning_methods += inner

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, index: int) -> BasePruningMethod:
        return self._pruning_methods[index]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of the newest method on what the older ones left."""
        method = self._pruning_methods[-1]
        values, mask = t._canonical(), default_mask._canonical().copy()
        kind = method.PRUNING_TYPE
        if kind == "unstructured":
            place: Any = mask == 1
        elif kind == "structured":
            axis: int = getattr(method, "dim", -1) % values.ndim
            others = tuple(i for i in range(values.ndim) if i != axis)
            place = (slice(None),) * axis + (mask.sum(axis=others) != 0,)
        elif kind == "global":
            place = ...
        else:
            raise OptionError.unknown(
                "PRUNING_TYPE", kind, ("unstructured", "structured", "global")
            )
        part = method.compute_mask(Tensor(values[place]), Tensor(mask[place]))
        mask[place] = part._array
        return Tensor(mask)


class Identity(BasePruningMethod):
    """Prunes nothing, but adds mask and `_orig` as the others do."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


def _check_amount(amount: Any) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise TypeError(f"prune: expected a number as amount, came {amount!r}")
    if amount < 0 or (isinstance(amount, float) and amount > 1):
        raise OptionError(
            f"prune: expected an amount within 0..1, or a number of elements, came {amount}"
        )


def _count(amount: float, size: int) -> int:
    """How many of `size` to prune."""
    if isinstance(amount, int):
        if amount > size:
            raise OptionError(f"prune: amount {amount} is more than the {size} that are there")
        return amount
    return round(amount * size)


class _Unstructured(BasePruningMethod):
    def __init__(self, amount: float) -> None:
        _check_amount(amount)
        self.amount = amount

    def scores(self, values: np.ndarray) -> np.ndarray:
        """The smallest are pruned."""
        raise NotImplementedError(type(self).__name__)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        values = t._canonical()
        count = _count(self.amount, values.size)
        mask = default_mask._canonical().copy()
        chosen = np.argsort(self.scores(values).ravel(), kind="stable")[:count]
        mask.reshape(-1)[chosen] = 0
        return Tensor(mask)


class RandomUnstructured(_Unstructured):
    """Elements at random.

    Args:
        amount: share (float) or number (int) of elements.
    """

    def scores(self, values: np.ndarray) -> np.ndarray:
        return uniform_beside(values, values.shape)


class L1Unstructured(_Unstructured):
    """The elements of the smallest magnitude.

    Args:
        amount: share (float) or number (int) of elements.
    """

    def scores(self, values: np.ndarray) -> np.ndarray:
        return np.abs(values)


class _Structured(BasePruningMethod):
    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        _check_amount(amount)
        self.amount, self.dim = amount, dim

    def scores(self, channels: np.ndarray) -> np.ndarray:
        """One score for each row of (channels, rest); the smallest are pruned."""
        raise NotImplementedError(type(self).__name__)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        values = t._canonical()
        if values.ndim < 2:
            raise ArgumentError(
                f"prune: structured pruning needs at least 2 dimensions, came {values.shape}"
            )
        if not -values.ndim <= self.dim < values.ndim:
            raise IndexError(f"prune: dim {self.dim} is no dimension of {values.shape}")
        rows = np.moveaxis(values, self.dim, 0).reshape(values.shape[self.dim], -1)
        count = _count(self.amount, len(rows))
        mask = default_mask._canonical().copy()
        chosen = np.argsort(self.scores(rows), kind="stable")[:count]
        np.moveaxis(mask, self.dim, 0)[chosen] = 0
        return Tensor(mask)


class RandomStructured(_Structured):
    """Whole channels at random.

    Args:
        amount: share (float) or number (int) of channels.
        dim: the dimension of the channels.
    """

    def scores(self, channels: np.ndarray) -> np.ndarray:
        return uniform_beside(channels, (len(channels),))


class LnStructured(_Structured):
    """The channels of the smallest n-norm.

    Args:
        amount: share (float) or number (int) of channels.
        n: order of the norm: a number, inf, -inf, or "fro".
        dim: the dimension of the channels.
    """

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def scores(self, channels: np.ndarray) -> np.ndarray:
        order = 2 if self.n == "fro" else float(self.n)
        return as_array(np.linalg.norm(channels, ord=order, axis=1))


class CustomFromMask(BasePruningMethod):
    """A mask of the user's own."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if self.mask.shape != default_mask.shape:
            raise ShapeError(
                f"prune: expected a mask of shape {tuple(default_mask.shape)}, came "
                f"{tuple(self.mask.shape)}"
            )
        mask: Tensor = default_mask * self.mask.to(default_mask.dtype)
        return mask


def identity(module: Module, name: str) -> Module:
    """Add mask and `_orig` to ``module.name`` without pruning; returns the module."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune elements of ``module.name`` at random; returns the module.

    Args:
        amount: share (float, 0..1) or number (int) of elements.
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: Module, name: str, amount: float, importance_scores: Tensor | None = None
) -> Module:
    """Prune the elements of ``module.name`` of the smallest magnitude; returns the module.

    Args:
        amount: share (float, 0..1) or number (int) of elements.
        importance_scores: choose by these instead of the values.

    >>> from allgrad import nn
    >>> layer = l1_unstructured(nn.Linear(2, 2), "weight", amount=0.5)
    >>> sorted(layer.state_dict()), int(layer.weight_mask.sum())
    (['bias', 'weight_mask', 'weight_orig'], 2)
    """
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Module, name: str, amount: float, dim: int) -> Module:
    """Prune whole channels of ``module.name`` along `dim` at random; returns the module."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Module,
    name: str,
    amount: float,
    n: Any,
    dim: int,
    importance_scores: Tensor | None = None,
) -> Module:
    """Prune the channels of the smallest n-norm along `dim`; returns the module."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune ``module.name`` where `mask` is 0; returns the module."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: Mapping[tuple[Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune several parameters together: the method chooses among all their elements.

    Args:
        parameters: pairs of module and name.
        pruning_method: an unstructured one, such as `L1Unstructured`.
        importance_scores: for some of the pairs, what to choose by.
        kwargs: for the constructor of the method, such as ``amount``.

    Raises:
        TypeError: `parameters` cannot be iterated, or the method is not unstructured.
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    pairs = list(parameters)
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, Mapping):
        raise TypeError("global_unstructured(): importance_scores should be of type dict")
    method: Any = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            f"global_unstructured(): expected an unstructured method, came "
            f"{pruning_method.__name__} ({method.PRUNING_TYPE})"
        )
    method._tensor_name = "temp"
    container = PruningContainer(method)
    values, masks = [], []
    for module, name in pairs:
        tensor = getattr(module, name)
        chosen_by = scores.get((module, name), tensor)
        values.append(chosen_by.detach()._canonical().ravel())
        mask = getattr(module, f"{name}_mask", None)
        masks.append(np.ones_like(values[-1]) if mask is None else mask._canonical().ravel())
    final = container.compute_mask(Tensor(np.concatenate(values)), Tensor(np.concatenate(masks)))
    begin = 0
    for module, name in pairs:
        shape, count = getattr(module, name).shape, getattr(module, name).numel()
        part = final._array[begin : begin + count].reshape(shape).copy()
        custom_from_mask(module, name, Tensor(part))
        begin += count


def remove(module: Module, name: str) -> Module:
    """Make the pruning of ``module.name`` permanent; returns the module.

    Raises:
        ValueError: the parameter is not pruned.
    """
    for key, method in _hooks_of(module, name):
        method.remove(module)
        del module._hooks[key]
        return module
    raise ValueError(
        f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed"
    )


def is_pruned(module: Module) -> bool:
    """Whether anything in `module` or below is pruned."""
    return any(True for m in module.modules() for _ in _hooks_of(m))
