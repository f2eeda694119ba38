"""Our own GPU kernels: sources (`*.cu`), the table of them, and how they are launched.

`registry.py` has the table; `launcher.py` compiles a file when one of its kernels is first wanted,
by CuPy's RawModule (NVRTC), and launches; `twins/` says in NumPy what each kernel computes.
"""

from .launcher import blocks, launch
from .registry import KERNELS, Kernel, source

__all__ = ["KERNELS", "Kernel", "blocks", "launch", "source"]
