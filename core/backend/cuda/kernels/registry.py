"""The table of our kernels: which file has them, for which types, what they move and do.

A kernel named ``relu_forward`` for float16 is the C function ``relu_forward_f2``. Imports: NumPy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FLOATS = ("f4", "f2", "b2")

_HOME = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Attributes:
        name: without the type's suffix.
        file: of the folder beside this module.
        types: suffixes of the element types there are: NumPy's "f4", "f2", ..., "b2" for bfloat16;
            one kernel without a suffix if empty.
        threads: the largest block, to which its registers are bounded.
        about: what it computes.
        reads, writes: elements that must be read from and written to memory, per element.
        extra_bytes: bytes of other types besides, per element.
    """

    name: str
    file: str
    types: tuple[str, ...]
    threads: int
    about: str
    reads: float = 1
    writes: float = 1
    extra_bytes: float = 0

    def bytes_per_element(self, itemsize: int) -> float:
        """Bytes that a call must move per element of its largest array, of `itemsize` bytes.

        The bytes of all elements, divided by the time of a call, is the bandwidth reached.

        >>> KERNELS["relu_backward"].bytes_per_element(2)
        6
        """
        return (self.reads + self.writes) * itemsize + self.extra_bytes

    def symbols(self) -> tuple[str, ...]:
        """Names of its C functions.

        >>> KERNELS["relu_forward"].symbols()
        ('relu_forward_f4', 'relu_forward_f2', 'relu_forward_b2')
        """
        return tuple(f"{self.name}_{t}" for t in self.types) or (self.name,)


_TABLE = (
    Kernel("relu_forward", "elementwise.cu", FLOATS, 256, "y = max(x, 0)"),
    Kernel("relu_backward", "elementwise.cu", FLOATS, 256, "grad_y where y > 0, else 0", reads=2),
    Kernel("add_relu_forward", "elementwise.cu", FLOATS, 256, "y = max(a + b, 0)", reads=2),
)

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _TABLE}
FILES: tuple[str, ...] = tuple(dict.fromkeys(kernel.file for kernel in _TABLE))


def suffix(dtype: np.dtype[Any]) -> str:
    """The suffix of a kernel for `dtype`.

    >>> suffix(np.dtype(np.float16)), suffix(np.dtype(np.uint8))
    ('f2', 'u1')
    """
    return "b2" if dtype.kind == "V" else f"{dtype.kind}{dtype.itemsize}"


@functools.cache
def source(file: str) -> str:
    """What is compiled for `file`: the shared part and the file, each with its own line numbers."""
    parts = ("common.cuh", file)
    return "".join(f'#line 1 "{part}"\n{(_HOME / part).read_text()}' for part in parts)
