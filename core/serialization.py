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
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, deserialize

from . import devices, dtypes
from .backend.arrays import address_of, to_host
from .errors import AllgradError, CheckpointError, OptionError
from .files import write_atomically
from .tensors import Tensor

STRUCTURE = "allgrad.structure"

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
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
_SMALL_BYTES = 64 << 10
_NAMES = {numpy: name for name, numpy in _DTYPES.items()}
_KNOWN = "None, bool, int, float, complex, str, list, tuple, dict, Tensor and NumPy arrays"
# How files of torch.save begin: a zip archive, or a pickle of protocol 2 to 5.
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save(obj: Any, f: str | os.PathLike[str] | IO[bytes]) -> Path | None:
    """Write `obj` to the file `f`, completely or not at all.

    Args:
        obj: a tensor, or any nest of dict, list, tuple, str, numbers, bool, None, tensors and
            NumPy arrays: a ``state_dict()``, for example. NumPy scalars become Python numbers,
            dict subclasses become dict. A flat dict of tensors becomes a plain safetensors file.
        f: the path (its folder is created when missing), or a file open for writing bytes.

    Returns:
        The path as a `Path`; None for an open file.

    Raises:
        CheckpointError: something in `obj` has another type (its place is named), or the file
            cannot be written (disk full, no permission).

    Source: safetensors file format, https://huggingface.co/docs/safetensors.

    Unlike ``torch.save`` there is no pickle: a file from a stranger can be loaded safely. A tensor
    that occurs several times is one tensor's memory again after `load`; other programs see copies.

    >>> import io
    >>> import allgrad as ag
    >>> file = io.BytesIO()
    >>> ag.save({"w": ag.ones(2), "epoch": 3}, file)
    >>> _ = file.seek(0)
    >>> ag.load(file)
    {'w': tensor([1., 1.]), 'epoch': 3}
    """
    data = dumps(obj)
    if hasattr(f, "write"):
        f.write(data)
        return None
    return write_atomically(f, data)


def load(
    f: str | os.PathLike[str] | IO[bytes],
    map_location: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:
    """Read what `save` wrote, or any safetensors file (which gives a dict of tensors).

    Args:
        f: the path, or a file open for reading bytes.
        map_location: where tensors shall be: a device, a dict from devices to devices, or a
            function of (tensor, "cpu"), as in PyTorch. The files name no devices: without it,
            tensors are read to the CPU, also those that were on a GPU (PyTorch puts them back).
        weights_only: no difference: nothing in a file is ever executed.
        mmap: only False or None: a file is read as a whole.

    Returns:
        The same nest; tensors own their memory and need no gradient.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file. For a file of
            ``torch.save`` the message says how to convert it.
        DeviceError: tensors are wanted where this build cannot compute.
    """
    if mmap:
        raise OptionError("load: mmap=True is not there; the file is read as a whole")
    place = _mover(map_location)
    if hasattr(f, "read"):
        return loads(f.read(), str(getattr(f, "name", "the open file")), place)
    try:
        data = Path(f).read_bytes()
    except OSError as err:
        raise CheckpointError(f"cannot read {f}: {err}") from err
    return loads(data, str(f), place)


def _mover(map_location: Any) -> Callable[[Tensor], Tensor] | None:
    """What `map_location` does with a tensor in main memory; None where it does nothing.

    Raises:
        DeviceError: tensors are wanted where this build cannot compute.
    """
    target = map_location
    if isinstance(map_location, dict):
        named = {str(devices.device(k)): v for k, v in map_location.items()}
        target = named.get("cpu")
    elif callable(map_location):
        return lambda tensor: _by_function(map_location, tensor)
    if target is None or devices.require(target).type == "cpu":
        return None
    return lambda tensor: tensor.to(target)


def _by_function(function: Callable[..., Any], tensor: Tensor) -> Tensor:
    moved = function(tensor, "cpu")
    if moved is not None and not isinstance(moved, Tensor):
        raise OptionError(
            "load: expected a map_location that returns a tensor or None, came a function that "
            f"returns {type(moved).__name__}"
        )
    return tensor if moved is None else moved


class _Table(dict[str, np.ndarray]):
    """Arrays by name, and where in memory each was found first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[Any, ...], str] = {}


def dumps(obj: Any) -> bytes:
    """The bytes of the file that `save` writes. Raises CheckpointError as `save` does."""
    return b"".join(dump_pieces(obj))


def dump_pieces(obj: Any) -> list[bytes | memoryview]:
    """The bytes of `dumps` in pieces: a header, then the memory of each tensor, not copied.

    Whoever hashes and writes them piece by piece holds Python's lock for none of the large work.
    """
    tensors = _Table()
    structure = _encode(obj, (), tensors)
    header: dict[str, Any] = {
        "__metadata__": {STRUCTURE: json.dumps(structure, allow_nan=False)},
    }
    pieces: list[bytes | memoryview] = []
    offset = 0
    # wide numbers first, so that every tensor begins at a multiple of its item size
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
        if array.nbytes:
            pieces.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return _join_small([len(text).to_bytes(8, "little") + text, *pieces])


def _join_small(pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Join neighbours of up to 64 KiB, as each piece costs its reader a call of its own."""
    joined: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) <= _SMALL_BYTES:
            small.append(piece)
            continue
        joined += [b"".join(small), piece]
        small.clear()
    return [piece for piece in (*joined, b"".join(small)) if len(piece)]


