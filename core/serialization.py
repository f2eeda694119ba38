"""`allgrad.save` and `allgrad.load`: nests of dicts, lists, numbers and tensors as safetensors.

Stands beside `checkpoint`, which uses it; may import tensors and below.

Note [Structure beside tensors]
safetensors knows a flat table of named tensors and a table of strings. The tensors go into the
first under the path where they were found (``model.conv1.weight``); everything else is the
*structure*: the same nest as JSON, with a small dict ``{"$": kind, ...}`` wherever JSON has no
word of its own. It goes into the strings. A flat dict of tensors therefore is a plain safetensors
file that any other reader understands, and nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as to_bytes

from .errors import CheckpointError
from .files import write_atomically
from .tensors import Tensor

STRUCTURE = "allgrad.structure"

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "C64": "complex64",
}
_KNOWN = "None, bool, int, float, str, list, tuple, dict, Tensor and NumPy arrays"


def save(obj: Any, path: str | os.PathLike[str]) -> Path:
    """Write `obj` to the file `path`, completely or not at all.

    Args:
        obj: a tensor, or any nest of dict, list, tuple, str, int, float, bool, None, tensors and
            NumPy arrays: a ``state_dict()``, for example. NumPy scalars become Python numbers,
            dict subclasses become dict. A flat dict of tensors becomes a plain safetensors file.
        path: the file; its folder is created when missing.

    Returns:
        `path` as a `Path`.

    Raises:
        CheckpointError: something in `obj` has another type (its place is named), or the file
            cannot be written (disk full, no permission).

    Source: safetensors file format, https://huggingface.co/docs/safetensors.

    Unlike ``torch.save`` there is no pickle: a file from a stranger can be loaded safely.
    """
    return write_atomically(path, dumps(obj))


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote, or any safetensors file (which gives a dict of tensors).

    Args:
        path: the file.

    Returns:
        The same nest; tensors own their memory and need no gradient.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise CheckpointError(f"cannot read {path}: {err}") from err
    return loads(data, str(path))


def dumps(obj: Any) -> bytes:
    """The bytes of the file that `save` writes. Raises CheckpointError as `save` does."""
    tensors: dict[str, np.ndarray] = {}
    structure = _encode(obj, (), tensors)
    return to_bytes(tensors, metadata={STRUCTURE: json.dumps(structure, allow_nan=False)})


def loads(data: bytes, source: str = "data") -> Any:
    """The object in the bytes `data`; `source` names them in errors (CheckpointError)."""
    try:
        specs = deserialize(data)
        tensors = {name: _array(spec, name, source) for name, spec in specs}
        structure = _read_structure(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{source}: expected a safetensors file, came {len(data)} bytes that are not one "
            f"({err}). The file is damaged or of another kind"
        ) from err
    if structure is None:
        return {name: Tensor(array) for name, array in tensors.items()}
    return _decode(structure, tensors, source)


def _read_structure(data: bytes) -> Any:
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    text = header.get("__metadata__", {}).get(STRUCTURE)
    return None if text is None else _Some(json.loads(text))


class _Some:
    """A structure that was present, because `None` itself is a structure."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _array(spec: dict[str, Any], name: str, source: str) -> np.ndarray:
    dtype = _DTYPES.get(spec["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{source}: tensor {name!r} has dtype {spec['dtype']}; known: {', '.join(_DTYPES)}"
        )
    # the data is a bytearray made for this call: the array on it is writable and owns it
    return np.frombuffer(spec["data"], dtype=dtype).reshape(spec["shape"])


def _encode(obj: Any, place: tuple[str, ...], tensors: dict[str, np.ndarray]) -> Any:
    """`obj` as JSON values; its tensors go to `tensors`. See Note [Structure beside tensors]."""
    if isinstance(obj, np.generic):
        obj = obj.item()
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else {"$": "float", "is": repr(float(obj))}
    if isinstance(obj, Tensor):
        return _put("tensor", obj.detach().numpy(), place, tensors)
    if isinstance(obj, np.ndarray):
        return _put("array", obj, place, tensors)
    if isinstance(obj, list | tuple):
        items = [_encode(v, (*place, str(i)), tensors) for i, v in enumerate(obj)]
        return items if isinstance(obj, list) else {"$": "tuple", "is": items}
    if isinstance(obj, dict):
        return _encode_dict(obj, place, tensors)
    raise CheckpointError(
        f"cannot save {_spell(place)}: expected {_KNOWN}, came {type(obj).__name__}. Convert it, "
        "or leave it out"
    )


def _encode_dict(obj: dict[Any, Any], place: tuple[str, ...], tensors: dict[str, Any]) -> Any:
    for key in obj:
        if not (key is None or isinstance(key, str | bool | int | float | tuple)):
            raise CheckpointError(
                f"cannot save {_spell(place)}: expected keys of type str, int, float, bool or "
                f"tuple, came {key!r} of type {type(key).__name__}"
            )
    if all(isinstance(key, str) for key in obj) and "$" not in obj:
        return {key: _encode(v, (*place, key), tensors) for key, v in obj.items()}
    pairs = [
        [_encode(k, (*place, "key"), tensors), _encode(v, (*place, str(k)), tensors)]
        for k, v in obj.items()
    ]
    return {"$": "dict", "is": pairs}


def _put(
    kind: str, array: np.ndarray, place: tuple[str, ...], tensors: dict[str, np.ndarray]
) -> dict[str, str]:
    name = ".".join(place) or "value"
    while name in tensors:  # {"a.b": x, "a": {"b": y}} spells one path twice
        name += "'"
    entry = {"$": kind, "is": name}
    if array.dtype == np.complex128:  # safetensors has no word for it: pairs of float64
        entry["as"] = "complex128"
        array = np.ascontiguousarray(array).view(np.float64).reshape(*array.shape, 2)
    elif array.dtype.name not in _DTYPES.values():
        raise CheckpointError(
            f"cannot save {_spell(place)}: expected one of {', '.join(_DTYPES.values())}, "
            f"came an array of dtype {array.dtype}"
        )
    # not np.ascontiguousarray for all: it turns a number into a vector of one
    tensors[name] = array if array.flags.c_contiguous else array.copy(order="C")
    return entry


def _decode(some: Any, tensors: dict[str, np.ndarray], source: str) -> Any:
    def array(node: dict[str, Any]) -> np.ndarray:
        found = tensors[node["is"]]
        return found.view(np.complex128)[..., 0] if node.get("as") == "complex128" else found

    makers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "tensor": lambda node: Tensor(array(node)),
        "array": array,
        "float": lambda node: float(node["is"]),
        "tuple": lambda node: tuple(walk(v) for v in node["is"]),
        "dict": lambda node: {walk(k): walk(v) for k, v in node["is"]},
    }

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(v) for v in node]
        if not isinstance(node, dict):
            return node
        if "$" in node:
            return makers[node["$"]](node)
        return {k: walk(v) for k, v in node.items()}

    try:
        return walk(some.value)
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{source}: expected the structure that allgrad.save writes, found {err!r}. The file "
            "is damaged or of a later version"
        ) from err


def _spell(place: tuple[str, ...]) -> str:
    return "obj" + "".join(f"[{p!r}]" for p in place)
