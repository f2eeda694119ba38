"""How ops are applied to tensors: recording, deferring, views. In-place changes: `inplace.py`.

May import: autograd.mode, ops.base, backend, errors. See Note [Pending outputs], Note [Layout]
and Note [Versions] in `tensor.py`.

Note [Views and in-place changes]
A view knows its root tensor (`_base`). Changing a view in place changes the history of the root:
the root's new node is an `AssignView` (in `inplace.py`) that joins its old history with the new
value, and the root's generation counts up. A view whose generation is behind its root's gets a
new history on demand, an `AsStrided` of the root. This is PyTorch's scheme (CopySlices).
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd.mode import mode
from ..backend.arrays import address_of, as_array, device_classes, known, module_of, strided
from ..backend.silence import IGNORED, warnings_of_numpy
from ..dtypes import DIFFERENTIABLE, is_half
from ..errors import GradientError
from ..ops.activation import ReLU
from ..ops.base import Op
from .halves import in_float32


class TensorBase:
    """The fields of a tensor that recording needs; `Tensor` adds the interface."""

    is_leaf_node = True
    shape: Any  # defined by Tensor, like dtype
    dtype: Any
    _array: np.ndarray
    _version: list[int]
    _node: Any = None
    _slot = 0
    _requires_grad = False
    _base: Any = None
    _generation = 0
    _base_generation: int | None = None  # None: not a differentiable view
    _pending: Op | None = None
    _owed: Any = None  # (op, its output, array) while a pending op will still change this tensor
    _exposed = False  # the user holds a NumPy array of this memory

    def _canonical(self) -> np.ndarray:
        raise NotImplementedError

    @staticmethod
    def _new(array: np.ndarray) -> Any:
        raise NotImplementedError

    @staticmethod
    def _new_pending() -> Any:
        raise NotImplementedError


_ONE_NEED = (True,)


class _Pending(threading.local):
    def __init__(self) -> None:
        self.tensors: list[weakref.ref[TensorBase]] = []


_pending = _Pending()


# -- applying ------------------------------------------------------------------------------------
def apply(op: Op, *inputs: Any) -> Any:
    """Run `op` on tensors (and plain values), record it where needed, return the output tensor.

    Ops with several outputs give a tuple of tensors.
    """
    record = False
    arrays = []
    source: Any = None
    for t in inputs:
        if isinstance(t, TensorBase):
            array = t._array
            if array.itemsize == 2 and not op.takes_half and is_half(array.dtype):  # noqa: SIM102
                if not op.takes_half_on_gpu or type(array) is np.ndarray:
                    return in_float32(apply, op, inputs)
            arrays.append(array)
            if t._requires_grad or (t._base is not None and joined(t)):
                record = True
            source = t
        else:
            arrays.append(t)
    record = record and mode.enabled
    if record:
        link(op, inputs)
    before = warnings_of_numpy.set(IGNORED)
    try:
        y = op.forward(*arrays)
    except REFUSALS:
        moved = _on_one_device(op, inputs)
        if moved is None:
            raise
        return apply(op, *moved)
    finally:
        warnings_of_numpy.reset(before)
    if record:
        return _finish(op, y, arrays, inputs, source)
    if op.outputs > 1:
        outs = tuple(source._new(part) for part in y)
        return tuple(map(untracked, outs)) if mode.inference else outs
    return untracked(source._new(y)) if mode.inference else source._new(y)


# What arrays raise that meet one of another device: TypeError from NumPy and CuPy, AttributeError
# where a kernel asks for the other's address, ValueError between two GPUs.
REFUSALS = (TypeError, ValueError, AttributeError)


def _on_one_device(op: Op, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
    from .together import together  # noqa: PLC0415 - it applies ops

    return together(op.op_name, inputs, op) if known() else None


class Untracked(list[int]):
    """The version counter of a tensor made in `inference_mode`: nobody may rely on it."""


def untracked(t: Any) -> Any:
    """Mark the new tensor `t` as made in `inference_mode`."""
    t._version = Untracked((0,))
    return t


def link(op: Op, inputs: tuple[Any, ...]) -> None:
    """Enter `op` into the graph behind the nodes of its inputs."""
    if mode.anomaly is not None:
        mode.anomaly.note(op, inputs)
    if len(inputs) == 1:  # the usual case, without loops
        t = inputs[0]
        node = t._node if t._base is None else node_of(t)
        op.needs = _ONE_NEED
        op.link((t if node is None else node,), (t._slot,))
        return
    needs, parents, slots = [], [], []
    for t in inputs:
        if isinstance(t, TensorBase) and t._requires_grad:
            needs.append(True)
            node = t._node if t._base is None else node_of(t)
            parents.append(t if node is None else node)
            slots.append(t._slot)
        else:
            needs.append(False)
            parents.append(None)
            slots.append(0)
    op.needs = tuple(needs)
    op.link(tuple(parents), tuple(slots))


def _finish(op: Op, y: Any, arrays: list[Any], inputs: Sequence[Any], source: Any) -> Any:
    """Make the output tensors of a recorded op and guard what it saved."""
    if op.outputs > 1:
        outs = tuple(source._new(part) for part in y)
        op.shape = [part._array.shape for part in outs]
        op.dtype = [part._array.dtype for part in outs]
        for slot, part in enumerate(outs):
            if part._array.dtype.kind in DIFFERENTIABLE:
                part._node, part._slot, part._requires_grad = op, slot, True
        _guard(op, arrays, inputs, [(part._array, part._version) for part in outs])
        return outs
    out = source._new(y)
    array = out._array
    if array.dtype.kind in DIFFERENTIABLE:
        out._node, out._requires_grad = op, True
        op.shape, op.dtype = array.shape, array.dtype
        if op.saved:
            _guard(op, arrays, inputs, ((array, out._version),))
    return out


def _guard(op: Op, arrays: list[Any], inputs: Sequence[Any], outs: Any) -> None:
    """Note the versions of saved arrays. `inputs`: the tensors, or their version counters."""
    guards = []
    for position, saved in enumerate(op.saved or ()):
        if type(saved) is not np.ndarray and type(saved) not in device_classes:
            continue
        for index, array in enumerate(arrays):
            if saved is array:
                t = inputs[index]
                version = t._version if isinstance(t, TensorBase) else t
                if type(version) is list:
                    guards.append((version, version[0], position, index, array.shape))
                elif type(version) is Untracked:
                    raise GradientError(
                        f"{op.op_name}: inference tensors cannot be saved for backward; input "
                        f"{index} of shape {array.shape} was made in inference_mode(). clone() it "
                        "outside, or use no_grad() there."
                    )
                break
        else:
            for array, version in outs:
                if saved is array:
                    guards.append((version, version[0], position, -1, array.shape))
    op.guards = tuple(guards)


# -- pending outputs -----------------------------------------------------------------------------
class Deferred:
    """What a pending op needs to run later."""

    __slots__ = ("arrays", "record", "source", "versions")

    def __init__(self, arrays: list[Any], versions: list[Any], source: Any, record: bool) -> None:
        self.arrays, self.versions, self.source, self.record = arrays, versions, source, record

    def run(self, op: Op) -> Any:
        """The output array of `op`."""
        before = warnings_of_numpy.set(IGNORED)
        try:
            return op.forward(*self.arrays)
        except REFUSALS:
            _on_one_device(op, [self.source._new(a) for a in self.arrays if a is not None])
            raise
        finally:
            warnings_of_numpy.reset(before)


def defer(op: Any, *inputs: Any) -> Any:
    """Like `apply`, but leave the output pending so that a following ReLU can be absorbed.

    `op` has an attribute `deferred` and a method `with_relu()`; its arguments were checked.
    """
    record = False
    arrays: list[Any] = []
    versions: list[Any] = []
    source: Any = None
    for t in inputs:
        if isinstance(t, TensorBase):
            if (t._exposed or t._base is not None) and exposed(t):
                return apply(op, *inputs)
            arrays.append(t._array)
            versions.append(t._version)
            if t._requires_grad or (t._base is not None and joined(t)):
                record = True
            source = t
        else:
            arrays.append(t)
            versions.append(None)
    record = record and mode.enabled
    if type(arrays[0]) is not type(source._array):
        _on_one_device(op, inputs)
    out = source._new_pending()
    if mode.inference:
        untracked(out)
    if record:
        link(op, inputs)
        out._node, out._requires_grad = op, True
    op.deferred = Deferred(arrays, versions, source, record)
    out._pending = op
    waiting = _pending.tensors
    if len(waiting) > 64:
        waiting[:] = [r for r in waiting if _is_pending(r())]
    waiting.append(weakref.ref(out))
    return out


def _is_pending(t: TensorBase | None) -> bool:
    return t is not None and t._pending is not None


def compute(t: TensorBase) -> None:
    """Run the op whose output `t` is, and give `t` its memory."""
    op: Any = t._pending
    job: Deferred = op.deferred
    y = job.run(op)
    t._array = y if type(y) is np.ndarray else as_array(y)
    t._pending = None
    op.deferred = None
    if job.record:
        op.shape, op.dtype = t._array.shape, t._array.dtype
        if op.saved:
            _guard(op, job.arrays, job.versions, ((t._array, t._version),))


def compute_all() -> None:
    """Run every pending op of this thread: something is about to change memory, or to look."""
    waiting = _pending.tensors
    if waiting:
        for ref in waiting:
            t = ref()
            if t is not None and t._pending is not None:
                compute(t)
        waiting.clear()


def can_absorb(t: TensorBase) -> bool:
    """Whether `t` is pending and nobody waits for its own value or gradient."""
    op: Any = t._pending
    return op is not None and op.hooks is None and not op.relu


def absorb_relu(t: TensorBase) -> Any:
    """ReLU of a pending tensor by one fused kernel. `t` itself stays pending."""
    op: Any = t._pending
    job: Deferred = op.deferred
    fused = op.with_relu()
    if not (job.record and mode.enabled and t._node is op):
        return job.source._new(job.run(fused))
    fused.needs = op.needs
    fused.link(op.parents, op.slots)
    fused.trace = op.trace
    op.twins = (*op.twins, weakref.ref(fused))
    return _finish(fused, job.run(fused), job.arrays, job.versions, job.source)


def separate(t: TensorBase) -> None:
    """Lead the gradients of ReLUs that absorbed the op of `t` through `t` again.

    Needed where somebody asks for the gradient of `t` after its ReLU was applied.
    """
    twins = t._node.twins if t._node is not None else ()
    for ref in twins:
        fused = ref()
        if fused is not None and fused.saved:
            array = t._array
            fused.__class__ = ReLU  # its result is unchanged; only the way back is another
            fused.parents, fused.slots, fused.needs = (t._node,), (t._slot,), (True,)
            fused.saved = (array,)
            fused.guards = ((t._version, t._version[0], 0, 0, array.shape),)
    if twins:
        t._node.twins = ()


# -- tensors that a pending op will change -------------------------------------------------------
def postpone(out: TensorBase, *tensors: TensorBase) -> None:
    """Note that the op of `out`, if it is pending, will change `tensors` when it runs.

    Whoever reads one of them before that makes it run: see `settle`.
    """
    op = out._pending
    if op is not None and any(exposed(t) for t in tensors):
        compute(out)  # the user looks at the memory itself
    elif op is not None:
        for t in tensors:
            t._owed = (op, weakref.ref(out), t._array)
            del t._array


def settle(t: TensorBase) -> None:
    """Run the op that will change `t`; its observer calls `collect`."""
    op, ref, _ = t._owed
    out = ref()
    if out is not None and out._pending is op:
        compute(out)
    elif op.deferred is not None:
        op.deferred.run(op)  # nobody kept the output
    collect(t)


def collect(t: TensorBase) -> np.ndarray:
    """The array of `t`, to be changed now."""
    if t._owed is not None:
        t._array, t._owed = t._owed[2], None
    return t._array


# -- views ---------------------------------------------------------------------------------------
def view(op: Op, t: TensorBase) -> Any:
    """Apply `op`, whose output shares the memory of `t`."""
    array = t._canonical()
    out = t._new(op.forward(array))
    out._version = t._version
    root = root_of_history(t)
    out._base, out._base_generation = root, root._generation
    if mode.enabled and (t._requires_grad or (t._base is not None and joined(t))):
        link(op, (t,))
        op.shape, op.dtype = out._array.shape, out._array.dtype
        out._node, out._requires_grad = op, True
    return out


def root_of_history(t: TensorBase) -> TensorBase:
    """The tensor whose history a change of `t` concerns. A detached tensor has its own."""
    return t if t._base is None or t._base_generation is None else t._base


def exposed(t: TensorBase | None) -> bool:
    """Whether the user may hold a NumPy array of the memory of `t`."""
    while t is not None:
        if t._exposed:
            array = t._array
            # An array of its own memory that nobody else refers to: the user has let go of it.
            if t._base is not None or array.base is not None or sys.getrefcount(array) > 3:
                return True
            t._exposed = False
        t = t._base
    return False


def node_of(t: TensorBase) -> Any:
    """The node that made `t`, renewed if its root was changed in place since."""
    root = t._base
    if root is None or t._base_generation is None or t._base_generation == root._generation:
        return t._node
    op = AsStrided(place_of(t, root))
    link(op, (root,))
    op.shape, op.dtype = t._array.shape, t._array.dtype
    t._base_generation = root._generation
    t._node, t._slot, t._requires_grad = op, 0, True
    return op


def joined(t: TensorBase) -> bool:
    """Whether the root of the view `t` was changed in place since, and `t` with it.

    If so, the history of `t` is renewed: it may require grad only now.
    """
    if t._base_generation is None or t._base_generation == t._base._generation:
        return False
    node_of(t)
    return True


class Place(NamedTuple):
    """Where the memory of a view lies in that of its root; offset and strides in bytes.

    `dtypes` are those of the view and of the root where one is complex and the other real.
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    root_shape: tuple[int, ...]
    root_strides: tuple[int, ...]
    dtypes: tuple[np.dtype, np.dtype] | None = None

    def memory(self, like: np.ndarray, zeros: bool) -> tuple[np.ndarray, np.ndarray]:
        """New memory laid out as the root's: (the whole of it, the part of the view).

        Args:
            like: gives the dtype, unless `dtypes` does, and the device.
            zeros: whether it holds zeros; else anything.
        """
        xp = module_of(like)
        own, root = self.dtypes or (like.dtype, like.dtype)
        if 0 in self.root_shape:
            return xp.zeros(self.root_shape, root), xp.zeros(self.shape, own)
        steps = zip(self.root_shape, self.root_strides, strict=True)
        count = 1 + sum((n - 1) * step for n, step in steps) // root.itemsize
        buffer = xp.zeros(count, root) if zeros else xp.empty(count, root)
        whole = strided(buffer, self.root_shape, self.root_strides)
        inner = buffer.view(np.uint8)[self.offset :]
        return whole, strided(inner, self.shape, self.strides, own)


