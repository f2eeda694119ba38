"""A trace as JSON that Perfetto and chrome://tracing draw, written and read.

May import: `model`, `files`. Source: "Trace Event Format", Google. A process per rank; in it a
track of the steps, one of the rank's thread, where bars nest, and one per bucket, as they overlap.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from allgrad.ddp.tracing.files import folder_of, merged_of, read_folder, remove_folder
from allgrad.ddp.tracing.model import Event, RankStep, RankTrace, Trace
from allgrad.errors import OptionError

_STEPS, _THREAD, _BUCKETS = 0, 1, 10  # numbers of tracks
_OUR_KEYS = ("step", "details")


def to_json(trace: Trace) -> dict[str, Any]:
    """The trace in the Trace Event Format; times in microseconds since its begin."""
    steps = [step for rank in trace.ranks for step in rank.steps]
    zero = min((step.begin_s for step in steps), default=0.0)
    events: list[dict[str, Any]] = []
    for rank in trace.ranks:
        events += _names(rank)
        for step in rank.steps:
            bar = Event(f"step {step.index}", "step", step.begin_s, step.end_s)
            events.append(_bar(bar, rank.rank, step.index, _STEPS, zero))
            events += [
                _bar(event, rank.rank, step.index, _track(event), zero) for event in step.events
            ]
    about = {
        "made_by": "allgrad",
        "size": trace.size,
        "ranks": [
            {"rank": r.rank, "host": r.host, "clock_error_s": r.clock_error_s} for r in trace.ranks
        ],
        "dropped_events": sum(step.dropped for step in steps),
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _track(event: Event) -> int:
    return _BUCKETS + int(event.details.get("bucket", 0)) if event.category == "bucket" else _THREAD


def _bar(event: Event, rank: int, step: int, track: int, zero: float) -> dict[str, Any]:
    return {
        "name": event.name,
        "cat": event.category,
        "ph": "X",
        "pid": rank,
        "tid": track,
        "ts": round((event.begin_s - zero) * 1e6, 3),
        "dur": round(event.duration_s * 1e6, 3),
        "args": {"step": step, **event.details},
    }


def _names(rank: RankTrace) -> list[dict[str, Any]]:
    def name(what: str, track: int, text: str) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": rank.rank, "tid": track, "args": {"name": text}}

    buckets = sorted({_track(e) for s in rank.steps for e in s.events if e.category == "bucket"})
    return [
        name("process_name", _STEPS, f"rank {rank.rank} ({rank.host})"),
        name("thread_name", _STEPS, "steps"),
        name("thread_name", _THREAD, "work"),
        *(name("thread_name", track, f"bucket {track - _BUCKETS}") for track in buckets),
    ]


def from_json(data: dict[str, Any]) -> Trace:
    """The inverse of `to_json`.

    Raises:
        OptionError: it was not written by `to_json`.
    """
    about = data.get("otherData", {})
    if about.get("made_by") != "allgrad":
        raise OptionError("not a trace of allgrad: its otherData.made_by is missing")
    ranks = {r["rank"]: RankTrace(steps=[], **r) for r in about["ranks"]}
    steps: dict[tuple[int, int], RankStep] = {}
    bars = [bar for bar in data["traceEvents"] if bar["ph"] == "X"]
    for bar in bars:
        if bar["cat"] == "step":
            begin, end = bar["ts"] / 1e6, (bar["ts"] + bar["dur"]) / 1e6
            step = RankStep(bar["args"]["step"], begin, end)
            steps[bar["pid"], step.index] = step
            ranks[bar["pid"]].steps.append(step)
    for bar in bars:
        if bar["cat"] != "step":
            details = dict(bar["args"])
            step = steps[bar["pid"], details.pop("step")]
            begin, end = bar["ts"] / 1e6, (bar["ts"] + bar["dur"]) / 1e6
            step.events.append(Event(bar["name"], bar["cat"], begin, end, details))
    return Trace(about["size"], [ranks[rank] for rank in sorted(ranks)])


def load(path: Path) -> Trace:
    """The trace in a folder of ranks' files, or in a merged file.

    Raises:
        OptionError: there is none; the message says what was expected.
    """
    if path.is_dir():
        return read_folder(path)
    if not path.exists() and folder_of(path).is_dir():
        return read_folder(folder_of(path))  # the job ended before it could merge
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read the trace {path}: {error}") from error
    return from_json(data)


def merge(target: Path) -> Trace:
    """Write the trace of all ranks into one file; the ranks' files stay only where they are asked.

    Args:
        target: what ``--trace`` was given: a folder or a .json file.

    Raises:
        OptionError: no rank has left a file.
    """
    trace = read_folder(folder_of(target))
    path = merged_of(target)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(to_json(trace), separators=(",", ":")))
    os.replace(temporary, path)
    if path == target:
        remove_folder(folder_of(target))
    return trace
