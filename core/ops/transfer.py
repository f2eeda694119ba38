"""Moving values between devices."""

from __future__ import annotations

from .. import devices
from ..backend import Array
from .base import Op
from .elementwise import Grads


class Move(Op):
    """The same values on another device; the gradient goes back to where they came from.

    Args:
        target: the device.
        non_blocking: whether a copy from pinned memory may still run when forward returns.
    """

    takes_half = True
    fresh_grads = True

    def __init__(self, target: devices.device, non_blocking: bool = False) -> None:
        self.target, self.non_blocking = target, non_blocking

    def forward(self, x: Array) -> Array:
        self.source = devices.of(x)
        return devices.moved(x, self.target, self.non_blocking)

    def backward(self, grad: Array) -> Grads:
        return (devices.moved(grad, self.source),)
