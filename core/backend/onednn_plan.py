"""Plans: oneDNN primitives prepared once for fixed shapes and run many times on new pointers.

Stage: between `onednn.py` (names and prototypes) and `cpu.py` (policy).

Note [Plans]: creating a primitive takes 10 to 1000 µs, running one through ctypes about 1 µs.
A plan therefore holds everything that does not change between calls of one kernel on one shape:
primitives, memory objects, argument arrays. `run(*arrays)` writes the data pointers that changed
and executes. Intermediate buffers (reordered weights, oneDNN's scratchpads) live in one `Scratch`
buffer that all plans of a thread share: they are needed only while one kernel runs, and
sharing keeps them in cache. Nothing here may be used by two threads.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import onednn
from .layout import (
    channels_last_strides,
    copy_channels_last,
    element_strides,
    is_plain,
    same_memory_order,
)

QUERY_NUM_INPUTS, QUERY_IMPL_NAME = 3, 8
QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_WORKSPACE, QUERY_SCRATCHPAD = 131, 132, 135, 136
ARG_SRC, ARG_SRC_1, ARG_DST, ARG_WEIGHTS, ARG_BIAS = 1, 2, 17, 33, 41
ARG_MEAN, ARG_VARIANCE, ARG_SCALE, ARG_SHIFT = 49, 50, 51, 52
ARG_WORKSPACE, ARG_SCRATCHPAD = 64, 80
ARG_DIFF_SRC, ARG_DIFF_DST, ARG_DIFF_WEIGHTS, ARG_DIFF_BIAS = 129, 145, 161, 169
ARG_DIFF_SCALE, ARG_DIFF_SHIFT = 255, 256
ARG_SCALES = 4096  # | argument: the number that scales this argument
ARG_POST_OP, ARG_POST_OP_2 = 32768 | ARG_SRC_1, 65536 | ARG_SRC_1  # operand of a binary post-op
BINARY_ADD, BINARY_MUL, BINARY_MAX, BINARY_DIV = 0x1FFF0, 0x1FFF1, 0x1FFF2, 0x1FFF4
BINARY_GT, BINARY_LT = 0x1FFF7, 0x1FFF9

PostOp = tuple[Any, ...]
Copy = Callable[[np.ndarray], np.ndarray]

_ALIGNMENT = 64
_DATA_OFFSET = object.__basicsize__  # PyArrayObject: object head, then `char *data`
_read = ctypes.c_ssize_t.from_address


def _address_by_interface(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _address_by_struct(array: np.ndarray) -> int:
    return _read(id(array) + _DATA_OFFSET).value


def _choose_address() -> Callable[[np.ndarray], int]:
    # The struct read costs 0.1 µs, the interface 1 µs. NumPy has kept `data` first since 1.0 (it
    # is in the public header); should that ever change, this check falls back to the interface.
    samples = [np.empty(n, np.float32)[n // 2 :] for n in (2, 1000, 1 << 20)]
    same = all(_address_by_struct(a) == _address_by_interface(a) for a in samples)
    return _address_by_struct if same else _address_by_interface


address = _choose_address()


def aligned_empty(nbytes: int) -> np.ndarray:
    """Uninitialised bytes that begin at a cache line."""
    buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
    skipped = -address(buffer) % _ALIGNMENT
    return buffer[skipped : skipped + nbytes]


class Scratch:
    """One growing 64-byte aligned buffer for intermediates; shared by all plans of a thread."""

    def __init__(self) -> None:
        self.base = 0
        self.nbytes = 0
        self._buffer: np.ndarray | None = None

    def reserve(self, nbytes: int) -> None:
        """Make at least `nbytes` available; may move `base`, contents are lost."""
        if nbytes > self.nbytes:
            self._buffer = None  # free first: the contents are not needed
            self._buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
            self.base = -(-address(self._buffer) // _ALIGNMENT) * _ALIGNMENT
            self.nbytes = nbytes


class Plan:
    """Primitives to execute in order, with their memory objects and argument arrays.

    Build with the descriptor and call methods, then `seal()`; afterwards only `run` and `close`.
    External memories are filled by the arrays given to `run`, in the order of their creation.

    Args:
        engine: whose primitives these are.
        scratch: where intermediates go.
        element: type of the elements, `onednn.F32` or `onednn.BF16`; only `vector` and `constant`
            are float32 in any plan.
    """

    def __init__(self, engine: onednn.Engine, scratch: Scratch, element: int = onednn.F32) -> None:
        self.engine, self.library, self.scratch = engine, engine.library, scratch
        self.element = element
        self.stream: int = engine.stream or 0
        self._set_handle = self.library.set_data_handle
        self._execute = self.library.execute
        self.calls: list[tuple[int, int, int, Any]] = []
        self.copied: list[tuple[int, Copy]] = []  # arrays that run() must first make dense
        self.implementations: list[str] = []
        self.meta: Any = None  # whatever the kernel wants to remember with the plan
        self._externals: list[int] = []
        self._pointers: list[int] = []
        self._regions: list[tuple[int, int]] = []
        self._scratch_nbytes = 0
        self._base = -1
        self._primitives: dict[int, tuple[int, int]] = {}
        self._parts: dict[int, list[tuple[int, int]]] = {}
        self._constants: list[np.ndarray] = []
        self._temporaries: list[tuple[Any, int]] = []
        self._owned: list[tuple[Any, int]] = []

    # ---- descriptors: freed by seal()

    def _temporary(self, destroy: str, function: str, *arguments: Any) -> int:
        handle = self.engine.new(function, *arguments)
        self._temporaries.append((getattr(self.library, destroy), handle))
        return handle

    def strided(self, shape: Sequence[int], strides: Sequence[int]) -> int:
        """Descriptor of an array of the plan's elements; `strides` in elements."""
        return self._strided(shape, strides, self.element)

    def _strided(self, shape: Sequence[int], strides: Sequence[int], element: int) -> int:
        return self._temporary(
            "memory_desc_destroy", "memory_desc_create_with_strides",
            len(shape), onednn.dims(shape), element, onednn.dims(strides),
        )  # fmt: skip

    def vector(self, count: int) -> int:
        """Descriptor of `count` float32 numbers: statistics, and scales of channels."""
        return self.dense((count,), onednn.F32)

    def dense(self, shape: Sequence[int], element: int | None = None) -> int:
        """Descriptor of a C-contiguous array, of the plan's elements unless told otherwise."""
        steps = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            steps[axis] = steps[axis + 1] * shape[axis + 1]
        return self._strided(shape, steps, element or self.element)

    def channels_last(self, shape: Sequence[int]) -> int:
        """Descriptor of a dense channels-last array of logical `shape` (N, C, *spatial)."""
        return self.strided(shape, channels_last_strides(tuple(shape)))

    def any(self, shape: Sequence[int]) -> int:
        """Descriptor that lets the primitive choose the layout."""
        return self._temporary(
            "memory_desc_destroy", "memory_desc_create_with_tag",
            len(shape), onednn.dims(shape), self.element, onednn.TAG_ANY,
        )  # fmt: skip

    def attributes(self, *post_ops: PostOp, scaled: Sequence[int] = ()) -> int:
        """Primitive attributes; the scratchpad always comes from the shared buffer.

        Args:
            post_ops: applied in order to the result: ("sum", factor) adds factor * old result,
                ("eltwise", algorithm) maps it, ("binary", algorithm, descriptor) combines it with
                the memory bound to `ARG_POST_OP` (first in the chain) or `ARG_POST_OP_2` (second).
            scaled: arguments that are multiplied by a number bound to `ARG_SCALES | argument`.
        """
        lib = self.library
        attr = self._temporary("primitive_attr_destroy", "primitive_attr_create")
        lib.primitive_attr_set_scratchpad_mode(attr, onednn.SCRATCHPAD_USER)
        for argument in scaled:
            lib.primitive_attr_set_scales_mask(attr, argument, 0)
        if post_ops:
            chain = self._temporary("post_ops_destroy", "post_ops_create")
            for kind, *details in post_ops:
                if kind == "sum":
                    lib.post_ops_append_sum(chain, details[0], 0, 0)
                elif kind == "eltwise":
                    lib.post_ops_append_eltwise(chain, details[0], 0.0, 0.0)
                else:
                    lib.post_ops_append_binary(chain, *details)
            lib.primitive_attr_set_post_ops(attr, chain)
        return attr

    def describe(self, kind: str, *arguments: Any, prefer: str | None = None) -> int:
        """Primitive descriptor of `kind`, for example "convolution_forward".

        Args:
            prefer: take the first implementation whose name begins so, if there is one.
        """
        function = f"{kind}_primitive_desc_create"
        cpu = self.engine.engine
        default = self._temporary("primitive_desc_destroy", function, cpu, *arguments)
        if prefer is None or self.implementation(default).startswith(prefer):
            return default
        other = self._temporary("primitive_desc_destroy", function, cpu, *arguments)
        # Not every step changes the name: oneDNN lists one implementation once per variant.
        while self.library.next_implementation(other) == 0:
            if self.implementation(other).startswith(prefer):
                return other
        return default

    def implementation(self, descriptor: int) -> str:
        """Name of the implementation that a primitive descriptor stands for."""
        name = ctypes.c_char_p()
        self.library.primitive_desc_query(descriptor, QUERY_IMPL_NAME, 0, ctypes.byref(name))
        return (name.value or b"").decode()

    def input_count(self, descriptor: int) -> int:
        """How many input arguments a primitive expects."""
        count = ctypes.c_int()
        what = QUERY_NUM_INPUTS
        self.library.primitive_desc_query(descriptor, what, 0, ctypes.byref(count))
        return count.value

    def query(self, descriptor: int, what: int) -> int:
        """Borrowed memory descriptor that a primitive descriptor chose."""
        found = self.library.primitive_desc_query_md(descriptor, what, 0)
        if not found:
            raise RuntimeError(f"oneDNN: query {what} of a primitive descriptor failed")
        return int(found)

    def nbytes(self, memory_descriptor: int) -> int:
        """Bytes that an array with this descriptor occupies (0: not needed)."""
        return int(self.library.memory_desc_get_size(memory_descriptor))

    # ---- memories

    def _memory(self, descriptor: int) -> int:
        handle = self.engine.new("memory_create", descriptor, self.engine.engine, None)
        self._owned.append((self.library.memory_destroy, handle))
        return handle

    def external(self, descriptor: int) -> int:
        """Memory whose pointer comes from the next array given to `run`."""
        handle = self._memory(descriptor)
        self._externals.append(handle)
        self._pointers.append(0)
        return handle

    def internal(self, descriptor: int) -> int:
        """Memory in the shared scratch buffer, valid during one `run`."""
        handle = self._memory(descriptor)
        self._regions.append((handle, self._scratch_nbytes))
        self._scratch_nbytes += -(-self.nbytes(descriptor) // _ALIGNMENT) * _ALIGNMENT
        return handle

    def part(self, memory: int, descriptor: int, offset_bytes: int) -> int:
        """Another memory, of `descriptor`, that begins inside an external or internal one."""
        handle = self._memory(descriptor)
        if memory in self._externals:
            index = self._externals.index(memory)
            self._parts.setdefault(index, []).append((handle, offset_bytes))
        else:
            start = next(at for region, at in self._regions if region == memory)
            self._regions.append((handle, start + offset_bytes))
        return handle

    def alias(self, memory: int, descriptor: int) -> int:
        """Another view, of `descriptor`, of an external or internal memory."""
        return self.part(memory, descriptor, 0)

    def packed_constant(self, array: np.ndarray, wanted: int) -> int:
        """Memory that always holds `array`, reordered now into layout `wanted`."""
        packed = np.empty(self.nbytes(wanted), np.uint8)
        packing = Plan(self.engine, self.scratch)
        given = packing.dense(array.shape)
        packing.reorder(given, packing.external(given), wanted, packing.external(wanted))
        packing.seal().run(array, packed)
        handle = self._memory(wanted)
        self._hold(handle, packed)
        return handle

    def constant(self, array: np.ndarray) -> int:
        """Memory that always holds the dense float32 `array`, which the plan keeps alive."""
        handle = self._memory(self.dense(array.shape, onednn.F32))
        self._hold(handle, array)
        return handle

    def _hold(self, handle: int, array: np.ndarray) -> None:
        self._constants.append(array)
        if status := self._set_handle(handle, address(array)):
            raise onednn.status_error(status, "memory_set_data_handle")

    def numbers(self, count: int) -> list[int]:
        """Memories of one number each, whose values the caller writes to `plan.meta[i]`."""
        self.meta = np.zeros(count, np.float32)
        return [self.constant(self.meta[index : index + 1]) for index in range(count)]

    def input(self, array: np.ndarray, wanted: int) -> int:
        """External memory for `array` as the primitive wants it, converting where it differs.

        Views that oneDNN cannot describe are copied by NumPy in `run`, others are reordered.
        """
        shape, size = array.shape, array.itemsize
        if array.flags.c_contiguous:
            return self.converted(self.dense(shape), wanted)
        if is_plain(shape, array.strides, size):
            steps = element_strides(shape, array.strides, size)
            return self.converted(self.strided(shape, steps), wanted)
        self.copied.append((len(self._externals), np.ascontiguousarray))
        return self.converted(self.dense(shape), wanted)

    def activation(self, array: np.ndarray) -> tuple[int, int]:
        """Descriptor and memory of a channels-last input (N, C, *spatial)."""
        wanted = self.channels_last(array.shape)
        steps = channels_last_strides(array.shape, array.itemsize)
        if same_memory_order(array.shape, array.strides, steps):
            return wanted, self.external(wanted)
        if not is_plain(array.shape, array.strides, array.itemsize):
            self.copied.append((len(self._externals), copy_channels_last))
            return wanted, self.external(wanted)
        return wanted, self.input(array, wanted)

    def converted(self, given: int, wanted: int) -> int:
        """External memory `given`, reordered into `wanted` at run time if they differ."""
        source = self.external(given)
        if self.library.memory_desc_equal(given, wanted):
            return source
        target = self.internal(wanted)
        self.reorder(given, source, wanted, target)
        return target

    def output(self, array: np.ndarray, given: int) -> tuple[int, Callable[[], None]]:
        """Memory that a primitive fills in layout `given`, and what brings it into `array`.

        Returns:
            The memory for the primitive, and a function to call after the primitive was appended.
        """
        shape, size = array.shape, array.itemsize
        if array.flags.c_contiguous:
            wanted = self.dense(shape)
        elif is_plain(shape, array.strides, size):
            wanted = self.strided(shape, element_strides(shape, array.strides, size))
        else:
            raise onednn.Unsupported(f"output array with strides {array.strides}")
        target = self.external(wanted)
        if self.library.memory_desc_equal(wanted, given):
            return target, lambda: None
        source = self.internal(given)
        return source, lambda: self.reorder(given, source, wanted, target)

    # ---- calls

    def reorder(self, given: int, source: int, wanted: int, target: int) -> None:
        """Append a copy from one layout to another."""
        cpu = self.engine.engine
        descriptor = self._temporary(
            "primitive_desc_destroy", "reorder_primitive_desc_create",
            given, cpu, wanted, cpu, self.attributes(),
        )  # fmt: skip
        self.call(descriptor, {ARG_SRC: source, ARG_DST: target})

    def call(self, descriptor: int, arguments: Mapping[int, int]) -> None:
        """Append a primitive; its scratchpad is added to the arguments."""
        primitive, scratchpad = self._primitives.get(descriptor) or self._create(descriptor)
        bound = dict(arguments)
        if scratchpad:
            bound[ARG_SCRATCHPAD] = scratchpad
        array = (onednn.ExecArg * len(bound))(*[onednn.ExecArg(k, m) for k, m in bound.items()])
        self.calls.append((primitive, self.stream, len(bound), array))

    def _create(self, descriptor: int) -> tuple[int, int]:
        """The primitive of a descriptor and its scratchpad memory (0: needs none)."""
        name = self.implementation(descriptor)
        if name.startswith("ref"):
            raise onednn.Unsupported("oneDNN has only its unoptimised implementation")
        self.implementations.append(name)
        primitive = self.engine.new("primitive_create", descriptor)
        self._owned.append((self.library.primitive_destroy, primitive))
        needed = self.query(descriptor, QUERY_SCRATCHPAD)
        scratchpad = self.internal(needed) if self.nbytes(needed) else 0
        self._primitives[descriptor] = primitive, scratchpad
        return primitive, scratchpad

    def relu(self, descriptor: int, source: int, target: int) -> None:
        """Append target = max(source, 0), where NaN stays NaN; both have the same layout.

        oneDNN's own ReLU turns NaN into 0, which would hide a diverged training. Its "max" returns
        the second operand when one is NaN: so compute 0 as (x < x) and then max(0, x), in one pass.
        """
        attributes = self.attributes(("binary", BINARY_MAX, descriptor))
        kind = self.describe("binary", BINARY_LT, descriptor, descriptor, descriptor, attributes)
        operands = {ARG_SRC: source, ARG_SRC_1: source, ARG_POST_OP: source}
        self.call(kind, {**operands, ARG_DST: target})

    def seal(self) -> Plan:
        """Finish building: free the descriptors."""
        self._free(self._temporaries)
        self._primitives.clear()  # keyed by descriptors, which are gone
        return self

    def run(self, *arrays: np.ndarray) -> None:
        """Execute on `arrays`, one per external memory, in the order these were created."""
        if self._base != self.scratch.base:
            self._bind_scratch()
        if self.copied:
            arrays = self._copies(arrays)
        pointers, index = self._pointers, 0
        for array in arrays:
            pointer = address(array)
            if pointer != pointers[index]:
                if status := self._set_handle(self._externals[index], pointer):
                    raise onednn.status_error(status, "memory_set_data_handle")
                pointers[index] = pointer
                if self._parts:
                    self._move_parts(index, pointer)
            index += 1  # noqa: SIM113 - enumerate would cost as much as reading the pointer
        execute = self._execute
        for primitive, stream, count, bound in self.calls:
            if status := execute(primitive, stream, count, bound):
                raise onednn.status_error(status, "primitive_execute")

    def run_at(self, pointers: Sequence[int]) -> None:
        """Execute on addresses instead of arrays; the caller keeps the memory alive and dense."""
        if self._base != self.scratch.base:
            self._bind_scratch()
        last = self._pointers
        for index, pointer in enumerate(pointers):
            if pointer != last[index]:
                if status := self._set_handle(self._externals[index], pointer):
                    raise onednn.status_error(status, "memory_set_data_handle")
                last[index] = pointer
        for primitive, stream, count, bound in self.calls:
            if status := self._execute(primitive, stream, count, bound):
                raise onednn.status_error(status, "primitive_execute")

    def _move_parts(self, index: int, pointer: int) -> None:
        for handle, offset in self._parts.get(index, ()):
            if status := self._set_handle(handle, pointer + offset):
                raise onednn.status_error(status, "memory_set_data_handle")

    def _bind_scratch(self) -> None:
        self.scratch.reserve(self._scratch_nbytes)
        for handle, offset in self._regions:
            if self._set_handle(handle, self.scratch.base + offset):
                raise RuntimeError("oneDNN: memory_set_data_handle failed for the scratch buffer")
        self._base = self.scratch.base

    def _copies(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        given = list(arrays)
        for index, copy in self.copied:
            given[index] = copy(given[index])
        return tuple(given)

    def _free(self, handles: list[tuple[Any, int]]) -> None:
        while handles:
            destroy, handle = handles.pop()
            destroy(handle)

    def close(self) -> None:
        """Free all handles; the plan cannot run afterwards."""
        self.calls.clear()
        self._free(self._temporaries)
        self._free(self._owned)

    def __del__(self) -> None:
        self.close()


class PlanCache:
    """The most recently used plans of one thread; the oldest is freed when full."""

    def __init__(self, capacity: int = 1024) -> None:
        self.capacity = capacity
        self._plans: OrderedDict[Any, Plan] = OrderedDict()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Any) -> Plan | None:
        """The plan of `key`, or None; marks it as used."""
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def add(self, key: Any, plan: Plan) -> Plan:
        """Seal and keep `plan`; frees the least recently used one when over capacity."""
        self._plans[key] = plan.seal()
        if len(self._plans) > self.capacity:
            self._plans.popitem(last=False)[1].close()
        return plan

    def clear(self) -> None:
        """Free all plans."""
        while self._plans:
            self._plans.popitem()[1].close()
