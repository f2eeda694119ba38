"""What a process has once and each rank must have for itself.

The main module, the environment, signals, ``os._exit``, and the threads that it starts. All of it
replaces functions of Python's own modules, in the process of ``allgrad run --debug`` alone, before
the script is read.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from allgrad.ddp.communicators.thread import as_rank, current_thread_rank
from allgrad.ddp.environment import ALLGRAD, TORCHRUN
from allgrad.launch.debug_streams import current_rank, for_all_ranks


class HardExit(BaseException):
    """``os._exit`` of a rank: ends its thread, and the job if the code is not 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class MainModules(types.ModuleType):
    """``sys.modules["__main__"]``: for each rank the module in which its script runs.

    Pickles, dataclasses and ``import __main__`` look there.
    """

    def __init__(self, host: types.ModuleType, mains: list[types.ModuleType]) -> None:
        super().__init__("__main__")
        object.__setattr__(self, "_of_ranks", (host, mains))

    def __getattribute__(self, name: str) -> Any:
        host, mains = object.__getattribute__(self, "_of_ranks")
        rank = current_rank()
        return getattr(host if rank is None else mains[rank], name)

    def __setattr__(self, name: str, value: Any) -> None:
        host, mains = object.__getattribute__(self, "_of_ranks")
        rank = current_rank()
        setattr(host if rank is None else mains[rank], name, value)


class RankEnviron(os._Environ):
    """``os.environ`` in which each rank sees its own changes, and its rank.

    Args:
        base: the process's environment.
        own: variables of each rank.
    """

    def __init__(self, base: os._Environ[str], own: list[dict[str, str]]) -> None:
        super().__init__(
            base._data,  # type: ignore[attr-defined]
            base.encodekey,
            base.decodekey,
            base.encodevalue,
            base.decodevalue,
        )
        # None: the rank has deleted what the process has
        self._own: list[dict[str, str | None]] = [dict(variables) for variables in own]

    def _mine(self) -> dict[str, str | None]:
        rank = current_rank()
        return {} if rank is None else self._own[rank]

    def __getitem__(self, key: str) -> str:
        mine = self._mine()
        if key in mine:
            value = mine[key]
            if value is None:
                raise KeyError(key)
            return value
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: str) -> None:
        if not for_all_ranks(lambda: self._set(key, value)):
            self._set(key, value)

    def _set(self, key: str, value: str) -> None:
        rank = current_rank()
        if rank is None:
            super().__setitem__(key, value)
            return
        self.encodekey(key), self.encodevalue(value)  # TypeError for what is no text
        self._own[rank][key] = value
        os.putenv(key, value)  # for libraries and child processes: the last rank's counts

    def __delitem__(self, key: str) -> None:
        rank = current_rank()
        if rank is None:
            super().__delitem__(key)
            return
        self[key]  # KeyError where there is none
        self._own[rank][key] = None

    def __iter__(self) -> Iterator[str]:
        mine = self._mine()
        for key in super().__iter__():
            if key not in mine:
                yield key
        yield from [key for key, value in mine.items() if value is not None]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def rank_variables(rank: int, size: int) -> dict[str, str]:
    """Variables by which scripts find their rank: those of our launcher and of torchrun."""
    values = (rank, size, rank, size, 0, 1)
    found: dict[str, str] = {}
    for family in (ALLGRAD, TORCHRUN):
        names = (
            family.rank, family.size, family.local_rank, family.local_size,
            family.node_rank, family.node_count,
        )  # fmt: skip
        found |= {name[0]: str(value) for name, value in zip(names, values, strict=True)}
    return found


class Signals:
    """Handlers that ranks have set; `deliver` calls them.

    A handler runs in the process's main thread while its rank goes on, as if the system had
    interrupted the rank; an exception that it raises is raised in the rank.

    Args:
        interrupt: raises an exception in a rank's thread.
    """

    def __init__(self, interrupt: Callable[[int, BaseException], None]) -> None:
        self._interrupt = interrupt
        self._handlers: dict[tuple[int, int], Any] = {}
        self._real = (signal.signal, signal.getsignal)

    def set(self, number: int, handler: Any) -> Any:
        """Stand in for ``signal.signal``."""
        rank = current_rank()
        if rank is None:
            return self._real[0](number, handler)
        before = self.get(number)
        self._handlers[rank, int(number)] = handler
        return before

    def get(self, number: int) -> Any:
        """Stand in for ``signal.getsignal``."""
        rank = current_rank()
        if rank is None:
            return self._real[1](number)
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        return self._handlers.get((rank, int(number)), default)

    def deliver(self, place: tuple[Any, int], number: int) -> bool:
        """Let a rank have a signal; tells whether it had a handler, or ignores it."""
        with as_rank(place):
            handler = self.get(number)
            if handler is signal.default_int_handler or handler in (signal.SIG_DFL, None):
                return False
            if callable(handler):
                try:
                    handler(number, None)
                except BaseException as error:  # noqa: BLE001 - it is the rank's
                    self._interrupt(place[1], error)
        return True


def interrupt_thread(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Raise an exception in a thread, as soon as it runs Python code."""
    if thread.ident is not None:
        set_async = ctypes.pythonapi.PyThreadState_SetAsyncExc
        set_async(ctypes.c_ulong(thread.ident), ctypes.py_object(kind))


ThreadFailed = Callable[[int, BaseException], None]


def install(
    mains: list[types.ModuleType],
    threads: list[threading.Thread],
    signals: Signals,
    thread_failed: ThreadFailed,
) -> None:
    """Replace what ranks look at.

    Args:
        mains: the main module of each rank.
        threads: the thread of each rank.
        signals: its handlers.
        thread_failed: called with rank and exception when a thread of a rank dies of it.
    """
    sys.modules["__main__"] = MainModules(sys.modules["__main__"], mains)
    own = [rank_variables(rank, len(mains)) for rank in range(len(mains))]
    # the mapping stays the process's own, seen through another object
    os.environ = RankEnviron(os.environ, own)  # noqa: B003
    signal.signal, signal.getsignal = signals.set, signals.get  # type: ignore[assignment]
    _install_exit()
    _install_threads(threads, thread_failed)


def _install_exit() -> None:
    host, real = os.getpid(), os._exit

    def leave(status: int) -> NoReturn:
        # a forked child (a data loader's worker) is a process of its own
        if os.getpid() == host and current_rank() is not None:
            raise HardExit(status)
        real(status)

    os._exit = leave


def _install_threads(ranks: list[threading.Thread], thread_failed: ThreadFailed) -> None:
    """Threads that a rank starts belong to it; to its code, its own thread is the main one."""
    start, main_thread = threading.Thread.start, threading.main_thread

    def adopting_start(self: threading.Thread) -> None:
        place = current_thread_rank()
        if place is not None:
            self.run = _adopted(self.run, place, thread_failed)  # type: ignore[method-assign]
        start(self)

    def main_of_rank() -> threading.Thread:
        rank = current_rank()
        return main_thread() if rank is None else ranks[rank]

    threading.Thread.start = adopting_start  # type: ignore[method-assign]
    threading.main_thread = main_of_rank


def _adopted(
    run: Callable[[], None], place: tuple[Any, int], thread_failed: ThreadFailed
) -> Callable[[], None]:
    def adopted() -> None:
        with as_rank(place):
            try:
                run()
            except SystemExit:
                return  # ends the thread only
            except BaseException as error:  # noqa: BLE001 - nobody above would see it
                thread_failed(place[1], error)

    return adopted
