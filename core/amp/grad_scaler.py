"""Loss scaling: small gradients survive float16, and steps with infinite ones are skipped.

The stage between ``backward`` and ``optimizer.step``. May import: tensors, errors.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..backend import arrays
from ..backend.cuda import availability
from ..errors import ArgumentError, GradientError, OptionError, Unsupported
from ..tensors import Tensor

_READY, _UNSCALED, _STEPPED = "ready", "unscaled", "stepped"


class GradScaler:
    """Scales the loss so that gradients do not vanish in float16, and adapts the scale.

    ``scale(loss).backward()``, then ``step(optimizer)``, which divides the gradients by the scale
    and skips the step if one is infinite or NaN, then ``update()``. Call ``unscale_(optimizer)``
    first to look at the gradients or to clip them. bfloat16 has float32's range and needs none
    of this.

    On a GPU the scale and what was found stay in device memory: nothing waits for the GPU, and
    kernels of our own (SGD, Adam, AdamW, RMSprop, Adagrad, LARS, LAMB) skip the step by
    themselves. `step` then leaves gradients scaled that `unscale_` did not see, as PyTorch's fused
    optimizers do. For other optimizers `step` waits to learn whether to skip.

    Args:
        device: where the loss is: "cuda", which is the default where a GPU can be used, or "cpu",
            the default elsewhere. Devices that cannot be used here switch it off, with a warning.
        init_scale: the first scale.
        growth_factor: the scale is multiplied by it after `growth_interval` good steps in a row.
        backoff_factor: the scale is multiplied by it after a skipped step.
        growth_interval: see `growth_factor`.
        enabled: False: `scale` and `unscale_` do nothing, `step` always steps.

    Raises:
        AssertionError: growth_factor <= 1, or backoff_factor >= 1 (as in PyTorch).

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(
        self,
        device: str | None = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device is None:
            device = "cpu" if availability.why_not() is not None else "cuda"
        if enabled and not _usable(device):
            warnings.warn(
                f"GradScaler: {device!r} is not available here, so it is switched off. Use "
                "device='cpu'",
                UserWarning,
                stacklevel=2,
            )
            enabled = False
        self._enabled, self._device = bool(enabled), device
        if enabled:
            _check_factors(growth_factor, backoff_factor)
        self._scale, self._growth_tracker = float(init_scale), 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        # optimizer -> (stage of this iteration, whether infinite gradients were found)
        self._optimizers: dict[Any, tuple[str, bool]] = {}
        self._there: Any = None  # the scale in device memory, once a loss on a GPU was scaled
        self._slots: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def _on_device(self, array: Any) -> Any:
        """The scale in device memory for an array of a GPU; None for main memory."""
        if self._device == "cpu" or not arrays.on_device(array):
            return None
        if self._there is None:
            from ..backend.cuda.grads import LossScale  # noqa: PLC0415 - needs CuPy

            index = int(array.device.id)
            self._there = LossScale(index, self._scale, self._growth_tracker)
        return self._there

    def _slot(self, optimizer: Any) -> Any:
        """Where the optimizer notes on the device what it met."""
        return self._there.slot(self._slots.setdefault(optimizer, len(self._slots)))

    def scale(self, outputs: Any) -> Any:
        """`outputs`, a tensor or nested sequences of tensors, multiplied by the scale.

        Raises:
            ValueError: something else.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            there = self._on_device(outputs._array)
            if there is not None:
                return outputs * Tensor(there.scale[0])
            return outputs * Tensor(np.asarray(self.get_scale(), np.float32))  # float16 widens
        if isinstance(outputs, Iterable):
            scaled = map(self.scale, outputs)
            return type(outputs)(scaled) if isinstance(outputs, list | tuple) else scaled
        raise ArgumentError(
            f"GradScaler.scale: expected a tensor or tensors, came {type(outputs).__name__}"
        )

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place.

        Raises:
            RuntimeError: it was done already in this iteration, or the step was made.
            ValueError: gradients of float16 parameters, in which the quotient would vanish.
        """
        if not self._enabled:
            return
        stage = self._stage(optimizer)
        if stage == _UNSCALED:
            raise GradientError(
                "unscale_() has already been called on this optimizer since the last update()."
            )
        if stage == _STEPPED:
            raise GradientError("unscale_() is being called after step().")
        self._optimizers[optimizer] = (_UNSCALED, self._unscale(optimizer))

    def _stage(self, optimizer: Any) -> str:
        return self._optimizers.get(optimizer, (_READY, False))[0]

    def _unscale(self, optimizer: Any) -> bool:
        """Do it; returns whether a gradient is infinite or NaN."""
        grads = _grads(optimizer)
        if any(g._array.dtype == np.float16 for g in grads):
            raise OptionError(
                "Attempting to unscale FP16 gradients. Keep the parameters in float32 and use "
                "autocast for the forward pass."
            )
        if self._unscale_there(optimizer, grads, True):
            return False
        inverse, found = 1.0 / self.get_scale(), False
        for grad in grads:
            array = grad._array
            with np.errstate(over="ignore", invalid="ignore"):
                total = array.sum(dtype=np.float32)
            # a sum of finite elements may overflow: only then look at them all
            found = found or not (np.isfinite(total) or np.isfinite(array).all())
            np.multiply(array, array.dtype.type(inverse), out=array)
            grad._bump_version()
        # one that keeps gradients of its own part only hears of the other parts
        agree = getattr(optimizer, "agree_on_overflow", None)
        found = found if agree is None else bool(agree(found))
        if found and self._there is not None:
            self._slot(optimizer).fill(1)
        return found

    def _unscale_there(self, optimizer: Any, grads: list[Tensor], writes: bool) -> bool:
        """Look at gradients on a GPU, and with `writes` unscale them; False if it cannot.

        What was found is noted there, and nobody waits for it.
        """
        there = self._on_device(grads[0]._array) if grads else None
        if there is None or hasattr(optimizer, "agree_on_overflow"):
            return False
        listed = [g._array for g in grads]
        if any(arrays.index_of(a) != there.index for a in listed):
            return False
        try:
            there.unscale(listed, self._slot(optimizer), writes)
        except Unsupported:
            return False
        for grad in grads if writes else ():
            grad._bump_version()
        return True

    def _step_there(self, optimizer: Any) -> Any:
        """What the optimizer is to read on the device: (found, scale or None); None: nothing."""
        takes = getattr(optimizer, "takes_loss_scale", None)
        grads = _grads(optimizer)
        if takes is None or not grads or self._on_device(grads[0]._array) is None:
            return None
        if any(g._array.dtype == np.float16 for g in grads) or not takes():
            return None
        if self._stage(optimizer) == _UNSCALED:
            return self._slot(optimizer), None
        if self._unscale_there(optimizer, grads, False):
            return self._slot(optimizer), self._there.scale
        return None

    def _skips(self, optimizer: Any) -> bool:
        """Whether a gradient was not finite; waits for the GPU where that is known there."""
        if self._optimizers[optimizer][1]:
            return True
        return self._there is not None and bool(self._slot(optimizer)[0])

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients, unless that was done, and step if all of them are finite.

        Returns:
            What ``optimizer.step(*args, **kwargs)`` returned; None if it was skipped.

        Raises:
            RuntimeError: a second step before `update`, or a closure.
            AssertionError: none of the parameters has a gradient.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or (args and callable(args[0])):
            raise GradientError("Closure use is not currently supported if GradScaler is enabled.")
        if self._stage(optimizer) == _STEPPED:
            raise GradientError("step() has already been called since the last update().")
        assert _grads(optimizer), (
            "No inf checks were recorded for this optimizer: none of its parameters has a gradient."
        )
        read_there = self._step_there(optimizer)
        if read_there is not None:
            self._optimizers[optimizer] = (_STEPPED, False)
            optimizer.loss_scale = read_there
            try:
                return optimizer.step(*args, **kwargs)
            finally:
                optimizer.loss_scale = None
        if self._stage(optimizer) == _READY:
            self.unscale_(optimizer)
        found = self._skips(optimizer)
        result = None if found else optimizer.step(*args, **kwargs)
        self._optimizers[optimizer] = (_STEPPED, found)
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale, once per iteration, after the steps of all optimizers.

        Args:
            new_scale: the scale from now on, instead.

        Raises:
            AssertionError: neither `step` nor `unscale_` came before.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
            if self._there is not None:
                self._there.set(self._scale)
        elif self._there is not None:
            assert self._optimizers, "No inf checks were recorded prior to update."
            self._there.update(self._growth_factor, self._backoff_factor, self._growth_interval)
        else:
            assert self._optimizers, "No inf checks were recorded prior to update."
            self._adapt(any(found for _, found in self._optimizers.values()))
        self._optimizers.clear()

    def _adapt(self, found: bool) -> None:
        if found:
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = self._scale * self._growth_factor
            if grown <= float(np.finfo(np.float32).max):
                self._scale = grown
            self._growth_tracker = 0

    def get_scale(self) -> float:
        """The scale; 1 if switched off. Waits for a GPU that keeps it."""
        if self._there is not None:
            self._scale = float(self._there.scale[0])
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """By what the scale grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set by what the scale grows."""
        _check_factors(new_factor, self._backoff_factor)
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after a skipped step."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after a skipped step."""
        _check_factors(self._growth_factor, new_factor)
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many good steps the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many good steps the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether it is switched on."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and counter, under PyTorch's names; empty if switched off."""
        if not self._enabled:
            return {}
        if self._there is not None:
            self._growth_tracker = int(self._there.tracker[0])
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            RuntimeError: an empty dict, from a scaler that was switched off.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise GradientError(
                "GradScaler.load_state_dict: the state is empty, it was saved by a scaler with "
                "enabled=False"
            )
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = int(state_dict["_growth_tracker"])
        if self._there is not None:
            self._there.set(self._scale, self._growth_tracker)


def _usable(device: str) -> bool:
    """Whether losses can be on a device of this kind here."""
    return device == "cpu" or (device == "cuda" and availability.why_not() is None)


def _grads(optimizer: Any) -> list[Tensor]:
    """The gradients of its parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.grad for p in params if p.grad is not None]


def _check_factors(growth: float, backoff: float) -> None:
    if not growth > 1.0:
        raise AssertionError(f"The growth factor must be > 1.0, came {growth}")
    if not backoff < 1.0:
        raise AssertionError(f"The backoff factor must be < 1.0, came {backoff}")
