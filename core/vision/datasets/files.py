"""Files of data sets: found, fetched, verified and unpacked, safely beside other ranks.

Stage: before a data set can be read. Whatever is written gets a temporary name, is flushed to the
disk and then renamed, so a file either is complete or is not there. A lock file makes one rank of
a host fetch while the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import logging
import os
import secrets
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import DatasetError

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_TRIES_PER_MIRROR = 2
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to be had from mirrors.

    Attributes:
        name: its name, also at the end of the URL.
        md5: its published MD5 checksum.
        mirrors: URLs of the folders it can be found in, tried in this order.
    """

    name: str
    md5: str
    mirrors: tuple[str, ...]


def md5_of(path: Path) -> str:
    """The MD5 checksum of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(path: Path, expected: str) -> None:
    """Raise DatasetError unless the file has that checksum."""
    found = md5_of(path)
    if found != expected:
        raise DatasetError(
            f"{path}: wrong checksum: expected MD5 {expected}, found {found} "
            f"({path.stat().st_size} bytes); delete the file and fetch it again"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block, no other process that asks is in it for the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the kernel even if this process is killed
        yield


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name only when it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Delete what a killed process left of `path`; only while holding the lock."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def fetch(remote: RemoteFile, folder: Path, dataset: str) -> Path:
    """Download a file unless it is there with the right checksum.

    Args:
        remote: what to fetch.
        folder: where to put it; the caller holds its lock.
        dataset: name for the messages.

    Raises:
        DatasetError: no mirror gave the right file.
    """
    path = folder / remote.name
    if path.exists() and md5_of(path) == remote.md5:
        return path
    _remove_leftovers(path)
    failures = []
    for mirror in remote.mirrors:
        for _ in range(_TRIES_PER_MIRROR):
            url = mirror.rstrip("/") + "/" + remote.name
            try:
                _log.info("%s: downloading %s", dataset, url)
                _download(url, path, remote.md5)
                return path
            except (OSError, DatasetError) as err:
                failures.append(f"{url}: {err}")
    raise missing(dataset, folder, [remote], "the download failed", failures)


def _download(url: str, path: Path, md5: str) -> None:
    # Loads http and ssl, a tenth of a second that only a download shall cost.
    from urllib.request import urlopen  # noqa: PLC0415

    digest, size = hashlib.md5(usedforsecurity=False), 0
    with urlopen(url, timeout=_TIMEOUT_S) as response, atomic_file(path) as file:
        while chunk := response.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
        if digest.hexdigest() != md5:
            raise DatasetError(
                f"wrong checksum: expected MD5 {md5}, found {digest.hexdigest()} ({size} bytes)"
            )


def missing(
    dataset: str,
    folder: Path,
    files: Iterable[RemoteFile],
    reason: str,
    failures: Iterable[str] = (),
) -> DatasetError:
    """The one message about files that are not there: names, place, checksums, sources."""
    lines = [f"{dataset}: {reason}. Put these files into {folder.absolute()}:"]
    lines.extend(f"    {f.name}  (MD5 {f.md5})  from {' or '.join(f.mirrors)}" for f in files)
    lines.append("or pass download=True where there is a network, or train on SyntheticImages.")
    lines.extend(f"    tried {failure}" for failure in dict.fromkeys(failures))
    return DatasetError("\n".join(lines))


def read_maybe_gzip(path: Path) -> bytes:
    """The contents of a file, unpacked if its name ends in .gz.

    Raises:
        DatasetError: the compressed data is damaged or cut off.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise DatasetError(
            f"{path}: damaged gzip file ({path.stat().st_size} bytes): {err}; delete it and fetch "
            "it again"
        ) from err


def unpack_tar(archive: Path, members: Iterable[str], target: Path) -> None:
    """Take `members` out of a tar.gz into the new folder `target`, all of them or none.

    Args:
        archive: the tar.gz; the caller holds the lock of its folder.
        members: paths inside it; each lands in `target` under its last name.
        target: a folder that appears only when it is complete.

    Raises:
        DatasetError: the archive is damaged or lacks a member.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in members:
                source = tar.extractfile(member)
                if source is None:
                    raise KeyError(member)
                with atomic_file(temporary / Path(member).name) as file:
                    shutil.copyfileobj(source, file, _CHUNK_BYTES)
        if target.exists():
            shutil.rmtree(target)
        os.chmod(temporary, 0o755)
        os.rename(temporary, target)
    except (KeyError, EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as err:
        raise DatasetError(
            f"{archive}: damaged archive ({archive.stat().st_size} bytes): {err}; delete it and "
            "fetch it again"
        ) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
