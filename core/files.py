"""Write a file completely or not at all; uses the standard library and the error types only.

Note [A file is there or it is not]
A reader never sees half a file: the bytes go to a temporary name in the same folder (a rename is
atomic only within one file system), reach the disk (`fsync` of the file), take the final name
(`os.replace`), and the folder's entry reaches the disk (`fsync` of the folder). A crash at any
point leaves the file that was there before, plus at most one temporary file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from .errors import AllgradError, CheckpointWriteError

TEMPORARY = ".partial-"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(
    path: str | os.PathLike[str],
    data: bytes | Sequence[bytes | memoryview],
    error: type[AllgradError] = CheckpointWriteError,
) -> Path:
    """Put `data` under the name `path`, durably, replacing what was there in one step.

    Args:
        path: the final name; its folder is created when missing.
        data: the whole content, in one piece or in several (of bytes), written one after the other.
        error: type of the error to raise.

    Returns:
        `path` as a `Path`.

    Raises:
        CheckpointWriteError (or `error`): the disk is full or the folder cannot be written. The
            temporary file is removed and whatever `path` held before is untouched.

    Source: rename(2) and fsync(2) of the Linux manual pages. See Note [A file is there or it is
    not].
    """
    path = Path(path)
    pieces = [data] if isinstance(data, bytes) else data
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_to_disk(temporary, pieces)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as err:
        raise error(_why(err, path, sum(map(len, pieces)))) from err
    finally:
        with contextlib.suppress(OSError):  # it is gone after the rename
            temporary.unlink()
    return path


def remove_temporaries(folder: Path, name_start: str) -> None:
    """Delete what a killed writer left of files whose final name starts with `name_start`."""
    for left in folder.glob(f"{TEMPORARY}{name_start}*"):
        left.unlink(missing_ok=True)


def _write_to_disk(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:  # one write(2) moves at most 2 GiB, and less when a signal or quota cuts it
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(err: OSError, path: Path, size_bytes: int) -> str:
    kept = "what it held before is intact" if path.exists() else "nothing was left under that name"
    if err.errno in _NO_SPACE:
        return (
            f"no space to write {path}: {size_bytes} bytes are needed, {_free(path.parent)} are "
            f"free in {path.parent} ({err.strerror}); {kept}. Free some space or name another "
            "folder"
        )
    return f"cannot write {path}: {err}; {kept}"


def _free(folder: Path) -> str:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return "an unknown number"
    return str(disk.f_bavail * disk.f_frsize)
