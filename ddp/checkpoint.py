"""Checkpoints of a whole job: saved by all ranks together, resumed from what all of them have.

Stage of the flow: called by the training loop. May import: `process_group`, `events`,
`allgrad.checkpoint`, which knows no ranks and does the writing.

Note [Generations over ranks]
Replicas are equal, so one rank per folder writes the model and the optimizer, and with them what
differs between ranks: position of the loader, random numbers. Hosts with disks of their own have
one writer each. When a job resumes, every rank looks at what its disk holds; taken is the newest
generation (serial and SHA-256) that every rank has read and found whole. A rank whose disk holds
nothing at all, a replaced host, gets it from another rank.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from allgrad import checkpoint as core
from allgrad.checkpoint import Checkpoint, Snapshot, capture_state
from allgrad.ddp import events
from allgrad.ddp.generations import GOOD, Row, Trouble, copy_of_values, identity_of, key_of
from allgrad.ddp.process_group import ProcessGroup, default_group
from allgrad.errors import AllgradError, CheckpointError, CheckpointWriteError, OptionError
from allgrad.random import Generator
from allgrad.utils.data import DataLoader, Sampler

log = logging.getLogger("allgrad.checkpoint")

_ON_ERROR = ("continue", "raise")
_PER_RANK = (DataLoader, Sampler, Generator)  # parts of these types differ between ranks


class PendingSave:
    """A save that may still be under way.

    Attributes:
        step: as given to `save`.
        path: the manifest that it writes.
    """

    def __init__(self, manager: CheckpointManager, step: int, path: Path) -> None:
        self._manager, self.step, self.path = manager, step, path
        self._error: str | None = None  # "" once it is known that all went well

    def done(self) -> bool:
        """Whether this rank's part has ended, well or not. Not collective."""
        return self._error is not None or not self._manager._is_writing()

    def wait(self) -> bool:
        """Collective. Wait for the end; True if the checkpoint is on the disk.

        Raises:
            CheckpointWriteError: it could not be written, and the manager has on_error="raise".
        """
        if self._error is None:
            self._manager.wait()
        return self._error == ""

    result = wait


