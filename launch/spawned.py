"""What each rank of a `spawn` runs: ``python -m allgrad.launch.spawned FILE``."""

from __future__ import annotations

import pickle
import sys
from multiprocessing import spawn

from allgrad.ddp import environment


def main(file: str) -> None:
    """Import the main module of the caller, and call its function with this rank."""
    with open(file, "rb") as source:
        spawn.prepare(pickle.load(source))
        fn, args = pickle.load(source)
    fn(environment.discover().rank, *args)


if __name__ == "__main__":
    main(sys.argv[1])
