"""Messages between two ranks that share memory.

Stage of the flow: inside the shared-memory communicator, beside the board. May import: numpy,
`base`, `allgrad.errors`.

Note [Mailboxes]
    Each rank owns an inbox with one ring of bytes per sender. HEAD counts the bytes that the sender
    has written, TAIL those that the receiver has read; each is written by one side only and only
    grows, so a ring needs no lock. A message is a header and its bytes, in pieces where the ring is
    shorter. Messages of one sender arrive in order; one for which nobody has asked yet stays in
    the ring, and is put aside only where a later one is asked for. Collectives send messages, too:
    the context in the header keeps them apart from the user's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.communicators import message_errors
from allgrad.ddp.communicators.base import Array
from allgrad.ddp.diagnosis.flight import FlightRecorder

USER, COLLECTIVE = 0, 1  # contexts
_HEADER_BYTES = 32  # number of bytes, tag, context; messages start at multiples of it
_HEAD, _TAIL, _RING = 0, 64, 128  # places in a channel; the counts lie on cache lines of their own
_INBOX_BYTES = 4 << 20
_LEAST_BYTES, _MOST_BYTES = 16 << 10, 256 << 10
_LOOK_S = 0.25  # between two looks whether the other side's process lives


class _Board(Protocol):
    def has_left(self, rank: int) -> bool: ...


class Owner(Protocol):
    """What a mailbox needs of its communicator."""

    rank: int
    size: int
    timeout_s: float
    flight: FlightRecorder | None

    @property
    def where(self) -> str: ...

    def progress(self) -> None:
        """Do all that can be done without waiting, messages included."""

    def check_failure(self) -> None:
        """Raise the error that another rank has raised for all."""

    def dead(self, ranks: Sequence[int]) -> list[int]:
        """Those of the ranks whose processes have died, as far as can be seen."""


class Message:
    """A message under way: a Work that `test` and `wait` push on.

    Attributes:
        peer: the other rank; None while the sender may be any.
        source: of a receive that has arrived, the rank that sent it.
    """

    __slots__ = ("_mailbox", "context", "data", "done", "error", "moved", "peer", "sends",
                 "source", "tag")  # fmt: skip

    def __init__(
        self, mailbox: Mailbox, sends: bool, peer: int | None, context: int, tag: int, array: Array
    ) -> None:
        self._mailbox, self.sends, self.peer = mailbox, sends, peer
        self.context, self.tag = context, tag
        self.data = array.reshape(-1).view(np.uint8)
        self.moved, self.done = 0, False
        self.source: int | None = None
        self.error: Exception | None = None

    def test(self) -> bool:
        if not self.done:
            self._mailbox.push_on()
        if self.error is not None:
            raise self.error
        return self.done

    def wait(self, timeout_s: float | None = None) -> None:
        if not self.done:
            self._mailbox.wait(self, timeout_s)
        if self.error is not None:
            raise self.error

    def __str__(self) -> str:
        tag = self.tag if self.context == USER else None
        return message_errors.words(self.sends, self.data.size, self.peer, tag)


class _Incoming:
    """The message at the front of a channel: goes into its receive, or is put aside."""

    __slots__ = ("buffer", "context", "moved", "receive", "size", "tag")

    def __init__(self, header: Sequence[int]) -> None:
        self.size, self.tag, self.context = header[:3]
        self.moved = 0
        self.receive: Message | None = None
        self.buffer: NDArray[np.uint8] | None = None

    def give_to(self, receive: Message, source: int, where: str) -> None:
        """Bind the message to a receive; what has come already is copied."""
        self.receive, receive.source = receive, source
        if receive.data.size == self.size:
            if self.buffer is not None:
                receive.data[: self.moved] = self.buffer[: self.moved]
            self.buffer = receive.data
            return
        if self.buffer is None:
            self.buffer = np.empty(self.size, np.uint8)
        receive.error = message_errors.misfit(where, source, self.tag, receive.data.size, self.size)


class Mailbox:
    """All channels of one rank. See Note [Mailboxes].

    Args:
        owner: the communicator; its `progress` calls `push_on`.
        memory: fence, notify, ticket, pause and now, as in `SharedMemory`.
        board: says who has left.
        inboxes: one zeroed uint8 array of `inbox_bytes(size)` per rank, in shared memory.
    """

    def __init__(
        self, owner: Owner, memory: Any, board: _Board, inboxes: list[NDArray[np.uint8]]
    ) -> None:
        self._owner, self._memory, self._board = owner, memory, board
        size, rank = owner.size, owner.rank
        self._ring = _ring_bytes(size)
        stride = _RING + self._ring
        self._in = [inboxes[rank][i * stride : (i + 1) * stride] for i in range(size)]
        self._out = [inboxes[i][rank * stride : (rank + 1) * stride] for i in range(size)]
        self._in_words = [part[:_RING].view(np.int64).data for part in self._in]
        self._out_words = [part[:_RING].view(np.int64).data for part in self._out]
        self._heads, self._tails = [0] * size, [0] * size
        self._sends: list[deque[Message]] = [deque() for _ in range(size)]
        self._receives: list[Message] = []
        self._incoming: list[_Incoming | None] = [None] * size
        self._aside: list[tuple[int, _Incoming]] = []  # with the sender, in order of arrival
        self.awaited: Message | None = None

    @property
    def active(self) -> bool:
        """Whether there is something to push on; asked in every poll."""
        return bool(self._receives) or any(self._sends) or any(self._incoming)

    def send(self, array: Array, peer: int, tag: int, context: int = USER) -> Message:
        """Start to send a C-contiguous array, which must stay as it is until the work is done."""
        message = Message(self, True, peer, context, tag, array)
        self._sends[peer].append(message)
        self.push_on()
        return message

    def receive(self, array: Array, peer: int | None, tag: int, context: int = USER) -> Message:
        """Start to receive into a C-contiguous array; peer None takes the first that comes."""
        message = Message(self, False, peer, context, tag, array)
        if not self._take_aside(message):
            self._receives.append(message)
            self.push_on()
        return message

    def release(self) -> None:
        """Drop all views, so that the memory beneath can be freed."""
        for words in (*self._in_words, *self._out_words):
            words.release()
        self._in, self._out, self._in_words, self._out_words = [], [], [], []

    # ---- moving bytes ----------------------------------------------------------------------

    def push_on(self) -> None:
        """Move what can be moved without waiting."""
        if not self._in:
            return  # closed
        for peer, queue in enumerate(self._sends):
            if queue:
                self._push(peer, queue)
        if self._receives or any(self._incoming):
            for peer in range(self._owner.size):
                self._pull(peer)

    def _push(self, peer: int, queue: deque[Message]) -> None:
        words, channel, head = self._out_words[peer], self._out[peer], self._heads[peer]
        before = head
        while queue:
            free = self._ring - (head - words[_TAIL // 8])
            message = queue[0]
            if message.moved == 0 and not message.source:
                if free < _HEADER_BYTES:
                    break
                self._write_header(channel, head % self._ring, message)
                head, free = head + _HEADER_BYTES, free - _HEADER_BYTES
                message.source = -1  # the header is on its way
            count = min(free, message.data.size - message.moved)
            _copy_in(channel[_RING:], head % self._ring, message.data[message.moved :][:count])
            message.moved += count
            head += count
            if message.moved < message.data.size:
                break
            padding = -message.data.size % _HEADER_BYTES
            if self._ring - (head - words[_TAIL // 8]) < padding:
                break
            head += padding
            message.done = True
            queue.popleft()
        if head != before:
            self._heads[peer] = head
            self._memory.fence()
            words[_HEAD // 8] = head
            self._memory.notify()

    @staticmethod
    def _write_header(channel: NDArray[np.uint8], at: int, message: Message) -> None:
        header = channel[_RING + at :][:_HEADER_BYTES].view(np.int64)
        header[:3] = message.data.size, message.tag, message.context

    def _pull(self, peer: int) -> None:
        words, channel, tail = self._in_words[peer], self._in[peer], self._tails[peer]
        before = tail
        head = words[_HEAD // 8]
        if head == tail:
            return
        self._memory.fence()
        while True:
            incoming = self._incoming[peer]
            if incoming is None:
                if head - tail < _HEADER_BYTES:
                    break
                at = _RING + tail % self._ring
                incoming = _Incoming(channel[at : at + _HEADER_BYTES].view(np.int64).tolist())
                if not self._find_receiver(peer, incoming):
                    break
                tail += _HEADER_BYTES
                self._incoming[peer] = incoming
            assert incoming.buffer is not None
            count = min(head - tail, incoming.size - incoming.moved)
            into = incoming.buffer[incoming.moved : incoming.moved + count]
            _copy_out(channel[_RING:], tail % self._ring, into)
            incoming.moved += count
            tail += count
            padding = -incoming.size % _HEADER_BYTES
            if incoming.moved < incoming.size or head - tail < padding:
                break
            tail += padding
            self._incoming[peer] = None
            self._finish(peer, incoming)
        if tail != before:
            self._tails[peer] = tail
            self._memory.fence()
            words[_TAIL // 8] = tail
            self._memory.notify()

    def _find_receiver(self, peer: int, incoming: _Incoming) -> bool:
        """Bind a message to whoever asked for it, or put it aside if it stands in the way."""
        for number, receive in enumerate(self._receives):
            if _fits(receive, peer, incoming):
                del self._receives[number]
                incoming.give_to(receive, peer, self._owner.where)
                return True
        if any(receive.peer in (None, peer) for receive in self._receives):
            incoming.buffer = np.empty(incoming.size, np.uint8)
            return True
        return False

    def _finish(self, peer: int, incoming: _Incoming) -> None:
        if incoming.receive is None:
            self._aside.append((peer, incoming))
        else:
            incoming.receive.done = True

    def _take_aside(self, message: Message) -> bool:
        """Serve a new receive from what was put aside, or is just being put aside."""
        for number, (peer, incoming) in enumerate(self._aside):
            if _fits(message, peer, incoming):
                del self._aside[number]
                incoming.give_to(message, peer, self._owner.where)
                message.done = True
                return True
        for peer, current in enumerate(self._incoming):
            if current is not None and current.receive is None and _fits(message, peer, current):
                current.give_to(message, peer, self._owner.where)
                return True
        return False

    # ---- waiting ---------------------------------------------------------------------------

    def wait(self, message: Message, timeout_s: float | None = None) -> None:
        """Block until the message is done.

        Raises:
            MessageError: the other rank has ended or died, or not come within the time-out.
            DistributedError: some rank has found that something is wrong, and all stop.
        """
        flight = self._owner.flight
        before, self.awaited = self.awaited, message
        try:
            if flight is None or message.context != USER:
                self._wait(message, timeout_s)
                return
            with flight.in_message(str(message)):
                self._wait(message, timeout_s)
        finally:
            self.awaited = before

    def _wait(self, message: Message, timeout_s: float | None) -> None:
        owner, memory = self._owner, self._memory
        limit_s = owner.timeout_s if timeout_s is None else timeout_s
        polls, slept, begin = 0, False, memory.now()
        look = begin + _LOOK_S
        while True:
            ticket = memory.ticket()
            owner.progress()
            if message.done:
                return
            polls += 1
            if slept or polls & 63 == 0:
                owner.check_failure()
                self._check_left(message)
                now = memory.now()
                if now > look:
                    self._check_dead(message)
                    look = now + _LOOK_S
                if now > begin + limit_s:
                    self._time_out(message, limit_s)
            slept = memory.pause(polls, ticket)

    def _peers(self, message: Message) -> list[int]:
        if message.peer is not None:
            return [message.peer]
        return [r for r in range(self._owner.size) if r != self._owner.rank]

    def _check_left(self, message: Message) -> None:
        if all(self._board.has_left(peer) for peer in self._peers(message)):
            self._fail(message, message_errors.ended(self._owner.where, message, message.peer))

    def _check_dead(self, message: Message) -> None:
        peers = self._peers(message)
        if len(self._owner.dead(peers)) == len(peers):
            self._fail(message, message_errors.died(self._owner.where, message, message.peer))

    def _fail(self, message: Message, error: Exception) -> None:
        self.push_on()  # what the other side did before counts
        if not message.done:
            self._give_up(message)
            raise error

    def _time_out(self, message: Message, limit_s: float) -> None:
        unclaimed = [
            f"tag {incoming.tag} from rank {peer}"
            for peer, incoming in self._aside
            if incoming.context == USER
        ]
        self._give_up(message)
        raise message_errors.late(self._owner.where, message, limit_s, unclaimed)

    def _give_up(self, message: Message) -> None:
        if message in self._receives:
            self._receives.remove(message)


def inbox_bytes(size: int) -> int:
    """Bytes of one rank's inbox, for that number of ranks."""
    return size * (_RING + _ring_bytes(size))


def _ring_bytes(size: int) -> int:
    share = _INBOX_BYTES // size // 4096 * 4096
    return max(_LEAST_BYTES, min(_MOST_BYTES, share))


def _fits(receive: Message, peer: int, incoming: _Incoming) -> bool:
    return (
        receive.peer in (None, peer)
        and receive.tag == incoming.tag
        and receive.context == incoming.context
    )


def _copy_in(ring: NDArray[np.uint8], at: int, data: NDArray[np.uint8]) -> None:
    first = min(data.size, ring.size - at)
    ring[at : at + first] = data[:first]
    ring[: data.size - first] = data[first:]


def _copy_out(ring: NDArray[np.uint8], at: int, data: NDArray[np.uint8]) -> None:
    first = min(data.size, ring.size - at)
    data[:first] = ring[at : at + first]
    data[first:] = ring[: data.size - first]
