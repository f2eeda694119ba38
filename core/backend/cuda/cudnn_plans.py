"""Plans of cuDNN: found once per problem, kept in memory and on disk, chosen by trial if asked.

The disk's copies spare the next process cuDNN's compiler (up to a second per fused kernel) and all
trials. A file is named by everything it depends on; one that is damaged, or of something else, is
made anew. Ranks may write at the same time: each file appears at once, by a rename.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cupy

from ...backends import cudnn as settings
from ...errors import DeviceError, Unsupported
from ...files import write_atomically
from . import device
from .cudnn import Cudnn, Plan
from .cudnn_graphs import Problem, brief, enter, find_plans

_FORMAT = 1
_MOST_WORKSPACE = 1 << 30  # bytes that a plan may have in a trial
_TRIALS = 5

_log = logging.getLogger("allgrad")


def folder() -> Path:
    """Where plans lie: $ALLGRAD_CACHE_DIR, else $XDG_CACHE_HOME/allgrad, else ~/.cache/allgrad."""
    own = os.environ.get("ALLGRAD_CACHE_DIR")
    if own:
        return Path(own) / "cudnn"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "allgrad" / "cudnn"


class Plans:
    """The plans of one thread's cuDNN on its device."""

    def __init__(self, cudnn: Cudnn) -> None:
        self.cudnn = cudnn
        self._plans: dict[Any, Plan] = {}
        self._refused: dict[Any, str] = {}
        name = cupy.cuda.runtime.getDeviceProperties(device.current())["name"]
        self._host = f"{name.decode()}/{cudnn.version()}"
        self.disk = Disk(folder())

    def get(self, key: tuple[Any, ...]) -> Plan | None:
        """The plan that `add` made for a key under today's settings, if it did."""
        return self._plans.get((*key, *_chosen()))

    def add(self, key: tuple[Any, ...], problem: Problem, addresses: Sequence[int]) -> Plan:
        """Make the plan of a problem; `addresses` are of this call's arrays, for trials.

        Raises:
            Unsupported: cuDNN has none.
            DeviceError: a capture is under way.
        """
        key = (*key, *_chosen())
        refused = self._refused.get(key)
        if refused is not None:
            raise Unsupported(refused)
        if device.capturing():
            raise DeviceError(
                f"cuda.capture: cuDNN has no plan yet for {problem}: run the step once before "
                "capturing, with the same shapes and settings"
            )
        try:
            graph = self._made(problem, addresses)
        except Unsupported as refusal:
            self._refused[key] = str(refusal)
            raise
        plan = self._plans[key] = Plan(self.cudnn, graph)
        return plan

    def _made(self, problem: Problem, addresses: Sequence[int]) -> Any:
        cudnn, (tensor_cores, deterministic, benchmark) = self.cudnn, _chosen()
        cudnn.bind()
        try:
            graph = enter(cudnn.module, problem, handle=cudnn.handle)
        except (cudnn.module.cudnnGraphNotSupportedError, RuntimeError) as error:
            raise Unsupported(f"cuDNN refuses the graph: {brief(error)}") from error
        identity = f"{problem}/{graph.key()}/{_chosen()}/{self._host}"
        stored = self.disk.read(identity)
        if stored is not None:
            known = cudnn.module.pygraph()
            try:
                known.deserialize(cudnn.handle, stored)
            except Exception as error:  # noqa: BLE001 - whatever cuDNN makes of such a file
                _log.warning("cuDNN's plan in %s: %s; made anew", self.disk.where, brief(error))
            else:
                return known
        find_plans(cudnn.module, graph, tensor_cores or problem.io != "f4", deterministic)
        try:
            if benchmark:
                self._choose(graph, addresses)
            else:
                graph.build_plans(cudnn.module.build_plan_policy.HEURISTICS_CHOICE)
        except (cudnn.module.cudnnGraphNotSupportedError, RuntimeError) as error:
            raise Unsupported(f"cuDNN cannot build a plan: {brief(error)}") from error
        self.disk.write(identity, bytes(graph.serialize()))
        return graph

    def _choose(self, graph: Any, addresses: Sequence[int]) -> None:
        """Build every plan, time each on the arrays of this call, choose the fastest."""
        cudnn = self.cudnn
        graph.build_plans(cudnn.module.build_plan_policy.ALL)
        pack = dict(zip(graph._get_variant_pack_uids_sorted(), addresses, strict=True))
        times: dict[int, float] = {}
        for index in range(graph.get_execution_plan_count()):
            size = graph.get_workspace_size_plan_at_index(index)
            if size > _MOST_WORKSPACE:
                continue
            try:
                times[index] = self._time_ms(graph, pack, index, size)
            except (cudnn.module.cudnnGraphNotSupportedError, RuntimeError):
                continue  # it could not be built
        if not times:
            raise Unsupported("none of cuDNN's plans runs")
        graph.build_plan_at_index(min(times, key=times.__getitem__))

    def _time_ms(self, graph: Any, pack: dict[int, int], index: int, size: int) -> float:
        """The best time of a few runs of one plan."""
        stream = cupy.cuda.get_current_stream()
        workspace = self.cudnn.workspace.at_least(size, stream.ptr)
        best = float("inf")
        for trial in range(_TRIALS + 1):  # the first one loads the kernel
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record(stream)
            graph._execute_plan_at_index(pack, workspace, index, self.cudnn.handle)
            end.record(stream)
            end.synchronize()
            if trial:
                best = min(best, cupy.cuda.get_elapsed_time(start, end))
        return best


def _chosen() -> tuple[bool, bool, bool]:
    """The settings that plans depend on: TF32, deterministic, benchmark."""
    return settings.allow_tf32, settings.deterministic, settings.benchmark


class Disk:
    """A folder of plans.

    Attributes:
        where: the folder.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self._writable = True

    def path(self, identity: str) -> Path:
        """The file of a plan."""
        return self.where / f"{hashlib.sha256(identity.encode()).hexdigest()[:40]}.plan"

    def read(self, identity: str) -> bytes | None:
        """The stored plan; None if there is none, or a damaged one."""
        path = self.path(identity)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        head, _, plan = content.partition(b"\n")
        if head == _head(identity, plan):
            return plan
        _log.warning("%s is damaged, or another version's; made anew", path)
        return None

    def write(self, identity: str, plan: bytes) -> None:
        """Store a plan. Where that cannot be done, it is done without, and said once."""
        if not self._writable:
            return
        try:
            write_atomically(self.path(identity), _head(identity, plan) + b"\n" + plan, DeviceError)
        except DeviceError as error:
            self._writable = False
            _log.warning("cuDNN's plans are not kept: %s; ALLGRAD_CACHE_DIR names a folder", error)


def _head(identity: str, plan: bytes) -> bytes:
    """What a file begins with, one line."""
    about = {
        "format": _FORMAT,
        "identity": identity,
        "sha256": hashlib.sha256(plan).hexdigest(),
    }
    return json.dumps(about, sort_keys=True).encode()
