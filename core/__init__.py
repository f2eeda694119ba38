"""allgrad: all ranks, one gradient.

A PyTorch-style autograd engine for one rank; `allgrad.ddp` joins many ranks, `allgrad.launch`
starts them. Importing this package needs NumPy alone: MPI, CuPy and plotting are imported by the
parts that use them.

>>> import allgrad as ag
>>> x = ag.tensor([1.0, 2.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import autograd, dtypes, errors, random
from .autograd import (
    enable_grad,
    inference_mode,
    is_anomaly_check_nan_enabled,
    is_anomaly_enabled,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .devices import device, get_default_device, set_default_device
from .dtypes import (
    bfloat16,
    complex64,
    complex128,
    dtype,
    finfo,
    float16,
    float32,
    float64,
    get_default_dtype,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    set_default_dtype,
    uint8,
)
from .dtypes import bool_ as bool  # noqa: A004 - PyTorch's spelling
from .dtypes import float16 as half
from .dtypes import float32 as float  # noqa: A004 - PyTorch's spelling
from .dtypes import float64 as double
from .dtypes import int16 as short
from .dtypes import int32 as int  # noqa: A004 - PyTorch's spelling
from .dtypes import int64 as long
from .random import Generator, initial_seed, manual_seed, seed
from .tensors import Parameter, Size, Tensor, is_tensor
from .tensors.arithmetic import *  # noqa: F403 - the module lists its names in __all__
from .tensors.axes import *  # noqa: F403 - the module lists its names in __all__
from .tensors.complex_numbers import *  # noqa: F403 - the module lists its names in __all__
from .tensors.conversion import *  # noqa: F403 - the module lists its names in __all__
from .tensors.creation import *  # noqa: F403 - the module lists its names in __all__
from .tensors.distinct import *  # noqa: F403 - the module lists its names in __all__
from .tensors.draws import *  # noqa: F403 - the module lists its names in __all__
from .tensors.einsum import *  # noqa: F403 - the module lists its names in __all__
from .tensors.formatting import *  # noqa: F403 - the module lists its names in __all__
from .tensors.indexing import *  # noqa: F403 - the module lists its names in __all__
from .tensors.joining import *  # noqa: F403 - the module lists its names in __all__
from .tensors.layouts import *  # noqa: F403 - the module lists its names in __all__
from .tensors.legacy import *  # noqa: F403 - the module lists its names in __all__
from .tensors.logic import *  # noqa: F403 - the module lists its names in __all__
from .tensors.masking import *  # noqa: F403 - the module lists its names in __all__
from .tensors.matrices import *  # noqa: F403 - the module lists its names in __all__
from .tensors.moving import *  # noqa: F403 - the module lists its names in __all__
from .tensors.mutating import *  # noqa: F403 - the module lists its names in __all__
from .tensors.pairs import *  # noqa: F403 - the module lists its names in __all__
from .tensors.products import *  # noqa: F403 - the module lists its names in __all__
from .tensors.ranges import *  # noqa: F403 - the module lists its names in __all__
from .tensors.reductions import *  # noqa: F403 - the module lists its names in __all__
from .tensors.sampling import *  # noqa: F403 - the module lists its names in __all__
from .tensors.scans import *  # noqa: F403 - the module lists its names in __all__
from .tensors.scatter import *  # noqa: F403 - the module lists its names in __all__
from .tensors.shaping import *  # noqa: F403 - the module lists its names in __all__
from .tensors.sorting import *  # noqa: F403 - the module lists its names in __all__
from .tensors.splitting import *  # noqa: F403 - the module lists its names in __all__
from .tensors.statistics import *  # noqa: F403 - the module lists its names in __all__
from .tensors.unary import *  # noqa: F403 - the module lists its names in __all__
from .tensors.windows import *  # noqa: F403 - the module lists its names in __all__

__version__ = "0.1.0"

# Imported on first use, so that `import allgrad` stays as quick as NumPy's import.
_LAZY = (
    "amp",
    "backend",
    "backends",
    "checkpoint",
    "cuda",
    "ddp",
    "distributed",
    "func",
    "launch",
    "linalg",
    "multiprocessing",
    "nn",
    "onnx",
    "optim",
    "kernel_counts",
    "timeline",
    "utils",
    "vision",
)
_LAZY_FUNCTIONS = {
    "cdist": "tensors.distances",
    "corrcoef": "tensors.distances",
    "cov": "tensors.distances",
    "from_dlpack": "utils.dlpack",
    "GradScaler": "amp",
    "autocast": "amp",
    "clear_autocast_cache": "amp",
    "get_autocast_cpu_dtype": "amp",
    "get_autocast_dtype": "amp",
    "get_float32_matmul_precision": "backends.precision",
    "get_num_threads": "backend.onednn",
    "is_autocast_cache_enabled": "amp",
    "is_autocast_cpu_enabled": "amp",
    "is_autocast_enabled": "amp",
    "load": "serialization",
    "save": "serialization",
    "set_autocast_cache_enabled": "amp",
    "set_autocast_dtype": "amp",
    "set_float32_matmul_precision": "backends.precision",
    "set_num_threads": "backend.onednn",
}
# Functions that PyTorch has at the top, too, with the same parameters.
_FUNCTIONAL = """
    adaptive_avg_pool1d avg_pool1d bilinear celu celu_ channel_shuffle conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d cosine_similarity group_norm hardshrink
    layer_norm max_pool1d max_pool2d max_pool3d pairwise_distance pdist pixel_shuffle
    pixel_unshuffle prelu rms_norm rrelu rrelu_ selu selu_ threshold threshold_
""".split()
_LAZY_FUNCTIONS |= dict.fromkeys(_FUNCTIONAL, "nn.functional")

if TYPE_CHECKING:
    from . import amp, kernel_counts, nn, optim, timeline, utils, vision


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
