"""``allgrad predict``: tables of what more ranks would bring.

May import: `profile`, `network`, `simulation`, `tracing`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allgrad.ddp.prediction.network import NAMES, Network
from allgrad.ddp.prediction.profile import Profile, profile_of
from allgrad.ddp.prediction.simulation import Cluster, Prediction, predict
from allgrad.ddp.tracing.chrome import load
from allgrad.errors import OptionError

RANKS = (2, 8, 64, 1024)


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        trace: the folder or file that ``--trace`` was given.
        networks: names or rates; none: all that have a name.
        ranks: numbers of ranks.
        ranks_per_host: that share a host and its link.
        factor: by which the recorded computation takes longer.
        bucket_cap_mb: as in the wrapper; None: its default.
        flat: ranks of a host do not add up first.
        out: a JSON file for all figures, or None.
    """

    trace: Path
    networks: tuple[str, ...] = ()
    ranks: tuple[int, ...] = RANKS
    ranks_per_host: int = 1
    factor: float = 1.0
    bucket_cap_mb: float | None = None
    flat: bool = False
    out: Path | None = None


def show(request: Request) -> list[str]:
    """What the command prints; writes the JSON file if there is to be one.

    Raises:
        OptionError: no trace, a network that is none, ranks that do not fill the hosts.
    """
    profile = profile_of(load(request.trace)).scaled(request.factor)
    networks = [Network.parse(name) for name in request.networks or NAMES]
    table = {n.name: [predict(profile, _cluster(request, n, r)) for r in request.ranks]
             for n in networks}  # fmt: skip
    lines = [_about(profile, request)]
    if len(networks) > 1:
        lines += _overview(table, request.ranks)
    else:
        lines += _detailed(table[networks[0].name])
    if request.out is not None:
        request.out.write_text(json.dumps(as_json(profile, table), indent=1))
        lines.append(f"all figures: {request.out}")
    return lines


def _cluster(request: Request, network: Network, ranks: int) -> Cluster:
    per_host = min(ranks, request.ranks_per_host)
    if ranks % per_host:
        raise OptionError(
            f"{ranks} ranks do not fill hosts of {per_host}; give --ranks multiples of "
            "--ranks-per-host"
        )
    cap = None if request.bucket_cap_mb is None else int(request.bucket_cap_mb * (1 << 20))
    return Cluster(ranks // per_host, per_host, network, cap, not request.flat)


def _about(profile: Profile, request: Request) -> str:
    taken = "" if request.factor == 1 else f", times {request.factor:g} of what was recorded"
    return (
        f"a rank alone: {_ms(profile.compute_s)} ms per step (before backward "
        f"{_ms(profile.before_s)}, backward {_ms(profile.backward_s)}, after "
        f"{_ms(profile.after_s)}){taken}; {profile.gradient_bytes / 1e6:.2f} MB of gradients; "
        f"{len(profile.steps_s)} recorded steps"
    )


def _overview(table: dict[str, list[Prediction]], ranks: Sequence[int]) -> list[str]:
    width = max(len(name) for name in table)
    lines = [
        "",
        "predicted ms per step, and efficiency with as much work per rank:",
        f"{'ranks':<{width}}" + "".join(f"{n:>16}" for n in ranks),
    ]
    for name, row in table.items():
        cells = [f"{_ms(p.step_s)} {p.efficiency:4.0%}" for p in row]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _detailed(row: Sequence[Prediction]) -> list[str]:
    first = row[-1].cluster.network
    lines = [
        "",
        f"over {first.name} (data at {first.link.bandwidth_bytes_per_s / 1e6:.0f} MB/s, latency "
        f"{first.link.latency_s * 1e6:.0f} us), predicted per step:",
        f"{'ranks':>6}{'hosts':>7}{'ms':>10}{'efficiency':>12}{'with jitter':>13}{'speed-up':>10}"
        f"{'on the wire':>13}{'hidden':>8}{'exposed':>9}{'core':>7}",
    ]
    for p in row:
        c = p.cluster
        lines.append(
            f"{c.ranks:>6}{c.hosts:>7}{_ms(p.step_s):>10}{p.efficiency:>12.0%}"
            f"{p.efficiency_of_slowest:>13.0%}{p.efficiency * c.ranks:>10.1f}"
            f"{_ms(p.wire_s):>13}{p.hidden_share:>8.0%}{_ms(p.exposed_s):>9}{_ms(p.work_s):>7}"
        )
    lines += [
        "",
        "efficiency: ranks alike; with jitter: the slowest rank of each step is waited for, if the "
        "ranks' times",
        "vary as the recorded steps did. speed-up: samples per second, against one rank. on the "
        "wire: ms that the",
        "link carries bytes; hidden of it behind backward; exposed: ms after backward; core: ms of "
        "backward in",
        "which the rank's own core works for communication.",
    ]
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def as_json(profile: Profile, table: dict[str, list[Prediction]]) -> dict[str, Any]:
    """All figures; seconds and bytes."""
    return {
        "compute_s": profile.compute_s,
        "backward_s": profile.backward_s,
        "gradient_bytes": profile.gradient_bytes,
        "recorded_steps": len(profile.steps_s),
        "predictions": [
            {
                "network": name,
                "ranks": p.cluster.ranks,
                "hosts": p.cluster.hosts,
                "step_s": p.step_s,
                "efficiency": p.efficiency,
                "efficiency_with_jitter": p.efficiency_of_slowest,
                "wire_s": p.wire_s,
                "exposed_s": p.exposed_s,
                "work_s": p.work_s,
                "bucket_bytes": list(p.buckets),
            }
            for name, row in table.items()
            for p in row
        ],
    }
