"""`DistributedDataParallel`: the same model on every rank, gradients averaged during backward.

Stage of the flow: the face of ddp. May import: everything below it in ddp, and `allgrad`.
"""

from __future__ import annotations

import hashlib
import pickle
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Communicator, aligned_zeros
from allgrad.ddp.gate import Gate
from allgrad.ddp.hook_reduction import CommHook, HookReduction
from allgrad.ddp.plan import BUCKET_CAP_BYTES, aligned
from allgrad.ddp.process_group import ProcessGroup, default_group
from allgrad.ddp.reducer import Options, Reducer
from allgrad.ddp.timing import CommunicationTimer
from allgrad.errors import DistributedError, OptionError
from allgrad.nn import Module
from allgrad.tensors import graph

_UNUSED = ("report", "error", "ignore")

# One entry per parameter or buffer: (name, shape, dtype, requires_grad).
_Description = list[tuple[str, tuple[int, ...], str, bool]]


class DistributedDataParallel(Module):
    """Wraps a module so that its gradients are averaged over the ranks, while backward runs.

    On construction the ranks compare their models, then take parameters and buffers of rank 0.
    Gradients lie in buckets that are reduced as soon as they are full; when ``backward()`` returns,
    every ``param.grad`` holds the same bits on all ranks: the mean of the ranks' gradients. A loss
    that is a mean over the local batch therefore gives the gradient of the mean over all
    batches, if the ranks' batches are of one size. Buffers follow rank 0, see Note [When
    buffers follow].

    With one rank, nothing is installed: forward calls the module, backward is the module's own.

    Differences to PyTorch: `state_dict` and `load_state_dict` are the wrapped module's own (no
    ``module.`` prefix), so a checkpoint fits the module with and without the wrapper; a parameter
    without gradient is an error of the same backward, on all ranks, with names; `no_sync` acts
    on the backward calls inside it, wherever their forward ran; ``gradient_as_bucket_view``
    defaults to True. Parameters added, or thawed, after construction are not reduced.

    Args:
        module: the local model; its trainable parameters must be the same on all ranks.
        device_ids: None; modules live on the CPU.
        output_device: None.
        dim: accepted for PyTorch scripts, without meaning.
        broadcast_buffers: whether buffers follow rank 0.
        init_sync: whether to take parameters and buffers of rank 0 at construction.
        process_group: default: the group of `init_process_group`.
        bucket_cap_mb: MiB of gradients per bucket; the first bucket has 1 MiB at most.
        find_unused_parameters: let a parameter without gradient on some rank count as zero
        there; if
            no rank has one, its grad stays as it is.
        check_reduction: accepted for PyTorch scripts, without meaning.
        gradient_as_bucket_view: ``param.grad`` lies in the bucket (no copy); else it is copied.
        static_graph: accepted for PyTorch scripts; allows unused parameters, as there.

    Raises:
        DistributedError: no process group; no parameter requires grad; ranks hold different models
            (names the first difference and its ranks); already wrapped.
        OptionError: device_ids or output_device given, or bucket_cap_mb not above 0.

    Example:
        >>> import allgrad.nn as nn
        >>> from allgrad import ddp
        >>> ddp.init_process_group()
        >>> model = ddp.DistributedDataParallel(nn.Linear(4, 2))
        >>> sorted(model.state_dict())
        ['bias', 'weight']
        >>> ddp.destroy_process_group()
    """

    def __init__(
        self,
        module: Module,
        device_ids: list[int] | None = None,
        output_device: int | None = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: ProcessGroup | None = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = False,
        *,
        unused_parameters: str = "report",
    ) -> None:
        super().__init__()
        if device_ids or output_device is not None:
            raise OptionError(
                f"device_ids={device_ids!r}, output_device={output_device!r}: modules live on the "
                "CPU, leave both out"
            )
        if bucket_cap_mb is not None and not bucket_cap_mb >= 0:
            raise OptionError(f"bucket_cap_mb={bucket_cap_mb!r}: expected a number, 0 or above")
        if unused_parameters not in _UNUSED:
            raise OptionError.unknown("unused_parameters", unused_parameters, _UNUSED)
        if find_unused_parameters and unused_parameters == "report":
            unused_parameters = "ignore"
        self.module = module
        self.process_group = process_group if process_group is not None else default_group()
        self._reducer: Reducer | None = None
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        _check_trainable(self.process_group, trainable)
        if self.process_group.size == 1:
            return
        self.process_group.meet()
        communicator = self.process_group.communicator
        _check_same_model(communicator, module)
        if init_sync:
            _take_from_root(communicator, module)
        buffers = None
        if broadcast_buffers and BufferSync.count(module):
            buffers = BufferSync(communicator, module)
        cap = BUCKET_CAP_BYTES if bucket_cap_mb is None else int(bucket_cap_mb * (1 << 20))
        self._reducer = Reducer(
            Gate.of(self.process_group),
            type(module).__name__,
            [name for name, _ in trainable],
            [p for _, p in trainable],
            Options(
                as_view=gradient_as_bucket_view,
                cap_bytes=cap,
                unused=unused_parameters,
            ),
            buffers,
        )
        # the hooks must not outlive the wrapper: the module may be wrapped again, or used alone
        weakref.finalize(self, self._reducer.close).atexit = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module; no communication."""
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let backward calls inside accumulate on each rank alone.

        The next backward outside reduces the sum. All ranks must do this for the same steps.
        """
        reducer = self._reducer
        if reducer is None:
            yield
            return
        before, reducer.synchronise = reducer.synchronise, False
        try:
            yield
        finally:
            reducer.synchronise = before

    def register_comm_hook(self, state: object, hook: CommHook) -> None:
        """Let ``hook(state, bucket)`` average the gradients from now on; once per wrapper.

        Args:
            state: handed to the hook as it is.
            hook: takes a `GradBucket`, returns a `Future` of the mean over the ranks, with as
                many elements as ``bucket.buffer()``. All ranks call it for the same buckets in
                the same order. Where ranks count differently (see `weighted_mean`), gradients
                are scaled before, so that the plain mean is right.

        Raises:
            DistributedError: a hook is registered already.
            TypeError: `hook` cannot be called.
        """
        if not callable(hook):
            raise TypeError(f"register_comm_hook: expected a function, came {type(hook).__name__}")
        reducer = self._reducer
        if reducer is None:
            return
        if isinstance(reducer.reduction, HookReduction):
            raise DistributedError(
                f"{self.process_group.where} register_comm_hook was called before; one hook "
                "per model"
            )
        reducer.reduction = HookReduction(self.process_group.communicator, state, hook)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's state, without a prefix."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the wrapped module's state; keys may carry PyTorch's ``module.`` prefix."""
        if state_dict and all(key.startswith("module.") for key in state_dict):
            own = self.module.state_dict()
            if not any(key in own for key in state_dict):
                state_dict = {k.removeprefix("module."): v for k, v in state_dict.items()}
        return self.module.load_state_dict(state_dict, *args, **kwargs)

    def communication_report(self, reset: bool = False) -> dict[str, float | int]:
        """How long communication took on this rank and how much of it backward hid.

        Args:
            reset: start the sums anew afterwards.

        Returns:
            steps (synchronised backward runs), bytes_per_step, communication_s (at least one bucket
            under way), exposed_s (of backward's end, waiting or reducing, with no gradient left to
            compute), in_backward_s (reducing on this core during backward), hidden_share (1 -
            exposed / communication), buckets, collectives. All 0 with one rank.
        """
        timer = CommunicationTimer() if self._reducer is None else self._reducer.timer
        report = timer.report()
        if reset:
            timer.reset()
        return report


