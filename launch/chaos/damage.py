"""Spoils files of checkpoints as crashes, bad disks and careless hands do; seeded."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allgrad.checkpoint import CheckpointManager, Manifest, read_checkpoint
from allgrad.errors import CheckpointError


@dataclass(frozen=True)
class Generation:
    """A checkpoint that was whole when it was looked at.

    Attributes:
        manifest: path of its manifest.
        content: what that says.
    """

    manifest: Path
    content: Manifest

    @property
    def tensors(self) -> Path:
        """Path of its tensor file."""
        return self.manifest.with_name(self.content.tensor_file)

    @property
    def identity(self) -> tuple[int, int, str]:
        """Serial, step and SHA-256."""
        return self.content.serial, self.content.step, self.content.tensor_sha256


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        kind: a key of `KINDS`.
        file: the file that it was done to.
        spoiled: the generations that can no longer be trusted.
    """

    kind: str
    file: Path
    spoiled: tuple[Generation, ...]


def folder_of(root: Path) -> Path:
    """The folder below `root` in which checkpoints are; `root` where there are none yet."""
    found = sorted({path.parent for path in root.rglob("*.safetensors")})
    return found[0] if found else root


def whole_generations(folder: Path, name: str = "checkpoint") -> list[Generation]:
    """The checkpoints of a folder that can be read, newest first."""
    found = []
    for path, manifest in CheckpointManager(folder, name=name).generations()[0]:
        try:
            read_checkpoint(path)
        except CheckpointError:
            continue
        found.append(Generation(path, manifest))
    return found


def _truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _zero(path: Path, rng: random.Random) -> None:
    """As after a power cut: the length is there, the last pages are not."""
    data = path.read_bytes()
    kept = rng.randrange(len(data))
    path.write_bytes(data[:kept] + bytes(len(data) - kept))


def _append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def _garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "truncate": _truncate,
    "flip": _flip,
    "zero": _zero,
    "append": _append,
    "garbage": _garbage,
    "remove": _remove,
}
PAIRS = ("swap", "stale")  # of two generations


def spoil(generations: list[Generation], rng: random.Random) -> Damage | None:
    """Damage one or two of the generations, never all of them.

    Args:
        generations: whole ones, newest first.
        rng: chooses.

    Returns:
        What was done; None where fewer than two generations are there.
    """
    if len(generations) < 2:
        return None
    kinds = [*KINDS, "stale"] + (["swap"] if len(generations) > 2 else [])
    kind = rng.choice(kinds)
    # the newest, most of the time: that is what the next job wants
    victim = generations[0] if rng.random() < 0.8 else rng.choice(generations[1:])
    others = [generation for generation in generations if generation is not victim]
    if kind == "swap":
        return _swap(victim, rng.choice(others))
    if kind == "stale":
        shutil.copyfile(rng.choice(others).manifest, victim.manifest)
        return Damage(kind, victim.manifest, (victim,))
    file = rng.choice((victim.manifest, victim.tensors))
    KINDS[kind](file, rng)
    if rng.random() < 0.3:  # and a writer was killed
        left = file.with_name(f".partial-{file.name}-1-{rng.randbytes(4).hex()}")
        left.write_bytes(rng.randbytes(100))
    return Damage(kind, file, (victim,))


def _swap(one: Generation, other: Generation) -> Damage:
    data = one.tensors.read_bytes()
    one.tensors.write_bytes(other.tensors.read_bytes())
    other.tensors.write_bytes(data)
    return Damage("swap", one.tensors, (one, other))
