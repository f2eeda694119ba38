"""What can go wrong with a message between two ranks, in words: the same for every transport.

Stage of the flow: below `mailbox` (shared memory) and `mpi_exchange`. May import: `base`.
"""

from __future__ import annotations

from collections.abc import Sequence

from allgrad.ddp.communicators.base import MessageError
from allgrad.errors import ShapeError

_RULE = "Each send needs a receive on the other side, with the same tag"


def words(sends: bool, size_bytes: int, peer: int | None, tag: int | None) -> str:
    """What a message is, e.g. "receive of 8 bytes from any rank, tag 0".

    Args:
        sends: or receives.
        size_bytes: of the array.
        peer: the other rank; None: any.
        tag: None: part of a collective.

    Example:
        >>> words(True, 8, 2, None)
        'send of 8 bytes to rank 2, in a collective'
    """
    what, way = ("send", "to") if sends else ("receive", "from")
    return f"{what} of {size_bytes} bytes {way} {_rank(peer)}" + (
        ", in a collective" if tag is None else f", tag {tag}"
    )


def _rank(peer: int | None) -> str:
    return "any rank" if peer is None else f"rank {peer}"


def _other(peer: int | None) -> str:
    return "all other ranks" if peer is None else f"rank {peer}"


def late(where: str, message: object, limit_s: float, unclaimed: Sequence[str] = ()) -> Exception:
    """It did not come in time. `unclaimed`: messages that came and that nobody asked for."""
    more = f"; messages that nobody asked for: {', '.join(unclaimed)}" if unclaimed else ""
    return MessageError(f"{where} waited {limit_s:g} s in a {message}. {_RULE}{more}")


def ended(where: str, message: object, peer: int | None) -> Exception:
    """The program of the other rank has ended."""
    return MessageError(
        f"{where} waits in a {message}, but the program of {_other(peer)} has ended. {_RULE}"
    )


def died(where: str, message: object, peer: int | None) -> Exception:
    """The process of the other rank is dead."""
    return MessageError(
        f"{where} waits in a {message}, but the process of {_other(peer)} is dead: killed (out of "
        "memory, kill -9, a limit of the batch system), crashed, or left by os._exit"
    )


def misfit(where: str, source: int | None, tag: int, expected_bytes: int, came: int) -> Exception:
    """It has another size than the array that was to take it."""
    return ShapeError(
        f"{where} receive from {_rank(source)}, tag {tag}: expected {expected_bytes} bytes, came "
        f"{came}; sender and receiver need tensors of one size and dtype"
    )
