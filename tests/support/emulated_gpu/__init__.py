"""A GPU without a GPU: stand-ins for CuPy and the libraries beside it, computing on the CPU.

Device memory is host memory that NumPy does not see: arrays of the stand-in `cupy` refuse what
CuPy's refuse (mixing with NumPy arrays, implicit copies to the host, functions and methods that
CuPy lacks), so code that runs here names devices and copies where a GPU needs it. `cupy_api.json`
lists what the real package has; `dump_cupy_api.py` wrote it.
"""

from support.emulated_gpu.module import emulated_gpu, install, uninstall

__all__ = ["emulated_gpu", "install", "uninstall"]
