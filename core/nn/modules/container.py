"""Modules that hold modules or parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .module import Module

Pairs = Mapping[str, Module] | Iterable[tuple[str, Module]]


def _position(index: int, count: int) -> int:
    if not -count <= index < count:
        raise IndexError(f"index {index} is out of range for {count} modules")
    return index % count


def _without(items: list[Any], index: int | slice) -> list[Any]:
    """`items` without what `index` names."""
    if not isinstance(index, slice):
        index = _position(index, len(items))
    del items[index]
    return items


def _renumber(holder: Module, items: list[Any]) -> None:
    """Give `holder` exactly `items`, under the names "0", "1", ..."""
    holder._modules.clear()
    for i, item in enumerate(items):
        holder.add_module(str(i), item)


def _sequence(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"a Sequential can be joined with a Sequential, came {type(other)}")
    return other


def _times(times: Any) -> int:
    if not isinstance(times, int):
        raise TypeError(f"a Sequential can be repeated an integer number of times, came {times!r}")
    if times <= 0:
        raise ValueError(f"a Sequential can be repeated a positive number of times, came {times}")
    return times


def need_iterable(name: str, values: Any) -> None:
    """Raise TypeError unless `values` can be iterated."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} should be called with an iterable, but got {type(values)}")


class Sequential(Module):
    """Modules applied one after the other.

    Args:
        args: the modules, or one ordered dict of named modules.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)  # type: ignore[misc]  # None is never registered here
        return input

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        items = list(self._modules.items())
        if isinstance(index, slice):
            return Sequential(dict(items[index]))
        return items[_position(index, len(items))][1]

    def __setitem__(self, index: int, module: Module) -> None:
        name = list(self._modules)[_position(index, len(self))]
        self.add_module(name, module)

    def __delitem__(self, index: int | slice) -> None:
        _renumber(self, _without(list(self), index))

    def append(self, module: Module) -> Sequential:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Sequential:
        """Add several modules at the end; returns self."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Sequential:
        """Insert a module before `index`; all are numbered anew. Returns self."""
        if not isinstance(module, Module):
            raise AssertionError(f"expected an nn.Module, came {type(module).__name__}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} modules")
        items = list(self)
        items.insert(index, module)
        _renumber(self, items)
        return self

    def pop(self, index: int | slice) -> Any:
        """Remove a module and return it."""
        found = self[index]
        del self[index]
        return found

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *_sequence(other))

    def __iadd__(self, other: Sequential) -> Sequential:
        return self.extend(_sequence(other))

    def __mul__(self, times: int) -> Sequential:
        return Sequential(*(list(self) * _times(times)))

    __rmul__ = __mul__

    def __imul__(self, times: int) -> Sequential:
        return self.extend(list(self) * (_times(times) - 1))


class ModuleList(Module):
    """A list of modules, registered in order."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add several modules at the end; returns self."""
        need_iterable(f"{type(self).__name__}.extend", modules)
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Insert a module before `index`."""
        items = list(self)
        items.insert(index, module)
        _renumber(self, items)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        items = list(self._modules.values())
        if isinstance(index, slice):
            return ModuleList(items[index])  # type: ignore[arg-type]
        return items[_position(index, len(items))]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(str(_position(index, len(self))), module)

    def __delitem__(self, index: int | slice) -> None:
        _renumber(self, _without(list(self), index))

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, modules: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *modules])

    def pop(self, index: int | slice) -> Any:
        """Remove a module and return it."""
        found = self[index]
        del self[index]
        return found

    def __repr__(self) -> str:
        lines, start = [], 0
        for text, run in itertools.groupby(map(repr, self)):  # neighbours that print the same
            count = len(list(run))
            place = f"({start})" if count == 1 else f"({start}-{start + count - 1})"
            form = text if count == 1 else f"{count} x {text}"
            lines.append(f"  {place}: {form}".replace("\n", "\n  "))
            start += count
        name = self._get_name()
        return f"{name}(\n" + "\n".join(lines) + "\n)" if lines else f"{name}()"


class ModuleDict(Module):
    """Modules under names."""

    def __init__(self, modules: Pairs | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def update(self, modules: Pairs) -> None:
        """Add or replace modules, given as a mapping or as (name, module) pairs."""
        need_iterable(f"{type(self).__name__}.update", modules)
        pairs: Any = modules.items() if isinstance(modules, Mapping | ModuleDict) else modules
        for name, module in pairs:
            self.add_module(name, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def pop(self, name: str) -> Any:
        """Remove a module and return it."""
        return self._modules.pop(name)

    def clear(self) -> None:
        """Remove all modules."""
        self._modules.clear()

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def items(self) -> Any:
        """(name, module) pairs."""
        return self._modules.items()
