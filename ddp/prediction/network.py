"""What the networks people name can do, and what they ask of the host.

May import: `communicators.link`, `allgrad.errors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from allgrad.ddp.communicators.link import PRESETS, Link


@dataclass(frozen=True)
class HostCosts:
    """What communication takes of the core that computes.

    Attributes:
        launch_s: of starting one collective.
        poll_s: of one look at the communication that is under way.
        byte_s: per byte that is sent, and again per byte that is received: copies and sums.
        inside_byte_s: per byte of an array that the ranks of one host add up in shared memory.
        look_bytes: that one look takes at most from what has arrived.
    """

    launch_s: float
    poll_s: float
    byte_s: float
    inside_byte_s: float = 5e-11
    look_bytes: float = math.inf


# Measured with benchmarks/scaling_prediction.py on an AMD EPYC (Zen 4).
TCP = HostCosts(launch_s=80e-6, poll_s=5e-6, byte_s=5e-10, look_bytes=512 << 10)
# The card moves the bytes; the core only adds them up.
DIRECT = HostCosts(launch_s=80e-6, poll_s=5e-6, byte_s=1e-10)

# What of the rate is left for data: Ethernet and TCP take 90 of every 1538 bytes.
_TCP_SHARE = 0.94
_NAMED_DIRECT = ("infiniband", "nvlink")
NAMES = ("1gbit", "10gbit", "25gbit", "100gbit", "infiniband-hdr", "infiniband-ndr", "nvlink")


@dataclass(frozen=True)
class Network:
    """A link per host, and what it asks of the host.

    Attributes:
        name: for tables.
        link: of one host, one direction; what of its rate is left for data.
        costs: see `HostCosts`.
    """

    name: str
    link: Link
    costs: HostCosts

    @classmethod
    def parse(cls, text: str) -> Network:
        """A named network or a rate, and maybe a latency: "10gbit", "infiniband-ndr", "40gbit,5us".

        Rates without a name, and Ethernet's, are taken for TCP.

        Raises:
            OptionError: neither; the message lists the names.

        Example:
            >>> network = Network.parse("10gbit")
            >>> round(network.link.bandwidth_bytes_per_s / 1e9, 3), network.link.latency_s
            (1.175, 3e-05)
        """
        link = Link.parse(text)
        if text.lower().startswith(_NAMED_DIRECT):
            return cls(text, link, DIRECT)
        rate = link.bandwidth_bytes_per_s * _TCP_SHARE
        return cls(text, replace(link, bandwidth_bytes_per_s=rate), TCP)


assert set(NAMES) <= set(PRESETS)
