"""`export`: from a module and an example input to an ONNX file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from ..errors import AllgradError, ArgumentError, BoundsError, OptionError
from ..files import write_atomically
from ..nn import Module
from ..tensors import Tensor
from .recording import Recording, in_evaluation, record, varied

_MIN_OPSET = 17
Axes = Mapping[str, Mapping[int, str] | Sequence[int]]


class ExportError(AllgradError, RuntimeError):
    """A model cannot be written as ONNX; the message names the op."""


def export(
    model: Module,
    args: Any,
    f: str | os.PathLike[str] | IO[bytes],
    *,
    kwargs: Mapping[str, Any] | None = None,
    export_params: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int = _MIN_OPSET,
    dynamic_axes: Axes | None = None,
) -> None:
    """Write a model as it computes in evaluation mode to an ONNX file.

    The model runs twice (see Note [Two recordings] in `recording.py`); dropout vanishes and batch
    norm uses its running statistics. The model is left in the mode it was in. Parameters keep
    their names.

    Args:
        model: a module of float32 (or float64) parameters.
        args: an example input: a tensor, or a tuple of the arguments of `forward`; values that
            are not tensors become constants.
        f: path of the file, or a file open for writing bytes.
        kwargs: more arguments, by keyword.
        export_params: only True: a graph without its weights is not supported.
        input_names, output_names: names in the graph, by default those of `forward` and "output".
        opset_version: of the standard operators, 17 or later.
        dynamic_axes: axes whose size may differ from the example's, by name of the input or
            output: ``{"x": {0: "batch"}}`` or ``{"x": [0]}``. Those of outputs follow by
            themselves. By default all sizes are fixed.

    Raises:
        ExportError (a RuntimeError): an op has no counterpart in ONNX, or a value that depends on
            the input was computed outside of the recorded ops. The message names the op.
        ImportError: the package `onnx` is missing.

    Source: ONNX operators, https://onnx.ai/onnx/operators.
    """
    try:
        import onnx  # noqa: PLC0415 - optional
    except ImportError as err:
        raise ImportError(
            "allgrad.onnx.export needs the package onnx: pip install allgrad[onnx]"
        ) from err
    _check(model, export_params, opset_version, onnx.defs.onnx_opset_version())
    values = list(args) if isinstance(args, tuple | list) else [args]
    if kwargs is None and values and isinstance(values[-1], dict):  # PyTorch's older spelling
        kwargs = values.pop()
    keywords = dict(kwargs or {})
    arrays = [_plain(v) for v in (*values, *keywords.values())]
    named = _names_of_arguments(model, len(values), list(keywords))
    feeds = [n for n, a in zip(named, arrays, strict=True) if isinstance(a, np.ndarray)]
    names = _named(input_names, feeds, "input_names")
    shapes = {n: a.ndim for n, a in zip(names, _tensors(arrays), strict=True)}
    axes = {n: _axes_of(dynamic_axes or {}, n, ndim) for n, ndim in shapes.items()}
    other = _vary(arrays, names, axes)
    with in_evaluation(model):
        recordings = record(model, arrays, list(keywords)), record(model, other, list(keywords))
    data = _build(model, recordings, names, output_names, opset_version, axes, dynamic_axes or {})
    if hasattr(f, "write"):
        f.write(data)
    else:
        write_atomically(f, data, ExportError)


def _check(model: Any, export_params: bool, opset: Any, newest: int) -> None:
    if not isinstance(model, Module):
        raise TypeError(f"onnx.export: expected a Module, came {type(model).__name__}")
    if not export_params:
        raise OptionError("onnx.export: export_params=False (a graph without weights) is not there")
    if not isinstance(opset, int) or not _MIN_OPSET <= opset <= newest:
        raise OptionError(
            f"onnx.export: expected opset_version within {_MIN_OPSET}..{newest}, came {opset!r}"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().numpy()
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise ArgumentError(
            "onnx.export: expected each argument to be a tensor or a plain value, came "
            f"{type(value).__name__}"
        )
    return value


def _tensors(values: Sequence[Any]) -> list[np.ndarray]:
    return [v for v in values if isinstance(v, np.ndarray)]


def _names_of_arguments(model: Module, count: int, keywords: list[str]) -> list[str]:
    """The names that `forward` has for its arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = [p.name for p in parameters if p.kind in kinds]
    positional += [f"input_{i}" for i in range(len(positional), count)]
    return positional[:count] + keywords


def _named(given: Sequence[str] | None, usual: Sequence[str], what: str) -> list[str]:
    if given is None:
        return list(usual)
    if len(set(given)) != len(usual) or len(given) != len(usual):
        raise ArgumentError(
            f"onnx.export: expected {len(usual)} different {what}, came {list(given)}"
        )
    return list(given)


def _axes_of(dynamic: Axes, name: str, ndim: int) -> dict[int, str]:
    """{axis: name of its size} of one input or output."""
    given = dynamic.get(name, {})
    if not isinstance(given, Mapping):
        given = {axis: f"{name}_dynamic_axes_{i + 1}" for i, axis in enumerate(given)}
    if any(not -ndim <= axis < ndim for axis in given):
        raise BoundsError(
            f"onnx.export: dynamic_axes of {name!r}: expected axes within {-ndim}..{ndim - 1}, "
            f"came {list(given)}"
        )
    return {axis % ndim: label for axis, label in given.items()}


def _vary(arrays: list[Any], names: list[str], axes: dict[str, dict[int, str]]) -> list[Any]:
    rng, waiting = np.random.default_rng(0), iter(names)
    varying = []
    for array in arrays:
        mine = axes[next(waiting)] if isinstance(array, np.ndarray) else {}
        varying.append(varied(array, list(mine), rng))
    return varying


def _build(
    model: Module,
    recordings: tuple[Recording, Recording],
    names: list[str],
    output_names: Sequence[str] | None,
    opset: int,
    axes: dict[str, dict[int, str]],
    dynamic: Axes,
) -> bytes:
    from .writing import Writer  # noqa: PLC0415 - needs the library

    count = len(recordings[0].outputs)
    usual = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    outputs = _named(output_names, usual, "output_names")
    unknown = dynamic.keys() - {*names, *outputs}
    if unknown:
        raise OptionError.unknown("name in dynamic_axes", min(unknown), [*names, *outputs])
    writer = Writer(model, recordings, names, outputs, opset)
    wanted = {
        n: _axes_of(dynamic, n, t.ndim) for n, t in zip(outputs, recordings[0].outputs, strict=True)
    }
    return writer.finish(axes, wanted).SerializeToString()
