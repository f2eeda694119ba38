"""What CuPy accepts where NumPy accepts more: types of ufuncs, their methods, parameters.

All of it is read from `cupy_api.json`. CuPy takes the first loop of a ufunc that all arguments can
be cast to without loss; numbers of Python's give way to arrays.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

API: dict[str, Any] = json.loads(Path(__file__).with_name("cupy_api.json").read_text())
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_KEYWORDS = frozenset(("out", "dtype", "casting"))
_REDUCE = frozenset(("add", "multiply"))
_NUMBERS = (bool, int, float, complex)


def check_parameters(name: str, names: list[str] | None, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise if a function of CuPy's does not have these parameters.

    Args:
        name: of the function, for errors.
        names: of its parameters, with stars; None where it is not known.
    """
    if names is None:
        return
    if kwargs and not any(n.startswith("**") for n in names):
        for key in kwargs:
            if key not in names:
                raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
    starred = next((i for i, n in enumerate(names) if n.startswith("*")), None)
    if starred is None or names[starred] == "*" or names[starred].startswith("**"):
        most = len(names) if starred is None else starred
        if len(args) > most:
            raise TypeError(
                f"{name}() takes at most {most} positional arguments ({len(args)} given)"
            )


def check_function(function: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether CuPy has a function of NumPy's; raises if not with these parameters."""
    found = api_of(function)
    if found is None:
        return False
    check_parameters(function.__name__, found.get("parameters"), args, kwargs)
    return True


def api_of(function: Any) -> dict[str, Any] | None:
    """What the real CuPy has under the name of a function of NumPy's, or None."""
    module = getattr(function, "__module__", "numpy").split(".")[1:]
    if not module:
        return API["functions"].get(function.__name__)
    if module[0] in ("linalg", "fft"):
        return API[module[0]].get(function.__name__)
    return None


def ufunc_method(ufunc: np.ufunc, method: str, inputs: Any) -> None:
    """Raise if CuPy has no such method of a ufunc, or not for this type."""
    name = ufunc.__name__
    if method == "at":
        types = API["at"].get(name)
        if types is None:
            raise NotImplementedError(f"`cupy_{name}.at` is not supported yet")
        if inputs[0].dtype.name not in types:
            raise TypeError(
                f"cupy.{name}.at only supports {', '.join(types)}, as data type "
                f"(came {inputs[0].dtype})"
            )
    elif (method in ("reduce", "accumulate") and name not in _REDUCE) or (
        method == "reduceat" and name != "add"
    ):
        raise NotImplementedError(f"`cupy_{name}.{method}` is not supported yet")


def loop(ufunc: np.ufunc, inputs: Any, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """What computes a ufunc of CuPy's on NumPy arrays of these types.

    Raises:
        TypeError: CuPy has no loop for them, or no such keyword.
    """
    if kwargs and not kwargs.keys() <= _KEYWORDS:
        raise TypeError(f"Wrong arguments { {k: kwargs[k] for k in kwargs.keys() - _KEYWORDS} }")
    dtype = kwargs.get("dtype")
    return _loop(ufunc, tuple(map(_kind, inputs)), None if dtype is None else np.dtype(dtype))


def _kind(value: Any) -> Any:
    """A type: NumPy's of arrays and of NumPy's numbers, Python's of Python's numbers."""
    kind = type(value)
    return kind if kind in _NUMBERS else value.dtype


@functools.lru_cache(maxsize=4096)
def _loop(ufunc: np.ufunc, kinds: tuple[Any, ...], dtype: np.dtype | None) -> Callable[..., Any]:
    name = ufunc.__name__
    types = API["functions"][name].get("types")
    if types is None:  # matmul and its like
        return ufunc
    loops = [tuple(tuple(map(_dtype, side)) for side in t.split("->")) for t in types]
    found = _first(loops, kinds[: ufunc.nin], dtype)
    if found is None or (name in ("subtract", "negative") and found[0][0] == np.bool_):
        said = kinds if dtype is None else dtype
        raise TypeError(f"Wrong type ({said}) of arguments for cupy_{name}")
    if dtype is None and _numpy_agrees(ufunc, kinds[: ufunc.nin], found[1]):
        return ufunc
    return functools.partial(_cast, ufunc, *found)


def _dtype(char: str) -> np.dtype:
    return BFLOAT16 if char == "E" else np.dtype(char)


def _first(loops: list[Any], kinds: tuple[Any, ...], dtype: np.dtype | None) -> Any:
    if dtype is not None:
        return next((each for each in loops if all(t == dtype for t in each[1])), None)
    weak = _weak_counts(kinds)
    for each in loops:
        if all(_fits(k, t, weak) for k, t in zip(kinds, each[0], strict=True)):
            return each
    return None


def _weak_counts(kinds: tuple[Any, ...]) -> bool:
    """Whether numbers of Python's give way: there are arrays of their kind or a higher one."""
    arrays = [_score(k) for k in kinds if isinstance(k, np.dtype)]
    numbers = [_score(np.dtype(k)) for k in kinds if k in (int, float, complex)]
    return bool(arrays) and bool(numbers) and max(arrays) >= max(numbers)


def _score(dtype: np.dtype) -> int:
    return {"b": 0, "i": 1, "u": 1, "f": 2, "c": 2}.get(dtype.kind, 2 if dtype == BFLOAT16 else 3)


def _fits(kind: Any, target: np.dtype, weak: bool) -> bool:
    if np.can_cast(np.dtype(kind), target):
        return True
    if not weak or isinstance(kind, np.dtype) or kind is bool:
        return False
    try:
        return np.result_type(kind(0), target) == target
    except TypeError:
        return False


def _numpy_agrees(ufunc: np.ufunc, kinds: tuple[Any, ...], out: tuple[np.dtype, ...]) -> bool:
    """Whether NumPy by itself gives results of the types that CuPy gives."""
    given = tuple(np.dtype(bool) if k is bool else k for k in kinds)
    try:
        found = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
    except TypeError:
        return False
    return tuple(found[ufunc.nin :]) == out


def _cast(
    ufunc: np.ufunc,
    types: tuple[np.dtype, ...],
    results: tuple[np.dtype, ...],
    *inputs: Any,
    out: Any = None,
    dtype: Any = None,
    casting: str = "same_kind",
) -> Any:
    """A ufunc in the types of a loop of CuPy's."""
    wide = [np.dtype(np.float32) if t == BFLOAT16 else t for t in types]
    values = [
        np.asarray(x).astype(t).astype(w)
        for x, t, w in zip(inputs[: ufunc.nin], types, wide, strict=True)
    ]
    found = ufunc(*values)
    given = out or inputs[ufunc.nin :]
    found = found if isinstance(found, tuple) else (found,)
    found = tuple(np.asarray(f).astype(r) for f, r in zip(found, results, strict=True))
    if given:
        given = given if isinstance(given, tuple) else (given,)
        for place, value in zip(given, found, strict=True):
            np.copyto(place, value, casting=casting)
        found = given
    return found[0] if len(found) == 1 else found


def check_method(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise if an array of CuPy's does not have such parameters of a method."""
    names = API["methods"].get(name)
    if names is not None:
        check_parameters(f"ndarray.{name}", names[1:], args, kwargs)