def place_of(t: TensorBase, root: TensorBase) -> Place:
    """Where the memory of `t` lies in that of `root`.

    Raises:
        GradientError: elements of the root share memory, or lie in reverse order.
    """
    a, b = t._array, root._array
    if b.size and any(step <= 0 and n > 1 for n, step in zip(b.shape, b.strides, strict=True)):
        raise GradientError(
            "an in-place change of a view of expanded or reversed memory cannot be recorded; "
            "clone() the tensor first"
        )
    offset = address_of(a) - address_of(b)
    mixed = (a.dtype, b.dtype) if a.dtype != b.dtype else None
    return Place(offset, a.shape, a.strides, b.shape, b.strides, mixed)


class AsStrided(Op):
    """A view of its input's memory at a given place."""

    takes_half = True

    def __init__(self, place: Place) -> None:
        self.place = place

    def backward(self, grad: np.ndarray) -> tuple[np.ndarray]:
        place = self.place
        if 0 in place.strides:  # an expanded view: elements share memory, so gradients add up
            repeated = tuple(i for i, step in enumerate(place.strides) if step == 0)
            grad = grad.sum(axis=repeated, keepdims=True)
            place = place._replace(shape=grad.shape)
        whole, part = place.memory(grad, zeros=True)
        if _overlaps(part):  # windows: element by element
            for index in np.ndindex(part.shape):
                part[index] += grad[index]
        else:
            part[...] = grad
        return (whole,)


def _overlaps(array: np.ndarray) -> bool:
    """Whether elements of `array` may share memory, as in sliding windows."""
    reach = 0
    for step, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True)):
        if n > 1 and step <= reach:
            return True
        reach += step * (n - 1)
    return False
