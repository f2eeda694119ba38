"""``python -m allgrad.launch.doctor``, for ``allgrad run -n 4 -m allgrad.launch.doctor``."""

from __future__ import annotations

import sys

from allgrad.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
