"""The GPUs of ranks: which one a rank takes, and what `init_process_group` asks about NCCL.

Stage of the flow: beside `process_group`. May import: `communicators.gpu`, `allgrad`. Imports CuPy
only when a GPU is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from allgrad import Tensor, cuda, devices
from allgrad.backend.cuda import availability
from allgrad.ddp.communicators import gpu
from allgrad.ddp.communicators.base import Communicator
from allgrad.errors import DistributedError, OptionError
from allgrad.nn import Module


def check_backend(asked: str | None) -> None:
    """Refuse "nccl" where this rank has no GPU, before it waits for others.

    Raises:
        DistributedError: there is none, or no NCCL; says why.
    """
    if asked != "nccl":
        return
    problem = nccl_problem()
    if problem:
        raise DistributedError(
            f"backend 'nccl' moves tensors of GPUs by NCCL: {problem}. For tensors of the CPU use "
            "init_process_group('gloo'), or leave backend out"
        )


def nccl_problem() -> str:
    """Why this process cannot use NCCL, one sentence without a full stop; "" if it can."""
    reason = availability.why_not()
    if reason is not None:
        return reason
    from allgrad.ddp.communicators import gpu_base  # noqa: PLC0415 - needs CuPy

    return gpu_base.nccl_version()[1]


def prefer_own(local_rank: Callable[[], int | None] | None, device_id: Any = None) -> None:
    """Let this rank use the GPU of its number on its host, or the one that is named.

    Args:
        local_rank: asked when a GPU is first used, in the thread that uses it; None: the first GPU
            for everybody again.
        device_id: a GPU, as `cuda.set_device` takes it.
    """
    if local_rank is None:
        availability.prefer(None)
        return
    number = local_rank
    availability.prefer(lambda visible: gpu.index_of(number(), visible))
    if device_id is not None and devices.device(device_id).type == "cuda":
        cuda.set_device(device_id)


def connect(control: Communicator) -> None:
    """Collective. Connect the ranks' GPUs now, not when the first array comes."""
    control.gpu_part = gpu.open_part(control)


def device_of_wrapped(
    module: Module, device_ids: Sequence[Any] | None, output_device: Any
) -> devices.device | None:
    """The device that a wrapper's arguments name, which is where its module must lie.

    Args:
        module: to be wrapped.
        device_ids: one GPU, or None.
        output_device: None, or the same.

    Returns:
        Where the wrapper moves the arguments of forward to; None: nowhere.

    Raises:
        OptionError: several GPUs, or another one than the module's.
    """
    if not device_ids and output_device is None:
        return None
    given = list(device_ids or [])
    named = [*given, *([] if output_device is None else [output_device])]
    wanted = {devices.indexed(devices.device(one)) for one in named}
    places = {devices.of(p._array) for p in module.parameters()}
    if len(given) > 1 or wanted != places:
        there = ", ".join(sorted(map(str, places)))
        raise OptionError(
            f"device_ids={device_ids!r}, output_device={output_device!r}: expected the one GPU "
            f"that the module lies on, and it lies on {there}. Leave both out, or move the module "
            "before: module.to(device)"
        )
    return next(iter(places))


def moved(value: Any, device: devices.device) -> Any:
    """Tensors in tuples, lists and dicts on a device; other things as they are."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)({key: moved(item, device) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    return value
