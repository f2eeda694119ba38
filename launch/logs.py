"""One log file per rank: its output byte by byte, and its traceback."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from allgrad.errors import LaunchError


class RankLogs:
    """Files ``rank-0.log``, ``rank-1.log``, ... in a folder; nothing where the folder is None.

    Raises:
        LaunchError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[int, BinaryIO] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LaunchError(f"--log-dir {folder}: {error.strerror or error}") from error

    def write(self, rank: int, data: bytes) -> None:
        """Append bytes to the log of a rank; its first bytes replace an old job's log."""
        if self._folder is None:
            return
        if rank not in self._files:
            self._files[rank] = (self._folder / f"rank-{rank}.log").open("wb", buffering=0)
        self._files[rank].write(data)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
