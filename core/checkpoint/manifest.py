"""The manifest of a checkpoint: which tensor file belongs to it, and how to know it is whole.

See Note [What a crash leaves] in the package.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DamagedCheckpointError
from ..files import write_atomically

FORMAT = "allgrad.checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What the JSON file of a checkpoint says.

    Attributes:
        step, epoch: position in the training, as given by the user.
        values: the user's own JSON values.
        serial: counts the checkpoints written under one folder and name; the highest is newest.
        created: time of writing, ISO 8601, UTC.
        tensor_file: name of the tensor file, in the same folder.
        tensor_bytes: its size.
        tensor_sha256: its SHA-256, hexadecimal.
    """

    step: int
    epoch: int
    serial: int
    created: str
    tensor_file: str
    tensor_bytes: int
    tensor_sha256: str
    values: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Put this manifest at `path` in one step.

        Raises:
            CheckpointError: `values` is not JSON, or the file cannot be written.
        """
        write_atomically(path, self._text(path).encode())

    def check_values(self, path: Path) -> None:
        """Raise CheckpointError, as `write` would, if `values` is not JSON."""
        self._text(path)

    def _text(self, path: Path) -> str:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        try:
            digest = _digest(content)
            return json.dumps({**content, "sha256": digest}, indent=1, allow_nan=False)
        except (TypeError, ValueError) as err:
            raise CheckpointError(
                f"{path}: values={{...}} must be JSON (numbers, strings, lists, dicts with "
                f"string keys; no NaN): {err}"
            ) from err

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest at `path`.

        Raises:
            CheckpointError: there is none, or it is of a later version.
            DamagedCheckpointError: it is not what was written.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as err:
            raise CheckpointError(f"there is no checkpoint {path}") from err
        except OSError as err:
            raise DamagedCheckpointError(f"cannot read checkpoint {path}: {err}") from err
        try:
            content = json.loads(data)
            found = content.pop("sha256")
            expected = _digest(content)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            version = content.pop("version")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise DamagedCheckpointError(
                f"checkpoint {path} is damaged: expected the JSON manifest of an allgrad "
                f"checkpoint, found {len(data)} bytes that are not one ({err!r})"
            ) from err
        if found != expected:
            raise DamagedCheckpointError(
                f"checkpoint {path} is damaged: expected a manifest with SHA-256 {found}, found "
                f"{expected}"
            )
        if version != VERSION:
            raise CheckpointError(
                f"checkpoint {path}: expected version {VERSION} of the format, came {version}; "
                "use the allgrad that wrote it"
            )
        content.pop("format")
        return cls(**content)

    def read_tensors(self, folder: Path) -> bytes:
        """The bytes of the tensor file, checked.

        Raises:
            DamagedCheckpointError: it is missing, or its size or checksum differ.
        """
        path = folder / self.tensor_file
        if path.parent != folder:  # a manifest from a stranger must not point elsewhere
            raise DamagedCheckpointError(
                f"manifest in {folder}: expected the name of a tensor file beside it, came "
                f"{self.tensor_file!r}"
            )
        try:
            data = path.read_bytes()
        except OSError as err:
            raise DamagedCheckpointError(
                f"tensor file {path} cannot be read: expected {self.tensor_bytes} bytes, {err}"
            ) from err
        if len(data) != self.tensor_bytes:
            raise DamagedCheckpointError(
                f"tensor file {path} is damaged: expected {self.tensor_bytes} bytes, found "
                f"{len(data)}"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.tensor_sha256:
            raise DamagedCheckpointError(
                f"tensor file {path} is damaged: expected SHA-256 {self.tensor_sha256}, found "
                f"{digest}"
            )
        return data


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
