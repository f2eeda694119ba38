"""Modules that hold parameters in a list or under names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...tensors import Parameter, Tensor
from .container import need_iterable
from .module import Module


class _Holder(Module):
    """Values under names: tensors become parameters, other objects are kept as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[str, None] = {}
        self._others: dict[str, Any] = {}

    def _store(self, key: str, value: Any) -> None:
        self._check_name(key)
        self._order[key] = None
        if isinstance(value, Tensor):  # a known name keeps its place
            self._others.pop(key, None)
            parameter = value if isinstance(value, Parameter) else Parameter(value)
            self._parameters[key] = parameter
        else:
            self._parameters.pop(key, None)
            self._others[key] = value

    def _load(self, key: str) -> Any:
        return self._parameters[key] if key in self._parameters else self._others[key]

    def _remove(self, key: str) -> None:
        del self._order[key]
        self._parameters.pop(key, None)
        self._others.pop(key, None)

    def __len__(self) -> int:
        return len(self._order)

    def _dtype_text(self, value: Tensor) -> str:
        return str(value.dtype)

    def __repr__(self) -> str:
        lines = []
        for key in self._order:
            value = self._load(key)
            if isinstance(value, Tensor):
                size = "x".join(str(n) for n in value.shape)
                kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
                text = f"{kind} containing: [{self._dtype_text(value)} of size {size}]"
            else:
                text = f"Object of type: {type(value).__name__}"
            lines.append(f"  ({key}): {text}")
        name = self._get_name()
        return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"


class ParameterList(_Holder):
    """A list of parameters, registered in order.

    Args:
        values: tensors (which become parameters), parameters, or other objects.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        if values is not None:
            self.extend(values)

    def append(self, value: Any) -> ParameterList:
        """Add a value at the end; returns self."""
        self._store(str(len(self)), value)
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add several values at the end; returns self."""
        need_iterable(f"{type(self).__name__}.extend", values)
        for value in values:
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def _key(self, index: int) -> str:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"index {index} is out of range for {count} parameters")
        return str(index % count)

    def __setitem__(self, index: int, value: Any) -> None:
        self._store(self._key(index), value)

    def __iter__(self) -> Iterator[Any]:
        return (self._load(key) for key in list(self._order))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ParameterList(list(self)[index])
        return self._load(self._key(index))


_MISSING = object()


class ParameterDict(_Holder):
    """Parameters under names, with the methods of a dict.

    Args:
        parameters: a mapping or pairs: tensors (which become parameters), or other objects.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        if parameters is not None:
            self.update(parameters)

    def _dtype_text(self, value: Tensor) -> str:
        return str(value.type())

    def update(self, values: Any) -> None:
        """Add or replace values, given as a mapping or as (name, value) pairs."""
        need_iterable(f"{type(self).__name__}.update", values)
        pairs = values.items() if isinstance(values, Mapping | ParameterDict) else values
        for key, value in pairs:
            self[key] = value

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._order))

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._order))

    def __contains__(self, key: str) -> bool:
        return key in self._order

    def __getitem__(self, key: str) -> Any:
        return self._load(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._store(key, value)

    def __delitem__(self, key: str) -> None:
        self._remove(key)

    def __or__(self, other: Any) -> ParameterDict:
        joined = self.copy()
        joined.update(other)
        return joined

    def __ror__(self, other: Any) -> ParameterDict:
        joined = ParameterDict(other)
        joined.update(self)
        return joined

    def __ior__(self, other: Any) -> ParameterDict:
        self.update(other)
        return self

    def copy(self) -> ParameterDict:
        """Another ParameterDict of the same values."""
        return ParameterDict(dict(self.items()))

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new ParameterDict with `default` under every key."""
        return ParameterDict((key, default) for key in keys)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        return self._load(key) if key in self._order else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under `key`, which becomes `default` if there is none."""
        if key not in self._order:
            self[key] = default
        return self[key]

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove a value and return it."""
        if key not in self._order and default is not _MISSING:
            return default
        value = self._load(key)
        self._remove(key)
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the newest value and return (name, value)."""
        key = next(reversed(self._order))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all values."""
        for key in list(self._order):
            self._remove(key)

    def keys(self) -> Any:
        """The names."""
        return self._order.keys()

    def values(self) -> list[Any]:
        """The values."""
        return [self._load(key) for key in self._order]

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) pairs."""
        return [(key, self._load(key)) for key in self._order]
