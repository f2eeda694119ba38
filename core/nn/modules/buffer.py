"""Buffer: a tensor that a module registers as part of its state when it is assigned."""

from __future__ import annotations

from ...tensors import Tensor


class Buffer(Tensor):
    """A tensor that is part of a module's state but no parameter.

    Args:
        data: the values; the memory is shared.
        persistent: whether it belongs to the state_dict.

    >>> import allgrad as ag
    >>> from allgrad import nn
    >>> m = nn.Module()
    >>> m.steps = nn.Buffer(ag.zeros(1))
    >>> list(m.state_dict())
    ['steps']
    """

    persistent = True

    def __init__(self, data: Tensor, *, persistent: bool = True) -> None:
        super().__init__(data._canonical(), data.requires_grad)
        self.persistent = persistent
