"""Runs a script undisturbed, then under faults until enough of them have struck.

A round is one training from its beginning to its end. In each run of it the campaign waits until
the ranks have loaded their checkpoint, then for a random moment, then strikes. Between the end of a
run and the next one it damages checkpoint files, knows by that what the next run has to load, and
checks it. All choices come from the seed; the moments, of course, from the machine as well.
"""

from __future__ import annotations

import math
import random
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allgrad.errors import LaunchError
from allgrad.launch.chaos.check import differences, result_of, wrong_load
from allgrad.launch.chaos.damage import Generation, folder_of, spoil, whole_generations
from allgrad.launch.chaos.job import Job, first, times_of

PLACE = "{dir}"
# How often each kind of fault is chosen.
FAULTS = {"rank": 8, "saving": 6, "all ranks": 2, "starting": 2, "launcher": 3, "stop": 2}
_WAIT_S = 120.0  # for the next event of a job that lives
_SAVING_S = 3.0  # for a save that could be disturbed
_SAVE_TAKES_S = 0.006
_STARTING_S = 6.0  # after which ranks that do not use ddp.CheckpointManager are struck


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        script: the script and its arguments, with ``{dir}`` where its folder stands.
        nproc: number of ranks.
        kills: how many processes or jobs to kill.
        damages: how many checkpoints to damage at most; one that is whole must always be left.
        seed: of all choices.
        every_s: longest time that a run is left in peace; None: a tenth of the undisturbed run.
        max_restarts: as for ``allgrad run``.
        compare: files in the folder that must be the same at the end.
        name: beginning of the checkpoints' names.
        options: further options of ``allgrad run``.
    """

    script: tuple[str, ...]
    nproc: int = 2
    kills: int = 20
    damages: int = 20
    seed: int = 0
    every_s: float | None = None
    max_restarts: int = 10
    compare: tuple[str, ...] = ()
    name: str = "checkpoint"
    options: tuple[str, ...] = ()


@dataclass
class Report:
    """What has happened.

    Attributes:
        kills, damages: how many of each kind.
        stops: ranks that were stopped for a while and went on.
        saves_cut: saves that a kill ended before they were complete.
        restart_s: seconds from each kill until the next run had loaded its checkpoint and trained.
        loads_checked: how often what was loaded was compared with what was whole.
        problems: what went wrong; empty if all is well.
    """

    kills: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    stops: int = 0
    saves_cut: int = 0
    rounds: int = 0
    undisturbed_s: float = 0.0
    seconds: float = 0.0
    restart_s: list[float] = field(default_factory=list)
    loads_checked: int = 0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All figures, as JSON values."""
        times = sorted(self.restart_s)
        return {
            "kills": dict(self.kills),
            "killed": self.kills.total(),
            "damages": dict(self.damages),
            "damaged": self.damages.total(),
            "stops": self.stops,
            "saves_cut": self.saves_cut,
            "rounds": self.rounds,
            "undisturbed_s": round(self.undisturbed_s, 3),
            "seconds": round(self.seconds, 3),
            "loads_checked": self.loads_checked,
            "restart_s": {
                "n": len(times),
                "median": round(statistics.median(times), 3) if times else None,
                "p90": round(times[math.ceil(0.9 * (len(times) - 1))], 3) if times else None,
                "worst": round(times[-1], 3) if times else None,
            },
            "problems": self.problems,
        }


