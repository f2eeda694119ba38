"""Kernels of the CPU: oneDNN where it serves and is faster, else the reference.

One family of kernels per file; what they share, falling back included, is in `cpu_base.py`.
"""

from __future__ import annotations

from . import half
from .cpu_activation import CpuActivation
from .cpu_attention import CpuAttention
from .cpu_conv import CpuConv
from .cpu_elementwise import CpuElementwise
from .cpu_group_norm import CpuGroupNorm
from .cpu_layer_norm import CpuLayerNorm
from .cpu_linear import CpuLinear
from .cpu_norm import CpuNorm
from .cpu_optim import CpuOptim
from .cpu_pool import CpuPool
from .cpu_rnn import CpuRecurrent


@half.served
class CpuBackend(
    CpuRecurrent,
    CpuAttention,
    CpuActivation,
    CpuConv,
    CpuLinear,
    CpuElementwise,
    CpuPool,
    CpuNorm,
    CpuGroupNorm,
    CpuLayerNorm,
    CpuOptim,
):
    """The backend protocol on NumPy arrays; one instance per thread."""
