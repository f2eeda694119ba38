"""NVIDIA's GPUs by the driver's own library (NVML), by ctypes: milliseconds, no CUDA context.

Source: NVML API Reference Guide, "Initialization and Cleanup", "System Queries", "Device Queries".
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from allgrad.launch.doctor.facts import Gpus

_LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96
_VENDOR = "0x10de"


class _NvmlError(RuntimeError):
    """NVML answered with a status other than 0."""


def gpus(library: str = _LIBRARY, devices: Path = Path("/sys/bus/pci/devices")) -> Gpus:
    """Ask for the driver and its GPUs.

    Args:
        library: name or path of NVML.
        devices: folder of the PCI devices.
    """
    present = any_devices(devices)
    try:
        nvml = ctypes.CDLL(library)
    except OSError as error:
        return Gpus(problem=str(error), present=present)
    try:
        _call(nvml, "nvmlInit_v2")
        try:
            driver = _text(nvml, "nvmlSystemGetDriverVersion")
            return Gpus(driver, tuple(_names(nvml)), present=True)
        finally:
            _call(nvml, "nvmlShutdown")
    except (_NvmlError, AttributeError) as error:
        return Gpus(problem=f"{library}: {error}", present=present)


def any_devices(devices: Path) -> bool:
    """Whether a PCI device is a display or 3D controller of NVIDIA."""
    for device in devices.glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue  # a device that is just being removed
        if vendor == _VENDOR and kind.startswith("0x03"):
            return True
    return False


def _names(nvml: Any) -> list[str]:
    count = ctypes.c_uint()
    _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    names = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        names.append(_text(nvml, "nvmlDeviceGetName", handle))
    return names


def _text(nvml: Any, function: str, *arguments: Any) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    _call(nvml, function, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
    return buffer.value.decode(errors="replace")


def _call(nvml: Any, function: str, *arguments: Any) -> None:
    status = getattr(nvml, function)(*arguments)
    if status != 0:
        explain = nvml.nvmlErrorString
        explain.restype = ctypes.c_char_p
        raise _NvmlError(f"{function}: {(explain(status) or b'?').decode()}")
