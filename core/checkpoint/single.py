"""One checkpoint under one path."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DamagedCheckpointError
from ..files import remove_temporaries, write_atomically
from ..serialization import dump_pieces, dumps, loads
from .manifest import Manifest
from .parts import capture_state, restore_state

log = logging.getLogger("allgrad.checkpoint")

_DIGITS = 12  # of the SHA-256, in the tensor file's name


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        path: its manifest.
        manifest: what that says.
        state: ``{part: state}``, with the tensors.
    """

    path: Path
    manifest: Manifest
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of optimizer steps made, as the writer counted them."""
        return self.manifest.step

    @property
    def epoch(self) -> int:
        """The epoch, as the writer counted it."""
        return self.manifest.epoch

    @property
    def values(self) -> dict[str, Any]:
        """The user's JSON values."""
        return self.manifest.values

    @property
    def per_rank(self) -> dict[str, Any]:
        """The states of single ranks by the rank's number as a string; may be empty."""
        found: dict[str, Any] = self.state.get("per_rank", {})
        return found

    def restore(self, *, random_state: bool = True, **parts: Any) -> None:
        """Load `parts`; see `load_checkpoint`."""
        restore_state(
            self.state, random_state=random_state, source=f"checkpoint {self.path}", **parts
        )

    def restore_rank(
        self, rank: int, world_size: int, *, random_state: bool = True, **parts: Any
    ) -> None:
        """Load `parts` and the random state with what rank `rank` had captured.

        When the number of ranks is another one than that which saved, the parts come from rank 0
        (a `DataLoader` deals the rest of its epoch out anew) and the random state is left alone.

        Args:
            rank, world_size: of this process.
            random_state, parts: as `load_checkpoint`.

        Raises:
            CheckpointError: no states of single ranks were saved.
        """
        saved = len(self.per_rank)
        if saved == 0:
            raise CheckpointError(
                f"checkpoint {self.path}: no state of rank {rank} was saved; give per_rank to "
                "save_checkpoint"
            )
        if saved != world_size:
            log.warning("%s was saved by %d ranks, this job has %d", self.path, saved, world_size)
        same = saved == world_size
        restore_state(
            self.per_rank[str(rank if same else 0)],
            random_state=random_state and same,
            source=f"checkpoint {self.path}, rank {rank}",
            **parts,
        )


def save_checkpoint(
    path: str | PathLike[str],
    *,
    step: int = 0,
    epoch: int = 0,
    values: Mapping[str, Any] | None = None,
    per_rank: Mapping[str, Any] | None = None,
    random_state: bool = True,
    **parts: Any,
) -> Path:
    """Write the state of a training run; the checkpoint that `path` held stays until it is done.

    Args:
        path: the manifest; ``.json`` is added when it is not there. The tensors go beside it
            into ``<name>-<checksum>.safetensors``.
        step: number of optimizer steps made.
        epoch: number of the epoch.
        values: anything else worth keeping, as JSON values (the best accuracy, the options).
        per_rank: states of single ranks, ``{"0": capture_state(...), "1": ...}``, gathered by the
            caller.
        random_state: save the state of this thread's default random generator.
        parts: objects with ``state_dict()``: model, optimizer, scheduler, loader ...

    Returns:
        The path of the manifest.

    Raises:
        CheckpointError: a part cannot be saved, or the files cannot be written (disk full). What
            `path` held before is intact then. See Note [What a crash leaves].

    >>> import tempfile
    >>> from allgrad import nn
    >>> model = nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(f"{folder}/last", model=model, step=7)
    ...     load_checkpoint(path, model=model).step
    7
    """
    state = capture_state(random_state=random_state, **parts)
    if per_rank is not None:
        state["per_rank"] = dict(per_rank)
    return write_checkpoint(path, state, step=step, epoch=epoch, values=values)


