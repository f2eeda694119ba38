"""Kernels of a CUDA device: cuDNN, cuBLAS or our own where they serve, else the reference on CuPy.

One family of kernels per file; what they share is in `base.py`.
"""

from __future__ import annotations

from .. import half
from .attention import CudaAttention
from .conv import CudaConv
from .dropout import CudaDropout
from .elementwise import CudaElementwise
from .embedding import CudaEmbedding
from .group_norm import CudaGroupNorm
from .layer_norm import CudaLayerNorm
from .linear import CudaLinear
from .norm import CudaNorm
from .optim import CudaOptim
from .pool import CudaPool
from .rnn import CudaRecurrent
from .softmax import CudaSoftmax
from .sums import CudaSums


@half.served
class CudaBackend(
    CudaConv,
    CudaNorm,
    CudaAttention,
    CudaLinear,
    CudaRecurrent,
    CudaElementwise,
    CudaSums,
    CudaPool,
    CudaSoftmax,
    CudaLayerNorm,
    CudaGroupNorm,
    CudaDropout,
    CudaEmbedding,
    CudaOptim,
):
    """The backend protocol on CuPy arrays; one instance per thread and device."""
