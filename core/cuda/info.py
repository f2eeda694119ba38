"""Which GPUs there are, and which one is in use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .. import devices
from ..backend.cuda import availability
from ..errors import DeviceError


def is_available() -> bool:
    """Whether tensors can be made on a GPU; never raises."""
    return availability.why_not() is None


def device_count() -> int:
    """The number of GPUs that tensors can be made on."""
    return availability.count()


def is_initialized() -> bool:
    """Whether this process has used a GPU."""
    return is_available() and availability.in_use()


def init() -> None:
    """Make the first GPU ready; it happens by itself when one is first used.

    Raises:
        RuntimeError: no GPU can be used; the message says why.
    """
    devices.require("cuda")
    driver("init").current()


def driver(name: str) -> Any:
    """The module that holds the state of the devices.

    Raises:
        DeviceError: no GPU can be used; the message begins with the function's name.
    """
    reason = availability.why_not()
    if reason is not None:
        raise DeviceError(f"cuda.{name}: {reason}. {devices.USUAL_LINE}")
    from ..backend.cuda import device as cuda_device  # noqa: PLC0415 - needs CuPy

    return cuda_device


def index_of(name: str, given: Any) -> int:
    """The number of the GPU that an argument names; None is the current one.

    Raises:
        DeviceError: no GPU, or another kind of device.
    """
    state = driver(name)
    if given is None:
        return int(state.current())
    if isinstance(given, int) and not isinstance(given, bool) and given < 0:
        raise DeviceError(f"cuda.{name}: expected an index of 0 or more, came {given}")
    found = devices.require(devices.device(given))
    if found.type != "cuda":
        raise DeviceError(f"cuda.{name}: expected a CUDA device, came {str(found)!r}")
    return int(state.current()) if found.index is None else found.index


def current_device() -> int:
    """The number of the GPU in use by this thread.

    Raises:
        RuntimeError: no GPU can be used.
    """
    return int(driver("current_device").current())


def set_device(device: Any) -> None:
    """Use this GPU from now on in this thread; a negative number changes nothing.

    Raises:
        RuntimeError: no such GPU.
    """
    if not (isinstance(device, int) and device < 0):
        index = index_of("set_device", device)
        driver("set_device").use(index)


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has done all that was asked of it.

    Raises:
        RuntimeError: no GPU can be used.
    """
    index = index_of("synchronize", device)
    driver("synchronize").synchronize(index)


def ipc_collect() -> None:
    """Return memory shared between processes to the GPUs; allgrad shares none."""


class device:  # noqa: N801 - PyTorch's spelling
    """Use a GPU inside of a ``with`` block; None or a negative number changes nothing.

    Args:
        device: the GPU: a number, a name or a device.
    """

    def __init__(self, device: Any) -> None:
        negative = isinstance(device, int) and device < 0
        self.device = None if negative else device
        self._at: Any = None

    def __enter__(self) -> None:
        if self.device is not None:
            index = index_of("device", self.device)
            self._at = driver("device").At(index)
            self._at.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self._at is not None:
            self._at.__exit__(*exc)


class device_of(device):  # noqa: N801 - PyTorch's spelling
    """Use the GPU that holds a tensor inside of a ``with`` block; the CPU changes nothing."""

    def __init__(self, obj: Any) -> None:
        super().__init__(obj.get_device() if obj.is_cuda else -1)


# -- properties ------------------------------------------------------------------------------------
def _properties(name: str, device: Any) -> dict[str, Any]:
    index = index_of(name, device)
    import cupy  # noqa: PLC0415 - there is a GPU

    return dict(cupy.cuda.runtime.getDeviceProperties(index))


def get_device_name(device: Any = None) -> str:
    """The name of a GPU, such as ``"NVIDIA H200"``.

    Raises:
        RuntimeError: no GPU can be used.
    """
    name = _properties("get_device_name", device)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a GPU, such as (9, 0).

    Raises:
        RuntimeError: no GPU can be used.
    """
    found = _properties("get_device_capability", device)
    return int(found["major"]), int(found["minor"])


def get_device_properties(device: Any = None) -> Any:
    """Name, major, minor, total_memory (bytes), multi_processor_count of a GPU.

    Raises:
        RuntimeError: no GPU can be used.
    """
    found = _properties("get_device_properties", device)
    name = found["name"]
    return SimpleNamespace(
        name=name.decode() if isinstance(name, bytes) else str(name),
        major=int(found["major"]),
        minor=int(found["minor"]),
        total_memory=int(found["totalGlobalMem"]),
        multi_processor_count=int(found["multiProcessorCount"]),
    )


def get_arch_list() -> list[str]:
    """The architectures that kernels are compiled for: that of each GPU here, when it is used."""
    found = (get_device_capability(i) for i in range(device_count()))
    return sorted({f"sm_{major}{minor}" for major, minor in found})


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes in bfloat16 (from compute capability 8.0 on)."""
    return is_available() and get_device_capability() >= (8, 0)


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Whether one GPU can read the memory of another.

    Raises:
        RuntimeError: no GPU can be used.
    """
    a, b = (index_of("can_device_access_peer", d) for d in (device, peer_device))
    import cupy  # noqa: PLC0415 - there is a GPU

    return bool(cupy.cuda.runtime.deviceCanAccessPeer(a, b))