def write_checkpoint(
    path: str | PathLike[str],
    state: Mapping[str, Any],
    *,
    step: int = 0,
    epoch: int = 0,
    values: Mapping[str, Any] | None = None,
    serial: int | None = None,
) -> Path:
    """Write a state that `capture_state` gave; the second half of `save_checkpoint`.

    Args:
        path, step, epoch, values: as for `save_checkpoint`.
        state: ``{part: state}``. Only read, and in large pieces without Python's lock: a thread may
            do this while another one trains, if `state` is a `Snapshot`.
        serial: number of the generation; default: one more than the highest in the folder.

    Returns:
        The path of the manifest.

    Raises:
        CheckpointError: as `save_checkpoint`; CheckpointWriteError where it is the disk's fault.
    """
    path = manifest_path(path)
    pieces = dump_pieces(state)
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    digest = hasher.hexdigest()
    manifest = Manifest(
        step=step,
        epoch=epoch,
        serial=next_serial(path.parent) if serial is None else serial,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        tensor_file=f"{path.stem}-{digest[:_DIGITS]}.safetensors",
        tensor_bytes=sum(map(len, pieces)),
        tensor_sha256=digest,
        values=dict(values or {}),
    )
    manifest.check_values(path)
    remove_temporaries(path.parent, path.stem)
    write_atomically(path.with_name(manifest.tensor_file), pieces)
    manifest.write(path)
    remove_orphans(path)
    return path


def read_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Read and verify the checkpoint at `path` without loading it into anything.

    Raises:
        CheckpointError: there is none.
        DamagedCheckpointError: it is not what was written; the message names what was expected
            and found, and the newest good checkpoint of the same folder.
    """
    path = manifest_path(path)
    try:
        return _read(path)
    except DamagedCheckpointError as err:
        other = _newest_good(path)
        hint = f"the newest good checkpoint there is {other}" if other else "there is no other"
        raise DamagedCheckpointError(f"{err}; {hint}") from err


def load_checkpoint(
    path: str | PathLike[str], *, random_state: bool = True, **parts: Any
) -> Checkpoint:
    """Read, verify and load the checkpoint at `path`.

    Args:
        path: as given to `save_checkpoint`.
        random_state: set this thread's default random generator as well.
        parts: the objects to load, under the names they were saved with. Make schedulers before:
            making one changes the optimizer.

    Returns:
        The checkpoint, for its step, epoch, values and per-rank states.

    Raises:
        CheckpointError: there is none, it lacks a part, or the model is another one (missing,
            unexpected and wrong-shaped names are listed).
        DamagedCheckpointError: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.restore(random_state=random_state, **parts)
    return checkpoint


def manifest_path(path: str | PathLike[str]) -> Path:
    """`path` with the ending ``.json``."""
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def remove_orphans(path: Path) -> None:
    """Delete tensor files of the manifest `path` other than the one it names."""
    named = Manifest.read(path).tensor_file
    for file in path.parent.glob(f"{path.stem}-{'?' * _DIGITS}.safetensors"):
        if file.name != named:
            file.unlink(missing_ok=True)


def manifests(folder: Path) -> list[tuple[Path, Manifest]]:
    """The readable manifests in `folder`, newest first."""
    found = []
    for path in folder.glob("*.json"):
        try:
            found.append((path, Manifest.read(path)))
        except CheckpointError as err:
            log.debug("skipped: %s", err)
    return sorted(found, key=lambda item: (item[1].serial, item[1].created), reverse=True)


def _read(path: Path) -> Checkpoint:
    manifest = Manifest.read(path)
    data = manifest.read_tensors(path.parent)
    return Checkpoint(path, manifest, loads(data, str(path.with_name(manifest.tensor_file))))


def next_serial(folder: Path) -> int:
    """One more than the highest serial of the readable manifests in `folder`."""
    return 1 + max((m.serial for _, m in manifests(folder)), default=0)


def _newest_good(damaged: Path) -> Path | None:
    for path, manifest in manifests(damaged.parent):
        try:
            manifest.read_tensors(path.parent)
        except DamagedCheckpointError:
            continue
        if path != damaged:
            return path
    return None


def pack(checkpoint: Checkpoint) -> tuple[str, Manifest, bytes]:
    """A checkpoint as plain values, to be sent to another process."""
    return str(checkpoint.path), checkpoint.manifest, dumps(checkpoint.state)


def unpack(packed: tuple[str, Manifest, bytes]) -> Checkpoint:
    """The inverse of `pack`."""
    path, manifest, data = packed
    return Checkpoint(Path(path), manifest, loads(data, path))