def loads(
    data: bytes, source: str = "data", place: Callable[[Tensor], Tensor] | None = None
) -> Any:
    """The object in the bytes `data`.

    Args:
        data: what `dumps` gave.
        source: names them in errors (CheckpointError).
        place: moves every tensor to where it shall be.
    """
    if data.startswith(_PICKLED) and data[8:9] != b"{":  # where a safetensors header begins
        raise CheckpointError(
            f"{source}: expected a safetensors file, came a pickle, as torch.save writes it. Its "
            "code would run, so it is not read. Convert it with PyTorch: "
            f"safetensors.torch.save_file(torch.load({source!r}), 'converted.safetensors')"
        )
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
        there = place or (lambda tensor: tensor)
        return {name: there(Tensor(array)) for name, array in tensors.items()}
    return _decode(structure, tensors, source, place)


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
    kind = dtypes.bfloat16.numpy if dtype == "bfloat16" else dtype
    return np.frombuffer(spec["data"], dtype=kind).reshape(spec["shape"])


def _encode(obj: Any, place: tuple[str, ...], tensors: _Table) -> Any:
    """`obj` as JSON values; its tensors go to `tensors`. See Note [Structure beside tensors]."""
    if isinstance(obj, np.generic):
        obj = obj.item()
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else {"$": "float", "is": repr(float(obj))}
    if isinstance(obj, complex):
        return {"$": "complex", "is": [repr(obj.real), repr(obj.imag)]}
    if isinstance(obj, Tensor):
        return _put("tensor", obj.detach()._canonical(), place, tensors)
    if isinstance(obj, np.ndarray):
        return _put("array", obj, place, tensors)
    if isinstance(obj, list | tuple):
        items = [_encode(v, (*place, str(i)), tensors) for i, v in enumerate(obj)]
        return items if isinstance(obj, list) else {"$": "tuple", "is": items}
    if isinstance(obj, dict):
        return _encode_dict(obj, place, tensors)
    advice = (
        "Save its state_dict()" if hasattr(obj, "state_dict") else "Convert it, or leave it out"
    )
    raise CheckpointError(
        f"cannot save {_spell(place)}: expected {_KNOWN}, came {type(obj).__name__}. {advice}"
    )


def _encode_dict(obj: dict[Any, Any], place: tuple[str, ...], tensors: _Table) -> Any:
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


def _put(kind: str, array: np.ndarray, place: tuple[str, ...], tensors: _Table) -> dict[str, str]:
    name = ".".join(place) or "value"
    while name in tensors:  # {"a.b": x, "a": {"b": y}} spells one path twice
        name += "'"
    entry = {"$": kind, "is": name}
    if array.size:  # one memory under several names is written under each, for other readers
        memory = (kind, address_of(array), array.shape, array.strides)
        first = tensors.seen.setdefault((*memory, array.dtype), name)
        if first != name:
            entry["same"] = first
    if array.dtype == np.complex128:  # safetensors has no word for it: pairs of float64
        entry["as"] = "complex128"
        array = np.ascontiguousarray(array).view(np.float64).reshape(*array.shape, 2)
    elif array.dtype.name not in _DTYPES.values():
        raise CheckpointError(
            f"cannot save {_spell(place)}: expected one of {', '.join(_DTYPES.values())}, "
            f"came an array of dtype {array.dtype}"
        )
    array = to_host(array)
    # not np.ascontiguousarray for all: it turns a number into a vector of one
    tensors[name] = array if array.flags.c_contiguous else array.copy(order="C")
    return entry


def _decode(
    some: Any,
    tensors: dict[str, np.ndarray],
    source: str,
    place: Callable[[Tensor], Tensor] | None,
) -> Any:
    moved: dict[str, Tensor] = {}  # one memory stays one memory on its device

    def tensor(node: dict[str, Any]) -> Tensor:
        if place is None:
            return Tensor(array(node))
        name = node.get("same", node["is"])
        if name not in moved:
            moved[name] = place(Tensor(array(node)))
            return moved[name]
        return moved[name].detach()

    def array(node: dict[str, Any]) -> np.ndarray:
        found = tensors[node.get("same", node["is"])]
        return found.view(np.complex128)[..., 0] if node.get("as") == "complex128" else found

    makers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "tensor": tensor,
        "array": array,
        "float": lambda node: float(node["is"]),
        "complex": lambda node: complex(*(float(part) for part in node["is"])),
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
    except AllgradError:
        raise  # of a map_location
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{source}: expected the structure that allgrad.save writes, found {err!r}. The file "
            "is damaged or of a later version"
        ) from err


def _spell(place: tuple[str, ...]) -> str:
    return "obj" + "".join(f"[{p!r}]" for p in place)