class CheckpointManager:
    """Saves the state of all ranks into a folder, keeps the last `keep`, loads the newest good one.

    Every method that says so is collective: all ranks call it.

    Args:
        folder: where; created at the first `save`. One job at a time writes there. Hosts may share
            it or have disks of their own under the same name.
        keep: how many of the last written checkpoints stay, >= 1.
        name: beginning of the file names.
        on_error: what a save does that finds the disk full or the folder read-only. "continue"
            (default) logs an error, leaves the checkpoints before it as they are, and the training
            goes on; the next save tries again, and `close` raises if the last one failed. "raise"
            raises on all ranks, for an asynchronous save at the next `save`, `wait` or `close`.
        group: default: the default group.

    Raises:
        OptionError: unknown `on_error`. ValueError: `keep` is below 1.

    >>> import tempfile
    >>> from allgrad import ddp, nn
    >>> ddp.init_process_group()
    >>> model = nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder, ddp.CheckpointManager(folder) as manager:
    ...     _ = manager.save(step=10, model=model)
    ...     saving = manager.save(step=20, model=model, async_save=True)
    ...     saving.wait(), manager.load_latest(model=model).step
    (True, 20)
    >>> ddp.destroy_process_group()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 3,
        name: str = "checkpoint",
        on_error: str = "continue",
        group: ProcessGroup | None = None,
    ) -> None:
        if on_error not in _ON_ERROR:
            raise OptionError.unknown("on_error", on_error, _ON_ERROR)
        self._mine = core.CheckpointManager(folder, keep=keep, name=name)
        self._on_error = on_error
        self._group = group or default_group()
        self._comm = self._group.communicator
        self._writers: list[int] | None = None
        self._snapshot = Snapshot()
        self._executor: ThreadPoolExecutor | None = None
        self._future: Future[Trouble] | None = None
        self._pending: PendingSave | None = None
        self._trouble = GOOD  # of this rank's last write
        self._last_error = ""  # of all ranks' last save

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return self._mine.folder

    def steps(self) -> list[int]:
        """The steps of the checkpoints that this rank sees, in the order they were written."""
        return self._mine.steps()

    # -- saving ------------------------------------------------------------------------------------

    def save(
        self,
        *,
        step: int,
        epoch: int = 0,
        values: Mapping[str, Any] | None = None,
        per_rank: Mapping[str, Any] | None = None,
        random_state: bool = True,
        async_save: bool = False,
        **parts: Any,
    ) -> PendingSave:
        """Collective. Write a checkpoint, then delete the oldest beyond `keep`.

        Args:
            step: number of optimizer steps made.
            epoch: number of the epoch.
            values: anything else worth keeping, as JSON values; those of rank 0 are written.
            per_rank: further parts that differ between ranks, by name. Data loaders, samplers and
                random generators among `parts` are taken as such by themselves.
            random_state: save the state of each rank's default random generator.
            async_save: return once the state is copied; a thread hashes and writes it. One save is
                under way at a time: the next one waits for it. A program that ends well waits too.
            parts: objects with ``state_dict()``: model, optimizer, scheduler, loader ...

        Returns:
            The save; `wait` tells whether it succeeded. Without async_save it is over.

        Raises:
            CheckpointError: a part cannot be saved; on all ranks.
            CheckpointWriteError: the files cannot be written, and on_error is "raise".
        """
        self._group.meet()
        shared, own = self._split(parts, per_rank)
        last = self._end_of_write()
        writers = self._find_writers()
        writes = self._comm.rank in writers
        mine, state, refusal = self._capture(shared, own, random_state, writers)
        values, values_refusal = copy_of_values(values)
        refusal = refusal or (values_refusal if writes else "")
        serial = self._mine.next_serial() if writes else 0
        rows = self._exchange(Row(mine, refusal, last, serial))
        self._settle([row.last for row in rows])
        self._refuse_together("save", [row.refusal for row in rows])
        state["per_rank"] = {str(rank): row.own for rank, row in enumerate(rows)}
        self._pending = saving = PendingSave(self, step, self._mine.path(step))
        position = {"step": step, "epoch": epoch, "serial": max(row.serial for row in rows)}
        if not writes:
            self._trouble = GOOD
        elif async_save:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "allgrad-checkpoint")
            copy = self._snapshot.take(state)
            self._future = self._executor.submit(self._write, copy, position, values)
        else:
            self._trouble = self._write(state, position, values)
        if not async_save:
            self.wait()
        return saving

    def async_save(self, **arguments: Any) -> PendingSave:
        """Collective. `save` with ``async_save=True``."""
        return self.save(**arguments, async_save=True)

    def wait(self) -> None:
        """Collective. Wait for the save under way, if there is one.

        Raises:
            CheckpointWriteError: it could not be written, and on_error is "raise".
        """
        self._group.meet()
        if self._pending is not None:
            self._settle(self._exchange(self._end_of_write()))

    def close(self) -> None:
        """Collective. Wait for the save under way and end the thread.

        Raises:
            CheckpointWriteError: the last save failed, whatever on_error says: what it would have
                kept is lost with the end of the program.
        """
        self.wait()
        self._end_thread()
        if self._last_error:
            raise CheckpointWriteError(f"the last checkpoint was not written: {self._last_error}")

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._end_thread()  # the other ranks may be elsewhere

    def _is_writing(self) -> bool:
        return self._future is not None and not self._future.done()

    def _end_thread(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def _split(
        self, parts: dict[str, Any], per_rank: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is the same on all ranks, and what is not."""
        own = {name: part for name, part in parts.items() if isinstance(part, _PER_RANK)}
        shared = {name: part for name, part in parts.items() if name not in own}
        for name, part in (per_rank or {}).items():
            if name in parts:
                raise CheckpointError(
                    f"{self._group.where} part {name!r} is given twice, once in per_rank"
                )
            own[name] = part
        return shared, own

    def _capture(
        self,
        shared: dict[str, Any],
        own: dict[str, Any],
        random_state: bool,
        writers: list[int],
    ) -> tuple[dict[str, Any] | None, dict[str, Any], str]:
        """This rank's own state, on writers also the shared one, and what cannot be saved."""
        for part in shared.values():
            if hasattr(part, "consolidate_state_dict"):  # optimizers whose state is spread
                for writer in writers:
                    part.consolidate_state_dict(writer)
        state: dict[str, Any] = {}
        try:
            mine = capture_state(random_state=random_state, **own)
            if self._comm.rank in writers:
                state = capture_state(random_state=random_state, **shared)
        except AllgradError as err:
            return None, state, str(err)
        return mine, state, ""

    def _write(
        self, state: dict[str, Any], position: dict[str, int], values: dict[str, Any]
    ) -> Trouble:
        """Write, in whatever thread; return what went wrong."""
        if self._comm.rank == 0:
            events.announce("saving", **position)
        try:
            self._mine.write(state, values=values, **position)
        except (CheckpointWriteError, OSError, MemoryError) as err:
            return Trouble(str(err) or type(err).__name__)
        except AllgradError as err:
            return Trouble(str(err), lasting=True)
        if self._comm.rank == 0:
            events.announce("saved", **position)
        return GOOD

    def _end_of_write(self) -> Trouble:
        """Wait for this rank's thread; return what went wrong in the save under way."""
        if self._future is not None:
            self._trouble = self._future.result()
            self._future = None
        return self._trouble if self._pending is not None else GOOD

    def _settle(self, troubles: list[Trouble]) -> None:
        """Learn on all ranks how the save under way ended."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        found = [f"rank {rank}: {t.text}" for rank, t in enumerate(troubles) if t.text]
        pending._error = self._last_error = "; ".join(found)
        if not found:
            return
        if self._on_error == "raise" or any(trouble.lasting for trouble in troubles):
            self._last_error = ""  # told now
            raise (CheckpointError if any(t.lasting for t in troubles) else CheckpointWriteError)(
                f"{self._group.where} checkpoint of step {pending.step} was not written: "
                f"{pending._error}"
            )
        if self._comm.rank == 0:
            log.error(
                "checkpoint of step %d was not written; the training goes on, and the checkpoints "
                "before it are as they were. %s",
                pending.step,
                pending._error,
            )

    def _refuse_together(self, what: str, refusals: list[str]) -> None:
        found = [f"rank {rank}: {text}" for rank, text in enumerate(refusals) if text]
        if found:
            raise CheckpointError(f"{self._group.where} {what}: {'; '.join(found)}")

    def _exchange(self, value: Any) -> list[Any]:
        return self._comm.all_gather_object(value)

    def _find_writers(self) -> list[int]:
        """The lowest rank of each folder. See Note [Generations over ranks]."""
        if self._writers is None:
            places = self._exchange(identity_of(self.folder))
            leaders = sorted({places.index(place) for place in places})
            if len(leaders) > 1:  # of several hosts: do they see the same files?
                leaders = self._tell_apart(leaders)
            self._writers = leaders
        return self._writers

    def _tell_apart(self, leaders: list[int]) -> list[int]:
        """Each leader leaves a file; whoever sees that of a lower one shares its folder."""
        nonce = self._comm.broadcast_object(secrets.token_hex(6))
        mark = self.folder / f".rank-{self._comm.rank}-{nonce}"
        leads = self._comm.rank in leaders
        if leads:
            try:
                mark.touch()
            except OSError as err:  # the save that follows says the same, louder
                log.debug("%s: %s", mark, err)
        self._comm.barrier()
        seen = [rank for rank in leaders if (self.folder / f".rank-{rank}-{nonce}").exists()]
        first = min([*seen, self._comm.rank]) if leads else None
        firsts = self._exchange(first)
        if leads:
            mark.unlink(missing_ok=True)
        return sorted({rank for rank in firsts if rank is not None})

    # -- loading -----------------------------------------------------------------------------------

    def load_latest(
        self,
        *,
        per_rank: Mapping[str, Any] | None = None,
        random_state: bool = True,
        **parts: Any,
    ) -> Checkpoint | None:
        """Collective. Load the newest checkpoint that all ranks have and find whole.

        Damaged ones, and those that only some ranks have, are named in the log and passed over.
        The number of ranks may be another one than that which saved: a `DataLoader` then deals the
        rest of its epoch out anew, in the same order, and random numbers start afresh.

        Args:
            per_rank, parts: the objects to load, under the names they were saved with.
            random_state: also set each rank's default random generator.

        Returns:
            The checkpoint, for its step, epoch and values; None when no rank has any.

        Raises:
            CheckpointError: there are some, but none that all ranks can read; or the model is
                another one. On all ranks.
        """
        self._group.meet()
        shared, own = self._split(parts, per_rank)
        if self._comm.rank == 0:
            events.announce("loading")
        checkpoint = self._agree()
        if checkpoint is None:
            if self._comm.rank == 0:
                events.announce("loaded", step=None, serial=0)
            return None
        if checkpoint.per_rank:
            checkpoint.restore(random_state=False, **shared)
            checkpoint.restore_rank(
                self._comm.rank, self._comm.size, random_state=random_state, **own
            )
        else:  # written by allgrad.checkpoint in a program of one rank
            checkpoint.restore(random_state=random_state, **shared, **own)
        if self._comm.rank == 0:
            manifest = checkpoint.manifest
            events.announce(
                "loaded",
                step=manifest.step,
                serial=manifest.serial,
                sha256=manifest.tensor_sha256,
            )
        return checkpoint

    def _agree(self) -> Checkpoint | None:
        """The newest generation that is whole on every rank that has any."""
        found, damaged = self._mine.generations()
        mine = {key_of(manifest): path for path, manifest in found}
        tables = self._exchange((sorted(mine, reverse=True), list(damaged.values())))
        haves = [rank for rank, (keys, bad) in enumerate(tables) if keys or bad]
        if not haves:
            return None
        problems = [(rank, text) for rank, (_, bad) in enumerate(tables) for text in bad]
        refused = list(damaged)
        for key in sorted({key for keys, _ in tables for key in keys}, reverse=True):
            lacking = [rank for rank in haves if key not in tables[rank][0]]
            if lacking:
                problems.append((lacking[0], f"has no checkpoint of step {key[1]} (no. {key[0]})"))
                continue
            checkpoint, trouble = self._read(mine[key]) if key in mine else (None, "")
            troubles = self._exchange(trouble)
            problems += [(rank, text) for rank, text in enumerate(troubles) if text]
            if trouble:
                refused.append(mine[key])
            if not any(troubles):
                for path in refused:
                    self._mine.refuse(path)
                self._log(problems, key[1])
                return self._complete(checkpoint, haves)
        raise CheckpointError(
            f"{self._group.where} no checkpoint in {self.folder} is whole on all ranks:\n  "
            + "\n  ".join(f"rank {rank}: {text}" for rank, text in problems)
        )

    def _read(self, path: Path) -> tuple[Checkpoint | None, str]:
        try:
            return core.read_checkpoint(path), ""
        except (CheckpointError, OSError, MemoryError) as err:
            return None, str(err) or type(err).__name__

    def _log(self, problems: list[tuple[int, str]], step: int) -> None:
        """Say each problem once, by the lowest rank that has it."""
        first: dict[str, int] = {}
        for rank, text in problems:
            first.setdefault(text, rank)
        for text, rank in first.items():
            if rank == self._comm.rank:
                log.warning("%s %s; taking that of step %d", self._group.where, text, step)

    def _complete(self, checkpoint: Checkpoint | None, haves: list[int]) -> Checkpoint:
        """Give the checkpoint to ranks whose disks hold none."""
        if len(haves) < self._comm.size:
            sends = self._comm.rank == haves[0]
            packed = core.pack(checkpoint) if sends and checkpoint is not None else None
            packed = self._comm.broadcast_object(packed, haves[0])
            if checkpoint is None:
                log.warning(
                    "%s %s holds no checkpoint; taken from rank %d",
                    self._group.where,
                    self.folder,
                    haves[0],
                )
                checkpoint = core.unpack(packed)
        assert checkpoint is not None
        return checkpoint