class Campaign:
    """See the module. Make it, call `run` once.

    Args:
        plan: what to do.
        folder: an empty folder for all files.
        say: prints a line.
    """

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan, self._folder, self._say = plan, folder, say
        self._rng = random.Random(plan.seed)
        self._expected: dict[str, Any] = {}
        self.tells_loads = False  # whether the script uses ddp.CheckpointManager
        self.report = Report()

    def run(self) -> Report:
        """Run the script undisturbed, then under faults.

        Raises:
            LaunchError: the undisturbed run fails, or leaves nothing that could be compared.
        """
        begin = time.perf_counter()
        self._undisturbed()
        try:
            while self._left() and not self.report.problems:
                self._round()
                if self.report.rounds > 3 * self.report.kills.total() + 3:
                    self.report.problems.append(
                        "the script ends before a fault can strike; let it train longer, or lower "
                        "--every"
                    )
        except TimeoutError as err:
            self.report.problems.append(f"a job was lost: {err}")
        self.report.seconds = time.perf_counter() - begin
        return self.report

    def _left(self) -> bool:
        return self.report.kills.total() < self._plan.kills

    def _job(self, name: str, *options: str) -> tuple[Job, Path]:
        place, notes = self._folder / name, self._folder / f"{name}.notes"
        place.mkdir()
        notes.mkdir()
        script = (word.replace(PLACE, str(place)) for word in self._plan.script)
        ranks = ("-n", str(self._plan.nproc), *self._plan.options)
        return Job((*ranks, *options, *script), notes), place

    def _undisturbed(self) -> None:
        job, place = self._job("undisturbed")
        begin = time.perf_counter()
        job.start()
        try:
            job.wait(lambda: job.code is not None, 3600)
        finally:
            job.close()
        self.report.undisturbed_s = time.perf_counter() - begin
        self.tells_loads = first(job.events, "loaded") is not None
        if job.code != 0:
            raise LaunchError(
                f"the script fails without faults, too (exit code {job.code}):\n{job.tail()}"
            )
        self._expected = result_of(place, self._plan.compare, self._plan.name)
        if not self._expected:
            raise LaunchError(
                f"the script left no checkpoint of allgrad below {PLACE} and no --compare file: "
                "there is nothing to compare"
            )
        shutil.rmtree(place)
        self._say(f"undisturbed: {self.report.undisturbed_s:.1f} s")

    # -- one training ------------------------------------------------------------------------------

    def _round(self) -> None:
        self.report.rounds += 1
        job, place = self._job(
            f"round-{self.report.rounds}", "--max-restarts", str(self._plan.max_restarts)
        )
        before = self.report.kills.total()
        try:
            job.start()
            _Round(self, job, place).play()
            if job.code != 0:
                self._problem(f"the job was lost, exit code {job.code}", job)
            else:
                found = result_of(place, self._plan.compare, self._plan.name)
                for line in differences(found, self._expected)[:5]:
                    self._problem(f"another result: {line}", job)
        finally:
            job.close()
        count = self.report.kills.total() - before
        self._say(
            f"round {self.report.rounds}: {count} kills, in all {self.report.kills.total()} kills "
            f"and {self.report.damages.total()} damaged checkpoints"
        )
        if not self.report.problems:
            shutil.rmtree(place)

    def _problem(self, text: str, job: Job) -> None:
        tail = "" if self.report.problems else f"\n{job.tail()}"
        self.report.problems.append(f"round {self.report.rounds}: {text}{tail}")


