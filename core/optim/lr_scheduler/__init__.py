"""Learning-rate schedules: each changes ``group["lr"]`` of an optimizer once per `step` call.

May import the optimizers only.

Note [Chainable and closed form]
`get_lr` computes the next rate from the present one (chainable: several schedules may act on one
optimizer, and the user may change ``group["lr"]`` in between). `_get_closed_form_lr` computes it
from the initial rate alone and serves ``step(epoch)``. Both give PyTorch's numbers, to the bit.
"""

from .annealing import CosineAnnealingLR as CosineAnnealingLR
from .annealing import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from .base import LRScheduler as LRScheduler
from .combined import ChainedScheduler as ChainedScheduler
from .combined import SequentialLR as SequentialLR
from .cyclic import CyclicLR as CyclicLR
from .factor import LambdaLR as LambdaLR
from .factor import MultiplicativeLR as MultiplicativeLR
from .one_cycle import OneCycleLR as OneCycleLR
from .plateau import ReduceLROnPlateau as ReduceLROnPlateau
from .ramps import ConstantLR as ConstantLR
from .ramps import LinearLR as LinearLR
from .ramps import PolynomialLR as PolynomialLR
from .steps import ExponentialLR as ExponentialLR
from .steps import MultiStepLR as MultiStepLR
from .steps import StepLR as StepLR

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
