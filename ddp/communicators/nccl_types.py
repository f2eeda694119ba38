"""What NCCL calls element types, reductions and errors. Imports `cupy.cuda.nccl`; no policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from cupy.cuda import nccl

from allgrad.ddp.communicators.base import BITWISE, Array, Communicator, ReduceOp, check_reduction
from allgrad.errors import DtypeError

_TYPES: dict[str, int] = {
    "int8": nccl.NCCL_INT8,
    "uint8": nccl.NCCL_UINT8,
    "int32": nccl.NCCL_INT32,
    "uint32": nccl.NCCL_UINT32,
    "int64": nccl.NCCL_INT64,
    "uint64": nccl.NCCL_UINT64,
    "float16": nccl.NCCL_FLOAT16,
    "float32": nccl.NCCL_FLOAT32,
    "float64": nccl.NCCL_FLOAT64,
    "bfloat16": nccl.NCCL_BFLOAT16,
}
_OPS: dict[ReduceOp, int] = {
    ReduceOp.SUM: nccl.NCCL_SUM,
    ReduceOp.AVG: nccl.NCCL_AVG,
    ReduceOp.PRODUCT: nccl.NCCL_PROD,
    ReduceOp.MIN: nccl.NCCL_MIN,
    ReduceOp.MAX: nccl.NCCL_MAX,
}
BYTES: int = nccl.NCCL_UINT8

# The table of CuPy's NcclError ends at 6: for later codes its constructor raises KeyError.
_LATER_ERRORS = {7: "an operation is still in progress", 8: "the connection timed out"}


def reduction(
    communicator: Communicator, what: str, array: Array, op: ReduceOp | str
) -> tuple[int, int, int]:
    """(elements, NCCL's type, NCCL's reduction) of an array.

    Truth values are reduced as bytes: their sum is "any" and their product "all", as in NumPy.
    Complex numbers are reduced as pairs, which is right for sums and means.

    Raises:
        DtypeError: NCCL cannot reduce that type, or not this way; says what to do.
    """
    parsed = check_reduction(communicator, array, op)
    if parsed in BITWISE:
        raise DtypeError(
            f"{communicator.where} {what}: NCCL has no reduction {parsed.value!r}; use min, max or "
            "sum, or an array of main memory (tensor.cpu())"
        )
    name = array.dtype.name
    if name == "bool":
        any_of = parsed in (ReduceOp.SUM, ReduceOp.MAX)
        return array.size, BYTES, nccl.NCCL_MAX if any_of else nccl.NCCL_MIN
    if array.dtype.kind == "c" and parsed in (ReduceOp.SUM, ReduceOp.AVG):
        half = np.dtype(f"f{array.itemsize // 2}").name
        return 2 * array.size, _TYPES[half], _OPS[parsed]
    if name not in _TYPES:
        raise DtypeError(
            f"{communicator.where} {what}: NCCL cannot reduce {array.dtype} by {parsed.value!r}; "
            f"it knows {', '.join(_TYPES)}. Cast the tensor, or reduce it in main memory "
            "(tensor.cpu())"
        )
    return array.size, _TYPES[name], _OPS[parsed]


def explained(error: BaseException) -> str | None:
    """The words of an error that CuPy's binding of NCCL raised; None if it is another's."""
    if isinstance(error, nccl.NcclError):
        return str(error)
    if isinstance(error, KeyError) and error.args and error.args[0] in _LATER_ERRORS:
        code = error.args[0]
        return f"NCCL error {code}: {_LATER_ERRORS[code]}"
    return None


def words(kind: str, array: Array, op: ReduceOp | str | None = None) -> str:
    """A collective in words, as reports show it: "GPU all_reduce of 8 bytes (float32, avg)"."""
    how = "" if op is None else f" ({array.dtype.name}, {ReduceOp.parse(op).value})"
    return f"GPU {kind} of {array.nbytes} bytes{how}"


def pointer(array: Any) -> int:
    """The address of an array's first element."""
    return int(array.data.ptr)
