"""Networks by name, and why none comes with weights. Imports nn and errors."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from ... import nn
from ...errors import OptionError

_builders: dict[str, Callable[..., nn.Module]] = {}


def refuse_weights(name: str, weights: Any) -> None:
    """Raise unless `weights` is None: this package holds none and downloads none.

    Raises:
        OptionError: `weights` is something else; the message says how to load a file.
    """
    if weights is not None:
        raise OptionError(
            f"{name}: weights={weights!r}: allgrad neither contains nor downloads trained weights. "
            "Make the model with weights=None, then load a safetensors file: "
            "model.load_state_dict(allgrad.load('weights.safetensors')). torchvision's keys fit; "
            "in PyTorch: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )


def register(**builders: Callable[..., nn.Module]) -> None:
    """Make functions known to `get_model`."""
    _builders.update(builders)


def list_models(
    module: Any = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> list[str]:
    """Names that `get_model` knows, sorted.

    Args:
        module: only builders defined in this module.
        include, exclude: shell patterns, or lists of them.

    >>> from allgrad.vision import models
    >>> models.list_models(include="mobilenet*")
    ['mobilenet_v2']
    """
    names = {
        name
        for name, builder in _builders.items()
        if module is None or builder.__module__ == module.__name__
    }
    if include is not None:
        names = {n for n in names if any(fnmatch.fnmatch(n, p) for p in _listed(include))}
    if exclude is not None:
        names = {n for n in names if not any(fnmatch.fnmatch(n, p) for p in _listed(exclude))}
    return sorted(names)


def _listed(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def get_model_builder(name: str) -> Callable[..., nn.Module]:
    """The function that makes the network `name`.

    Raises:
        OptionError: an unknown name; the message lists the known ones.
    """
    found = _builders.get(name.lower())
    if found is None:
        raise OptionError.unknown("model", name, sorted(_builders))
    return found


def get_model(name: str, **config: Any) -> nn.Module:
    """A new network.

    Args:
        name: one of `list_models()`.
        config: its arguments, such as ``num_classes=10``.

    Raises:
        OptionError: an unknown name; the message lists the known ones.

    >>> from allgrad.vision import models
    >>> sum(p.numel() for p in models.get_model("resnet20").parameters())
    272474
    """
    return get_model_builder(name)(**config)
