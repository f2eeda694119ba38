"""`allgrad.cuda`: what scripts ask about GPUs.

There is no CUDA backend yet, so every answer is the one of a machine without GPUs: questions are
answered (`is_available` is False, `device_count` is 0), what PyTorch makes a no-op without GPUs is
a no-op, and whatever needs a GPU raises a RuntimeError that says what is missing.
"""

from __future__ import annotations

from typing import Any, NoReturn

from . import devices
from .errors import DeviceError

__all__ = [
    "current_device",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "ipc_collect",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state_all",
    "synchronize",
]


def _refuse(name: str) -> NoReturn:
    raise DeviceError(f"cuda.{name}: {devices.NO_CUDA}")


def is_available() -> bool:
    """Whether tensors can be made on a GPU: False, there is no CUDA backend."""
    return False


def device_count() -> int:
    """The number of GPUs that tensors can be made on: 0, there is no CUDA backend."""
    return 0


def is_initialized() -> bool:
    """Whether the CUDA backend is in use."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether a GPU computes in bfloat16; False without one."""
    return False


def init() -> None:
    """Start the CUDA backend; raises, as there is none."""
    _refuse("init")


def current_device() -> int:
    """The number of the GPU in use; raises, as there is none."""
    _refuse("current_device")


def set_device(device: Any) -> None:
    """Use this GPU from now on; raises, as there is none."""
    _refuse("set_device")


def get_device_name(device: Any = None) -> str:
    """The name of a GPU; raises, as there is none."""
    _refuse("get_device_name")


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a GPU; raises, as there is none."""
    _refuse("get_device_capability")


def get_device_properties(device: Any = None) -> Any:
    """The properties of a GPU; raises, as there is none."""
    _refuse("get_device_properties")


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU; raises, as there is none."""
    _refuse("mem_get_info")


def get_rng_state(device: Any = "cuda") -> Any:
    """The random state of a GPU; raises, as there is none."""
    _refuse("get_rng_state")


def get_rng_state_all() -> list[Any]:
    """The random states of all GPUs: none."""
    return []


def set_rng_state_all(new_states: Any) -> None:
    """Set the random states of all GPUs; there are none, so `new_states` must be empty."""
    if list(new_states):
        _refuse("set_rng_state_all")


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has finished; raises, as there is none."""
    _refuse("synchronize")


def empty_cache() -> None:
    """Return unused memory to the GPUs: nothing to do without one."""


def ipc_collect() -> None:
    """Return memory shared between processes to the GPUs: nothing to do without one."""


def reset_peak_memory_stats(device: Any = None) -> None:
    """Start `max_memory_allocated` anew: nothing to do without a GPU."""


def memory_allocated(device: Any = None) -> int:
    """Bytes of tensors on a GPU: 0."""
    return 0


def max_memory_allocated(device: Any = None) -> int:
    """Largest number of bytes of tensors on a GPU so far: 0."""
    return 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that the allocator holds on a GPU: 0."""
    return 0


def max_memory_reserved(device: Any = None) -> int:
    """Largest number of bytes that the allocator held on a GPU so far: 0."""
    return 0


def manual_seed(seed: int) -> None:
    """Seed the current GPU's generator: nothing to do without one."""
    int(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all GPUs: nothing to do without one."""
    int(seed)


def seed() -> None:
    """Seed the current GPU's generator at random: nothing to do without one."""


def seed_all() -> None:
    """Seed the generators of all GPUs at random: nothing to do without one."""


class device:  # noqa: N801 - PyTorch's spelling
    """Use a GPU inside of a ``with`` block; raises on entry, unless `device` is None or negative.

    Args:
        device: the GPU: a number, a name or a device.
    """

    def __init__(self, device: Any) -> None:
        self.device = device

    def __enter__(self) -> None:
        negative = isinstance(self.device, int) and self.device < 0
        if self.device is not None and not negative:
            _refuse("device")

    def __exit__(self, *exc: object) -> None:
        return None
