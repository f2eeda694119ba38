"""DLPack: tensors that lend their memory to other libraries, without a copy.

NumPy makes and reads the capsules, CuPy those of GPUs. NumPy knows no bfloat16, so such an array
passes as uint16 and the type in the capsule's header is corrected.

May import: graph. The other way is `utils/dlpack.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import index_of, on_device
from ..errors import GradientError
from .graph import TensorBase

_CPU, _CUDA = 1, 2


class DlpackMethods(TensorBase):
    """Methods of Tensor that other libraries call to share its memory."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule with this tensor's memory.

        Args:
            stream: None or -1: main memory has no streams. For a GPU, the stream on which the
                caller works: it waits for ours.
            max_version: the newest DLPack version that the caller reads.
            dl_device: where the caller wants the memory; only where it is is served.
            copy: True for a copy, otherwise the memory is shared.

        Raises:
            BufferError: the tensor requires grad, has negative strides, or is wanted elsewhere.
        """
        if self.requires_grad:  # type: ignore[attr-defined]
            raise BufferError(
                "__dlpack__: this tensor requires grad, so changes by others would go unnoticed. "
                "Use tensor.detach()."
            )
        if on_device(self._array):
            array: Any = self._canonical()
            options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
            return array.__dlpack__(stream=stream, **options)
        if stream not in (None, -1):
            raise AssertionError(f"__dlpack__: expected no stream on the CPU, came {stream!r}")
        if dl_device is not None and tuple(dl_device) != (_CPU, 0):
            raise BufferError(f"__dlpack__: the memory is on device (1, 0), not {dl_device}")
        array = self._array.copy(order="C") if copy else self.numpy()  # type: ignore[attr-defined]
        if any(step < 0 for step in array.strides):
            raise BufferError(
                f"__dlpack__: strides {array.strides} are negative, which other libraries do not "
                "take. Use tensor.contiguous()."
            )
        if array.dtype.kind != "V":
            return array.__dlpack__(max_version=max_version)
        from .dlpack_header import BFLOAT, header  # noqa: PLC0415 - needs ctypes

        capsule = array.view(np.uint16).__dlpack__(max_version=max_version)
        header(capsule)[0].code = BFLOAT
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        """Main memory, or which GPU, in DLPack's numbers."""
        index = index_of(self._array)
        return (_CPU, 0) if index is None else (_CUDA, index)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Where the elements lie on the GPU, for Numba, CuPy and others.

        Raises:
            AttributeError: the tensor is not on a GPU.
            RuntimeError: it requires grad, so changes by others would go unnoticed.
        """
        if not on_device(self._array):
            raise AttributeError(
                "Can't get __cuda_array_interface__ on a tensor of the CPU. Use tensor.cuda()"
            )
        if self.requires_grad:  # type: ignore[attr-defined]
            raise GradientError(
                "Can't get __cuda_array_interface__ on a tensor that requires grad. Use "
                "tensor.detach()"
            )
        found: dict[str, Any] = self._canonical().__cuda_array_interface__  # type: ignore[attr-defined]
        return found
