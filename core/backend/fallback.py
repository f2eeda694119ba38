"""How a library's kernel falls back to the reference, on every device.

Note [Fallback]: a kernel marked `@fast` either serves the call or raises `Unsupported(reason)`
before it has written anything. Then the reference serves, the reason is counted in
`allgrad.kernel_counts`, and with ALLGRAD_STRICT=1 the reason is an error instead. A call with
float16 or bfloat16 arrays that the kernel does not serve as they are is served in float32, by the
same kernel, and rounded; that is counted too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from .. import kernel_counts
from ..errors import Unsupported
from . import half
from .reference import ReferenceBackend


class LibraryBackend(ReferenceBackend):
    """A backend whose kernels are a library's where that serves.

    Args:
        xp: the array module.

    Attributes:
        strict: whether falling back is an error: ALLGRAD_STRICT=1.
    """

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        self.strict = os.environ.get("ALLGRAD_STRICT", "0") == "1"

    def fall_back(self, kernel: str, refusal: Unsupported) -> None:
        """Count that `kernel` was refused; Unsupported if that is an error (`strict`)."""
        if self.strict:
            raise Unsupported(f"ALLGRAD_STRICT=1 and {kernel} fell back: {refusal}") from refusal
        kernel_counts.count_fallback(kernel, str(refusal))


def fast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method that overrides a reference kernel. See Note [Fallback]."""
    name = kernel.__name__
    reference = getattr(ReferenceBackend, name)
    count = kernel_counts.count_fast

    @half.serves_halves
    @functools.wraps(kernel)
    def served(self: LibraryBackend, *args: Any, **kwargs: Any) -> Any:
        try:
            result = kernel(self, *args, **kwargs)
        except Unsupported as refusal:
            if half.among(args):
                kernel_counts.count_fallback(name, f"computed in float32: {refusal}")
                return half.in_float32(functools.partial(served, self), args, kwargs)
            self.fall_back(name, refusal)
            return reference(self, *args, **kwargs)
        count(name)
        return result

    return served
