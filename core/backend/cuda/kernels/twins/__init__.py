"""What every kernel computes, in NumPy: functions of the kernels' names and arguments.

A twin gets flat host arrays in place of pointers (None for a null pointer) and NumPy scalars, and
writes what the kernel writes. Arithmetic is float32's, rounded once when stored. Where a kernel's
blocks matter to what it writes, the chunk is an argument; but the number of blocks that
`cross_entropy_forward` leaves sums of is not, so its twin leaves all in the first.
"""

from __future__ import annotations

from collections.abc import Callable

from . import (
    augment,
    batch_norms,
    draws,
    elementwise,
    embeddings,
    norms,
    pools,
    softmaxes,
    steps,
    sums,
)

TWINS: dict[str, Callable[..., None]] = {
    **elementwise.TWINS,
    **sums.TWINS,
    **softmaxes.TWINS,
    **pools.TWINS,
    **norms.TWINS,
    **draws.TWINS,
    **batch_norms.TWINS,
    **steps.TWINS,
    **embeddings.TWINS,
    **augment.TWINS,
}
