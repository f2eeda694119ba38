"""Every kernel of the backend protocol in plain array code: the oracle and the fallback.

Slow and exact: any dtype, any strides, any number of spatial dimensions, empty batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import half
from .activation import ActivationKernels
from .attention import AttentionKernels
from .conv import ConvKernels
from .dropout import DropoutKernels
from .embedding import EmbeddingKernels
from .linear import ElementwiseKernels, LinearKernels
from .norm import NormKernels
from .optim import OptimKernels
from .pool import PoolKernels
from .rnn import RecurrentKernels
from .softmax import SoftmaxKernels


class ReferenceBackend(
    ConvKernels,
    LinearKernels,
    ElementwiseKernels,
    SoftmaxKernels,
    PoolKernels,
    NormKernels,
    RecurrentKernels,
    AttentionKernels,
    ActivationKernels,
    DropoutKernels,
    EmbeddingKernels,
    OptimKernels,
):
    """The backend protocol on an array module.

    Args:
        xp: NumPy, or a module with NumPy's interface such as CuPy.
    """

    name = "reference"

    def __init__(self, xp: Any = np) -> None:
        self.xp = xp


@half.served
class RoundingReference(ReferenceBackend):
    """The reference as a user's backend: it also takes float16 and bfloat16 arrays."""
