"""``DataParallel``: several devices in one process, of which a CPU is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import OptionError
from ..modules.module import Module


class DataParallel(Module):
    """The module itself, as PyTorch's is where there is no GPU: one device has nothing to share.

    Use `DistributedDataParallel` and ``allgrad run -n N`` for several cores. As in PyTorch, keys of
    `state_dict` begin with ``module.``.

    Args:
        module: called with the arguments of this one.
        device_ids: None, or a list of one device at most.
        output_device, dim: accepted for PyTorch scripts, without meaning.

    Raises:
        OptionError: several devices.

    Example:
        >>> import allgrad.nn as nn
        >>> sorted(nn.DataParallel(nn.Linear(2, 1)).state_dict())
        ['module.bias', 'module.weight']
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        if device_ids is not None and len(device_ids) > 1:
            raise OptionError(
                f"DataParallel: device_ids {list(device_ids)}: there is one device, the CPU; use "
                "DistributedDataParallel and start the script with `allgrad run -n N`"
            )
        self.module = module
        self.dim = dim

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*inputs, **kwargs)