def _check_trainable(group: ProcessGroup, trainable: Sequence[tuple[str, Tensor]]) -> None:
    if not trainable:
        raise DistributedError(
            f"{group.where} DistributedDataParallel is not needed: no parameter of the module "
            "requires grad"
        )
    for name, param in trainable:
        if param._grad_buffer is not None:
            raise DistributedError(
                f"{group.where} parameter {name!r} belongs to a DistributedDataParallel already; "
                "wrap the module once"
            )


def _describe(module: Module) -> _Description:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tuple(t.shape), t.dtype.name, t.requires_grad) for name, t in named]


def _check_same_model(communicator: Communicator, module: Module) -> None:
    """Compare digests first; only if they differ send the descriptions, to name the difference."""
    mine = _describe(module)
    digest = np.frombuffer(hashlib.sha256(pickle.dumps(mine, protocol=5)).digest(), np.uint8)
    digests = communicator.all_gather(digest)
    if (digests == digests[0]).all():
        return
    descriptions = communicator.all_gather_object(mine)
    longest = max(len(d) for d in descriptions)
    for position in range(longest):
        entries = [d[position] if position < len(d) else None for d in descriptions]
        if any(entry != entries[0] for entry in entries):
            break
    groups: dict[Any, list[int]] = {}
    for rank, entry in enumerate(entries):
        groups.setdefault(entry, []).append(rank)
    told = "; ".join(f"rank {', '.join(map(str, r))}: {_entry_text(e)}" for e, r in groups.items())
    raise DistributedError(
        f"{communicator.where} ranks hold different models; first difference, at parameter or "
        f"buffer {position}: {told}. Build the same module on every rank"
    )


def _entry_text(entry: tuple[str, tuple[int, ...], str, bool] | None) -> str:
    if entry is None:
        return "none, the model ends before it"
    name, shape, dtype, requires_grad = entry
    return f"{name!r} of shape {shape}, {dtype}, requires_grad={requires_grad}"


def _take_from_root(communicator: Communicator, module: Module) -> None:
    """Broadcast parameters and buffers of rank 0 in one piece."""
    graph.compute_all()
    tensors = [*module.parameters(), *module.buffers()]
    flat = aligned_zeros(sum(aligned(t._array.nbytes) for t in tensors))
    start = 0
    places = []
    for tensor in tensors:
        array = tensor._canonical()
        view = flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        places.append((tensor, array, view))
        start += aligned(array.nbytes)
    communicator.broadcast(flat, 0)
    if communicator.rank != 0:
        for tensor, array, view in places:
            array[...] = view
            tensor._bump_version()
