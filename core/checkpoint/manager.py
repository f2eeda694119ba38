"""A folder of checkpoints of which the last few are kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DamagedCheckpointError
from ..files import remove_temporaries
from .manifest import Manifest
from .single import (
    Checkpoint,
    load_checkpoint,
    manifests,
    read_checkpoint,
    save_checkpoint,
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
        remove_temporaries(self.folder, f"{self.name}-")
        path = save_checkpoint(
            self.path(step),
            step=step,
            epoch=epoch,
            values=values,
            per_rank=per_rank,
            random_state=random_state,
            **parts,
        )
        for old, _ in self._mine()[self.keep :]:
            old.unlink(missing_ok=True)  # first the name, then what it names
        self._remove_unnamed_tensors()
        return path

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
        damaged = self._unreadable()
        for path, _ in self._mine():
            try:
                checkpoint = read_checkpoint(path)
            except DamagedCheckpointError as err:
                damaged.append(str(err))
                continue
            for message in damaged:
                log.warning("%s; taking %s instead", message, path)
            checkpoint.restore(random_state=random_state, **parts)
            return checkpoint
        if damaged:
            raise CheckpointError(
                f"no good checkpoint in {self.folder}; all are damaged:\n  " + "\n  ".join(damaged)
            )
        return None

    def _mine(self) -> list[tuple[Path, Manifest]]:
        """Readable manifests of this name, newest first."""
        return [item for item in manifests(self.folder) if self._is_mine(item[0])]

    def _is_mine(self, path: Path) -> bool:
        return path.name.startswith(f"{self.name}-")

    def _unreadable(self) -> list[str]:
        messages = []
        for path in sorted(self.folder.glob(f"{self.name}-*.json")):
            try:
                Manifest.read(path)
            except DamagedCheckpointError as err:
                messages.append(str(err))
        return messages

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