class _Round:
    """One training under faults."""

    def __init__(self, campaign: Campaign, job: Job, place: Path) -> None:
        self._campaign, self._job, self._place = campaign, job, place
        self._plan, self._report = campaign._plan, campaign.report
        self._rng = campaign._rng
        every_s = self._plan.every_s
        self._every_s = 0.1 * self._report.undisturbed_s if every_s is None else every_s
        self._killed_at: float | None = None
        self._known: list[Generation] = []
        self._spoiled: list[Generation] = []
        self._spoiled_at = 0.0

    def play(self) -> None:
        """Strike until there were enough faults or the job has ended."""
        while self._campaign._left() and not self._report.problems:
            kind = self._rng.choices([*FAULTS], [*FAULTS.values()])[0]
            if kind == "starting":
                alive = self._job.wait(self._all_ranks, _WAIT_S)
                time.sleep(self._rng.uniform(0, self._every_s))
            else:
                alive = self._job.wait(self._up, _WAIT_S)
                self._note_load()
                if kind != "saving":
                    time.sleep(self._rng.uniform(0, self._every_s))
            if not alive or not self._strike(kind):
                break
        self._job.wait(lambda: self._job.code is not None, 3600)
        self._job.look()
        self._note_load()

    def _all_ranks(self) -> bool:
        return len(self._job.scripts()) == self._plan.nproc

    def _up(self) -> bool:
        """Whether the ranks have their checkpoint, or have had time for it."""
        events = self._job.since_start()
        if first(events, "loaded"):
            return True
        if self._campaign.tells_loads:
            return False
        began = times_of(events, "rank")
        return len(began) >= self._plan.nproc and time.time() > max(began) + _STARTING_S

    def _strike(self, kind: str) -> bool:
        """Do it; False if the job has ended by itself before."""
        rank = self._rng.randrange(self._plan.nproc)
        run = len(times_of(self._job.events, "start"))
        if kind == "stop":
            return self._stop(rank)
        if kind == "launcher":
            return self._kill_launcher()
        if kind == "saving":
            rank = self._await_save(rank)
        ranks = range(self._plan.nproc) if kind == "all ranks" else [rank]
        killed = [r for r in ranks if self._job.kill(r)]
        if not killed:
            return self._job.code is None  # between two runs, or at the end
        killed_at = time.time()
        # its end: all ranks are gone, and the next run has not read anything yet
        self._job.wait(lambda: first(self._job.since_start(), "end") is not None, _WAIT_S)
        end = first(self._job.since_start(), "end")
        if end is None or end["code"] == 0:
            return False  # it had just done all its work
        self._killed_at = killed_at
        self._report.kills[kind] += 1
        self._between_runs()
        return self._job.wait(lambda: len(times_of(self._job.events, "start")) > run, _WAIT_S)

    def _stop(self, rank: int) -> bool:
        if self._job.kill(rank, signal.SIGSTOP):
            time.sleep(self._rng.uniform(0.1, 0.4))
            self._job.kill(rank, signal.SIGCONT)
            self._report.stops += 1
        return self._job.code is None

    def _await_save(self, rank: int) -> int:
        """Wait until a save begins, and a little longer; the rank to kill: the one that writes."""
        seen = len(times_of(self._job.events, "saving"))
        end = time.monotonic() + _SAVING_S
        self._job.wait(
            lambda: len(times_of(self._job.events, "saving")) > seen or time.monotonic() > end,
            _WAIT_S,
        )
        time.sleep(self._rng.uniform(0, _SAVE_TAKES_S))
        return 0 if time.monotonic() < end else rank

    def _kill_launcher(self) -> bool:
        if self._job.code is not None:
            return False
        self._killed_at = time.time()
        self._report.kills["launcher"] += 1
        left = self._job.kill_launcher()
        if left:
            self._campaign._problem(f"processes {left} outlived the launcher", self._job)
        self._between_runs()
        runs = len(times_of(self._job.events, "start"))
        self._job.start()
        return self._job.wait(lambda: len(times_of(self._job.events, "start")) > runs, _WAIT_S)

    def _between_runs(self) -> None:
        """Damage what the run left."""
        events = self._job.since_start()
        saving, saved = times_of(events, "saving"), times_of(events, "saved")
        self._report.saves_cut += len(saving) > len(saved)
        self._known = whole_generations(folder_of(self._place), self._plan.name)
        self._spoiled = []
        if self._report.damages.total() < self._plan.damages:
            for _ in range(self._rng.choice((0, 1, 1, 1, 2))):
                good = [g for g in self._known if g not in self._spoiled]
                damage = spoil(good, self._rng)
                if damage is not None:
                    self._spoiled += damage.spoiled
                    self._report.damages[damage.kind] += 1
        self._spoiled_at = time.time()

    def _note_load(self) -> None:
        """Check what the present run has loaded, and how soon, once."""
        events = self._job.since_start()
        loaded = first(events, "loaded")
        if loaded is None or self._killed_at is None:
            return
        ready = first(events, "training") or loaded
        self._report.restart_s.append(ready["time"] - self._killed_at)
        loading = first(events, "loading") or loaded
        if loading["time"] > self._spoiled_at:  # it has seen the damage as we left it
            self._report.loads_checked += 1
            wrong = wrong_load(loaded, self._known, self._spoiled)
            if wrong:
                self._campaign._problem(f"a wrong checkpoint was taken: {wrong}", self._job)
        self._killed_at = None
