"""Programs that end with the process that started them, even if that is killed.

`dying` gives the command line. It goes through a Python that asks the kernel for the signal and
becomes the program: a function between fork and exec would do it, too, but not beside threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def dying(argv: Sequence[str]) -> list[str]:
    """The command of a program that gets SIGKILL at the end of this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def main(parent: int, argv: list[str]) -> None:
    """Become the program."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before we asked
        sys.exit(1)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
