"""Saving and resuming a whole training run; imports nn, optim, utils.data and below.

`save_checkpoint` and `load_checkpoint` work on one path, `CheckpointManager` on a folder of which
it keeps the last few. Only one process writes; all ranks load: `allgrad.ddp.CheckpointManager`
does both for all ranks.

Note [What a crash leaves]
A checkpoint is a tensor file (safetensors, its name ends in a part of its own SHA-256) and a small
JSON manifest that names it with its size and SHA-256. The tensor file is written first, then the
manifest takes its place in one rename, then files that no manifest names are deleted. So at every
moment the manifest under a name is either the old or the new one, and the tensor file it names is
complete. What goes wrong later (a truncated file, a flipped bit) is found by the checksums: of the
tensor file, and of the manifest itself.
"""

from .manager import CheckpointManager as CheckpointManager
from .manager import load_latest as load_latest
from .manifest import Manifest as Manifest
from .parts import capture_state as capture_state
from .parts import restore_state as restore_state
from .single import Checkpoint as Checkpoint
from .single import load_checkpoint as load_checkpoint
from .single import pack as pack
from .single import read_checkpoint as read_checkpoint
from .single import save_checkpoint as save_checkpoint
from .single import unpack as unpack
from .single import write_checkpoint as write_checkpoint
from .snapshot import Snapshot as Snapshot

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "Manifest",
    "Snapshot",
    "capture_state",
    "load_checkpoint",
    "load_latest",
    "pack",
    "read_checkpoint",
    "restore_state",
    "save_checkpoint",
    "unpack",
    "write_checkpoint",
]
