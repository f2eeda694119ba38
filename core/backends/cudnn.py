"""Settings of cuDNN: convolution, batch norm and recurrent layers on GPUs.

Attributes:
    enabled: whether cuDNN is used at all; else plain kernels serve, many times slower.
    allow_tf32: whether convolutions of float32 may round to TF32 (10 bits of mantissa), which
        tensor cores multiply about eight times as fast; the default, as in PyTorch.
    benchmark: whether each new problem is solved by every plan cuDNN has for it, and the fastest is
        kept, here and in the cache on disk. The choice, and with it the last bits, may then differ
        from run to run and from rank to rank.
    deterministic: whether plans whose bits differ from run to run are left out.
    pad_channels: whether images of fewer than 8 channels are padded to 8 for 16-bit convolutions,
        which tensor cores need.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

enabled = True
allow_tf32 = True
benchmark = False
deterministic = False
pad_channels = True


def is_available() -> bool:
    """Whether a GPU can be used, and cuDNN with it."""
    return why_not() is None


def why_not() -> str | None:
    """The reason why cuDNN cannot be used, one sentence; None if it can."""
    # By name: this package is below the backends.
    home = __name__.rsplit(".", 2)[0] + ".backend.cuda"
    reason: str | None = importlib.import_module(f"{home}.availability").why_not()
    return reason or importlib.import_module(f"{home}.cudnn_graphs").why_not()


def version() -> int | None:
    """The version of cuDNN, such as 91900 for 9.19.0; None without it."""
    if not is_available():
        return None
    return int(importlib.import_module("cudnn").backend_version())


@contextlib.contextmanager
def flags(
    enabled: bool = False,
    benchmark: bool = False,
    deterministic: bool = False,
    allow_tf32: bool = True,
) -> Iterator[None]:
    """Other settings inside of the ``with`` block; defaults as in PyTorch."""
    own = globals()
    names = ("enabled", "benchmark", "deterministic", "allow_tf32")
    before = {name: own[name] for name in names}
    own.update(zip(names, (enabled, benchmark, deterministic, allow_tf32), strict=True))
    try:
        yield
    finally:
        own.update(before)
