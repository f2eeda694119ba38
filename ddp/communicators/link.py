"""A link model around a communicator: collectives complete when a link of that speed would have.

Stage of the flow: between the callers of a communicator and one whose ranks are on this host
(threads, shared memory, MPI). May import: `base`, `allgrad.errors`. It shows overlap without a
network, and burns no time of the processor while it waits.

Note [Link model]
    A collective starts when the last rank has arrived at it and the link has finished what it
    carries already: one collective after the other, in the order in which they were issued. It then
    takes `messages * latency + bytes / bandwidth`, by the count of the usual algorithms over N
    ranks, each with a full-duplex link of its own (log = rounded up logarithm to base 2):

        all_reduce        2 log N messages, 2 (N-1)/N of its bytes
        broadcast           log N           all
        all_gather          log N           N-1 times a rank's
        reduce_scatter      log N           (N-1)/N of the N rows
        all_to_all          log N           (N-1)/N
        barrier             log N           none

    Each rank's time of arrival travels in a small MAX all-reduce of its own beside the collective;
    all ranks see the same times (the ranks of a host share a clock) and so the same end. The
    collective itself still runs on the communicator inside: its reduction costs this core what it
    costs. Messages between two ranks (send, recv) pass without delay.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import numpy as np

from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp, Work
from allgrad.errors import OptionError

_GBIT = 1e9 / 8
# Rates of one direction of one rank's link, and the latency of a small message.
PRESETS: dict[str, tuple[float, float]] = {
    "1gbit": (1 * _GBIT, 50e-6),
    "10gbit": (10 * _GBIT, 30e-6),
    "25gbit": (25 * _GBIT, 20e-6),
    "100gbit": (100 * _GBIT, 10e-6),
    "infiniband": (200 * _GBIT, 2e-6),  # HDR
    "infiniband-hdr": (200 * _GBIT, 2e-6),
    "infiniband-ndr": (400 * _GBIT, 2e-6),
    "nvlink": (450e9, 2e-6),  # fourth generation, 18 links
}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(gbit|mbit|kbit|gb/s|mb/s|kb/s)")
_RATE_UNITS = {"gbit": 1e9 / 8, "mbit": 1e6 / 8, "kbit": 1e3 / 8,
               "gb/s": 1e9, "mb/s": 1e6, "kb/s": 1e3}  # fmt: skip
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s)")
_LATENCY_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Link:
    """What a link can do.

    Attributes:
        latency_s: from sending a small message to its arrival.
        bandwidth_bytes_per_s: one direction of one rank's link.

    Example:
        >>> Link.parse("10gbit,30us").all_reduce_s(size=2, count_bytes=25_000_000)
        0.02006
    """

    latency_s: float
    bandwidth_bytes_per_s: float

    @classmethod
    def parse(cls, text: str) -> Link:
        """Read "1gbit,50us", "400mb/s", "nvlink", "nvlink,5us": a rate, then maybe a latency.

        Args:
            text: a preset or a number with gbit, mbit, kbit (bits) or gb/s, mb/s, kb/s (bytes);
                after a comma a number with ns, us, ms or s (default: the preset's, else 50 us).

        Raises:
            OptionError: neither; the message lists the presets.
        """
        rate_text, _, latency_text = (part.strip() for part in text.lower().partition(","))
        rate, latency = _RATE.fullmatch(rate_text), 50e-6
        if rate_text in PRESETS:
            bandwidth, latency = PRESETS[rate_text]
        elif rate is not None and float(rate[1]) > 0:
            bandwidth = float(rate[1]) * _RATE_UNITS[rate[2]]
        else:
            raise OptionError(_expected(text, "rate", rate_text))
        if latency_text:
            found = _LATENCY.fullmatch(latency_text)
            if found is None:
                raise OptionError(_expected(text, "latency", latency_text))
            latency = float(found[1]) * _LATENCY_UNITS[found[2]]
        return cls(latency, bandwidth)

    def all_reduce_s(self, size: int, count_bytes: int) -> float:
        """Seconds of an all-reduce of that many bytes over `size` ranks."""
        return self._s(2 * _steps(size), 2 * (size - 1) / size * count_bytes)

    def broadcast_s(self, size: int, count_bytes: int) -> float:
        """Seconds until all ranks have the bytes."""
        return self._s(_steps(size), count_bytes if size > 1 else 0)

    def all_gather_s(self, size: int, count_bytes: int) -> float:
        """Seconds of gathering that many bytes of each rank."""
        return self._s(_steps(size), (size - 1) * count_bytes)

    def scatter_s(self, size: int, count_bytes: int) -> float:
        """Seconds of reduce_scatter or all_to_all; `count_bytes` counts all rows of one rank."""
        return self._s(_steps(size), (size - 1) / size * count_bytes)

    def _s(self, messages: int, wire_bytes: float) -> float:
        return messages * self.latency_s + wire_bytes / self.bandwidth_bytes_per_s


def _steps(size: int) -> int:
    return (size - 1).bit_length()


def _expected(text: str, what: str, part: str) -> str:
    return (
        f"link {text!r}: {part!r} is no {what}. Expected a rate and maybe a latency, as in "
        f"'1gbit,50us' or '400mb/s', or one of: {', '.join(PRESETS)}"
    )


class LinkCommunicator:
    """A communicator whose collectives take as long as over `link`; all else is that of `inner`.

    It is a `Communicator` by registration and delegation, not by inheritance, so that what
    communicators learn later passes through as it is.

    Args:
        inner: the ranks, all on this host; owned, closed by `close`.
        link: see Note [Link model].
    """

    has_wire = True
    note: str
    step: int

    def __init__(self, inner: Communicator, link: Link) -> None:
        set_ = object.__setattr__
        set_(self, "inner", inner)
        set_(self, "link", link)
        set_(self, "_under_way", deque())
        set_(self, "_free_at_s", 0.0)

    # Annotations for mypy; the values are set above, past __setattr__.
    inner: Communicator
    link: Link
    _under_way: deque[_LinkWork]
    _free_at_s: float

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # What the base class builds from other collectives is built from ours, so that it is slow.
        built: Any = getattr(Communicator, name, None)
        inner = self.inner
        taken_over = callable(built) and getattr(type(inner), name, None) is built
        if taken_over and not getattr(built, "__isabstractmethod__", False):
            return MethodType(built, self)
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_free_at_s":
            object.__setattr__(self, name, value)
        else:
            setattr(self.inner, name, value)

    # ---- collectives -----------------------------------------------------------------------

    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.all_reduce(array, op, async_op=True)
        return self._send(work, self.link.all_reduce_s(self.size, array.nbytes), begin, async_op)

    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.broadcast(array, root, async_op=True)
        return self._send(work, self.link.broadcast_s(self.size, array.nbytes), begin, async_op)

    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.all_gather_into(out, array, async_op=True)
        return self._send(work, self.link.all_gather_s(self.size, array.nbytes), begin, async_op)

    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.reduce_scatter_into(out, array, op, async_op=True)
        return self._send(work, self.link.scatter_s(self.size, array.nbytes), begin, async_op)

    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.all_to_all(outputs, inputs, async_op=True)
        cost_s = self.link.scatter_s(self.size, sum(array.nbytes for array in inputs))
        return self._send(work, cost_s, begin, async_op)

    def barrier(self, async_op: bool = False) -> Work:
        """See `Communicator`."""
        begin = time.monotonic()
        work = self.inner.barrier(async_op=True)
        return self._send(work, self.link._s(_steps(self.size), 0), begin, async_op)

    def split(self, *args: Any, **options: Any) -> Any:
        """The part of `inner` over a link of the same kind."""
        part = self.inner.split(*args, **options)
        return None if part is None else linked(part, self.link)

    # ---- time ------------------------------------------------------------------------------

    def _send(self, work: Work, cost_s: float, begin_s: float, async_op: bool) -> Work:
        delayed = _LinkWork(self, work, cost_s, begin_s)
        self._under_way.append(delayed)
        if not async_op:
            delayed.wait()
        return delayed

    def _settle_until(self, last: _LinkWork) -> None:
        """Give all works up to `last` their ends; they have all arrived everywhere."""
        while last.done_at_s is None:
            work = self._under_way.popleft()
            work.arrivals.wait()  # in order, so this does not block
            start = max(float(work.arrival[0]), self._free_at_s)
            self._free_at_s = work.done_at_s = start + work.cost_s


class _LinkWork:
    """A collective that the link carries; done when both it and the time are."""

    __slots__ = ("arrival", "arrivals", "communicator", "cost_s", "done_at_s", "work")

    def __init__(
        self, communicator: LinkCommunicator, work: Work, cost_s: float, begin_s: float
    ) -> None:
        self.communicator, self.work, self.cost_s = communicator, work, cost_s
        self.done_at_s: float | None = None
        self.arrival = np.array([begin_s])
        self.arrivals = communicator.inner.all_reduce(self.arrival, ReduceOp.MAX, async_op=True)

    def test(self) -> bool:
        if self.done_at_s is None:
            if not (self.work.test() and self.arrivals.test()):
                return False
            self.communicator._settle_until(self)
        return time.monotonic() >= cast(float, self.done_at_s)

    def wait(self) -> None:
        self.work.wait()
        self.arrivals.wait()
        self.communicator._settle_until(self)
        left = cast(float, self.done_at_s) - time.monotonic()
        if left > 0:
            time.sleep(left)


Communicator.register(LinkCommunicator)


def linked(inner: Communicator, link: Link | str) -> Communicator:
    """`inner` over a link; with one rank there is no link, and it is `inner` itself.

    Raises:
        OptionError: `link` is text that is no link.
    """
    link = Link.parse(link) if isinstance(link, str) else link
    if inner.size == 1:
        return inner
    return cast(Communicator, LinkCommunicator(inner, link))
