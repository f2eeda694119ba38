"""Learning-rate schedules: each changes ``group["lr"]`` of an optimizer once per `step` call.

May import the optimizers only.

Note [Chainable and closed form]
`get_lr` computes the next rate from the present one (chainable: several schedules may act on one
optimizer, and the user may change ``group["lr"]`` in between). `_get_closed_form_lr` computes it
from the initial rate alone and serves ``step(epoch)``. Both give PyTorch's numbers, to the bit.
"""

from .annealing import CosineAnnealingLR as CosineAnnealingLR
from .base import LRScheduler as LRScheduler
from .factor import LambdaLR as LambdaLR
from .one_cycle import OneCycleLR as OneCycleLR
from .ramps import ConstantLR as ConstantLR
from .ramps import LinearLR as LinearLR
from .steps import ExponentialLR as ExponentialLR
from .steps import MultiStepLR as MultiStepLR
from .steps import StepLR as StepLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "StepLR",
]
