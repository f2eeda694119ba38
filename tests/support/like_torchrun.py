"""Starts processes as torchrun does, but is no agent: `python like_torchrun.py N PORT command...`.

Ends with the first code other than 0 of a process; does nothing to end the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def main(size: int, port: str, argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes get it, too
    job = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(argv, env=os.environ | job | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    codes = [process.wait() for process in processes]
    return next((128 - code if code < 0 else code for code in codes[::-1] if code), 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
