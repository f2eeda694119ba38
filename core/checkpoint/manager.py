"""A folder of checkpoints of which the last few are kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DamagedCheckpointError
from ..files import remove_temporaries
from .manifest import Manifest
from .parts import capture_state
from .single import (
    Checkpoint,
    load_checkpoint,
    manifests,
    next_serial,
    read_checkpoint,
    write_checkpoint,
)

log = logging.getLogger("allgrad.checkpoint")


class CheckpointManager:
    """Saves checkpoints into a folder, keeps the last `keep`, loads the newest good one.

    Args:
        folder: where; created at the first `save`. One job at a time writes there.
        keep: how many of the last written checkpoints stay, >= 1.
        name: beginning of the file names: ``<name>-<step>.json`` and its tensor file.

    Raises:
        ValueError: `keep` is below 1.

    >>> import tempfile
    >>> from allgrad import nn
    >>> model = nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manager = CheckpointManager(folder, keep=2)
    ...     for step in (10, 20, 30):
    ...         _ = manager.save(step=step, model=model)
    ...     print(manager.load_latest(model=model).step, manager.steps())
    30 [20, 30]
    """

    def __init__(
        self, folder: str | PathLike[str], *, keep: int = 3, name: str = "checkpoint"
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep: expected at least 1, came {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.name = name
        self._file_name = re.compile(re.escape(name) + r"-\d{8,}\.json")
        self._refused: set[Path] = set()  # found damaged while loading; removed by the next save

    def path(self, step: int) -> Path:
        """The manifest of the checkpoint of `step`."""
        return self.folder / f"{self.name}-{step:08d}.json"

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, in the order they were written."""
        return [manifest.step for _, manifest in reversed(self._mine())]

    def save(
        self,
        *,
        step: int,
        epoch: int = 0,
        values: Mapping[str, Any] | None = None,
        per_rank: Mapping[str, Any] | None = None,
        random_state: bool = True,
        **parts: Any,
    ) -> Path:
        """Write a checkpoint, then delete the oldest beyond `keep`.

        Args and raises: as `save_checkpoint`; nothing is deleted when it fails.

        Returns:
            The path of the manifest.
        """
        state = capture_state(random_state=random_state, **parts)
        if per_rank is not None:
            state["per_rank"] = dict(per_rank)
        return self.write(state, step=step, epoch=epoch, values=values)

    def write(
        self,
        state: Mapping[str, Any],
        *,
        step: int,
        epoch: int = 0,
        values: Mapping[str, Any] | None = None,
        serial: int | None = None,
    ) -> Path:
        """`save` of a state that was captured before; args as `write_checkpoint`."""
        path = self.path(step)
        remove_temporaries(self.folder, f"{self.name}-")
        write_checkpoint(path, state, step=step, epoch=epoch, values=values, serial=serial)
        self._refused.discard(path)
        good = [old for old, _ in self._mine() if old not in self._refused]
        for old in (*good[self.keep :], *self._refused):
            old.unlink(missing_ok=True)  # first the name, then what it names
        self._refused.clear()
        self._remove_unnamed_tensors()
        return path

    def next_serial(self) -> int:
        """The serial that the next checkpoint gets."""
        return next_serial(self.folder)

    def refuse(self, path: Path) -> None:
        """Note that the checkpoint of the manifest `path` is damaged.

        It does not count among those kept, and goes when a newer one is complete.
        """
        self._refused.add(path)

    def load(self, step: int, *, random_state: bool = True, **parts: Any) -> Checkpoint:
        """Load the checkpoint of `step`; args and raises as `load_checkpoint`."""
        return load_checkpoint(self.path(step), random_state=random_state, **parts)

    def load_latest(self, *, random_state: bool = True, **parts: Any) -> Checkpoint | None:
        """Load the last written checkpoint that is whole; damaged ones are logged and skipped.

        Args:
            random_state, parts: as `load_checkpoint`.

        Returns:
            The checkpoint, or None when the folder has none at all.

        Raises:
            CheckpointError: all are damaged, or the model is another one.
        """
        found, damaged = self.generations()
        for path, _ in found:
            try:
                checkpoint = read_checkpoint(path)
            except DamagedCheckpointError as err:
                damaged[path] = str(err)
                continue
            for message in damaged.values():
                log.warning("%s; taking %s instead", message, path)
            self._refused.update(damaged)
            checkpoint.restore(random_state=random_state, **parts)
            return checkpoint
        if damaged:
            raise CheckpointError(
                f"no good checkpoint in {self.folder}; all are damaged:\n  "
                + "\n  ".join(damaged.values())
            )
        return None

    def generations(self) -> tuple[list[tuple[Path, Manifest]], dict[Path, str]]:
        """The readable manifests, newest first, and by path what is wrong with the others.

        Tensor files are not looked at; `read_checkpoint` does that.
        """
        damaged = {}
        for path in sorted(self.folder.glob(f"{self.name}-*.json")):
            if self._file_name.fullmatch(path.name) is None:
                continue
            try:
                manifest = Manifest.read(path)
            except DamagedCheckpointError as err:
                damaged[path] = str(err)
                continue
            if path != self.path(manifest.step):
                damaged[path] = (
                    f"checkpoint {path} is damaged: its name says another step than its content, "
                    f"which was written as {self.path(manifest.step).name}"
                )
        return [item for item in self._mine() if item[0] not in damaged], damaged

    def _mine(self) -> list[tuple[Path, Manifest]]:
        """Readable manifests of this name, newest first."""
        found = manifests(self.folder)
        return [item for item in found if self._file_name.fullmatch(item[0].name)]

    def _remove_unnamed_tensors(self) -> None:
        """Delete tensor files that no manifest names; not those of a manifest that is damaged."""
        named = {manifest.tensor_file for _, manifest in self._mine()}
        for file in self.folder.glob(f"{self.name}-*.safetensors"):
            manifest = file.with_name(file.name.rpartition("-")[0] + ".json")
            if file.name not in named and not manifest.exists():
                file.unlink(missing_ok=True)


def load_latest(
    folder: str | PathLike[str],
    *,
    name: str = "checkpoint",
    random_state: bool = True,
    **parts: Any,
) -> Checkpoint | None:
    """`CheckpointManager.load_latest` of `folder`."""
    manager = CheckpointManager(folder, name=name)
    return manager.load_latest(random_state=random_state, **parts)
