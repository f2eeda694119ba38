"""Whether a job loaded what it should, and ended as one that nobody disturbed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.checkpoint import read_checkpoint
from allgrad.launch.chaos.damage import Generation, folder_of, whole_generations


def wrong_load(
    event: Mapping[str, Any], known: Iterable[Generation], spoiled: Iterable[Generation]
) -> str:
    """What is wrong with a checkpoint that a job loaded; "" if nothing is.

    Args:
        event: the "loaded" of the job.
        known: generations that were whole before some were damaged.
        spoiled: those that were damaged.
    """
    known = list(known)
    bad = {generation.identity for generation in spoiled}
    good = [generation.identity for generation in known if generation.identity not in bad]
    expected = max(good, default=None)
    if event.get("serial") == 0:
        return "" if expected is None else f"nothing was loaded, expected no. {expected[0]}"
    loaded = (event["serial"], event["step"], event["sha256"])
    if loaded not in {generation.identity for generation in known}:
        return f"loaded no. {loaded[0]} (step {loaded[1]}), which was never written like that"
    if expected is not None and loaded < expected:
        return f"loaded no. {loaded[0]}, but no. {expected[0]} is newer and whole"
    return ""  # one that was damaged where it does not matter (a blank of the manifest) is whole


def result_of(folder: Path, files: Iterable[str], name: str = "checkpoint") -> dict[str, Any]:
    """What a finished job left: its last checkpoint and the named files, by digest.

    Args:
        folder: what ``{dir}`` stood for.
        files: names of further files in it.
        name: beginning of the checkpoints' names.
    """
    result: dict[str, Any] = {}
    for file in files:
        path = folder / file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        result[f"file {file}"] = digest
    newest = whole_generations(folder_of(folder), name)[:1]
    if newest:
        result["step"] = newest[0].content.step
        result |= dict(_digests(read_checkpoint(newest[0].manifest).state, ""))
    return result


def differences(result: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Where two results differ."""
    places = dict.fromkeys((*expected, *result))
    return [
        f"{place}: expected {expected.get(place, 'nothing')}, came {result.get(place, 'nothing')}"
        for place in places
        if result.get(place) != expected.get(place)
    ]


def _digests(node: Any, place: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, Tensor):
        node = node.numpy()
    if isinstance(node, np.ndarray):
        data = f"{node.dtype} {node.shape} ".encode() + node.tobytes()
        yield place, hashlib.sha256(data).hexdigest()
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _digests(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _digests(value, f"{place}.{i}")
    else:
        yield place, node
