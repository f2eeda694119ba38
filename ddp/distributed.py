"""`DistributedDataParallel`: the same model on every rank, gradients averaged during backward.

Stage of the flow: the face of ddp. May import: everything below it in ddp, and `allgrad`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from allgrad import Tensor
from allgrad.autograd import is_grad_enabled
from allgrad.backend import arrays
from allgrad.backend.threads import pin_threads
from allgrad.ddp import gpus
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.gate import Gate
from allgrad.ddp.hook_marks import do_replicas_differ
from allgrad.ddp.hook_reduction import CommHook, HookReduction
from allgrad.ddp.logging_data import logging_data
from allgrad.ddp.model_check import Watch, check_same_model, take_from
from allgrad.ddp.options import CHECK_EVERY, Options
from allgrad.ddp.overlap_choice import AUTO
from allgrad.ddp.plan import default_cap
from allgrad.ddp.process_group import ProcessGroup, default_group
from allgrad.ddp.reducer import Reducer
from allgrad.ddp.reduction import Reduction
from allgrad.ddp.shards import LogicalShards, ShardBuffers, check_logical
from allgrad.ddp.timing import CommunicationTimer
from allgrad.ddp.tracing.layers import timed_forward
from allgrad.errors import DistributedError, OptionError
from allgrad.nn import Module
from allgrad.timeline import active

_UNUSED = ("report", "error", "ignore")
_BUFFERS = ("broadcast", "average", "none")
_OVERLAPS = (AUTO, True, False)


class DistributedDataParallel(Module):
    """Wraps a module so that its gradients are averaged over the ranks, while backward runs.

    On construction the ranks compare their models, then take parameters and buffers of rank 0.
    Gradients lie in buckets that are reduced as soon as they are full; when ``backward()`` returns,
    every ``param.grad`` holds the same bits on all ranks: the mean of the ranks' gradients,
    weighted by their samples. A loss that is a mean over the local batch therefore gives the
    gradient of the mean over all batches together, of whatever sizes. Samples are counted in
    forward: the first dimension of the first tensor among its arguments.

    With one rank, nothing is installed: forward calls the module, backward is the module's own.

    What may differ between ranks: the sizes of batches (see above); which parameters take part in
    the loss (one without gradient counts as zero there; without gradient on any rank, its grad
    stays as it is; this is reported once); the number of batches, if they come from a `DataLoader`
    (a rank without serves the others' steps and takes over their state, see `join`). What must
    not differ is an error on all ranks, by name: the model, the parameters that require grad, the
    calls of backward and of `no_sync`.

    Parameters that are added or thawed later are noticed in the next forward in training mode, and
    buckets are cut for them in the backward after it; frozen ones keep their place. Averaged
    gradients have no graph: for gradients of gradients use ``autograd.grad(...,
    create_graph=True)``, which averages nothing, then ``backward()``.

    Differences to PyTorch: `state_dict` and `load_state_dict` are the wrapped module's own (no
    ``module.`` prefix), so a checkpoint fits the module with and without the wrapper; `no_sync`
    acts on the backward calls inside it, wherever their forward ran; ``gradient_as_bucket_view``
    defaults to True; buffers follow at the end of backward, see Note [When buffers follow].

    Args:
        module: the local model; it must be the same on all ranks.
        device_ids: None, or the one GPU that the module lies on; then the arguments of forward are
            moved there.
        output_device: None, or the same.
        dim: the dimension in which samples are counted, for `weighted_mean`.
        broadcast_buffers: False leaves buffers to each rank.
        init_sync: whether to take parameters and buffers of rank 0 at construction.
        process_group: default: the group of `init_process_group`.
        bucket_cap_mb: MiB of gradients per bucket; the first bucket has 1 MiB at most; 0 gives
            every parameter a bucket of its own. Default: 25, and over a link a twentieth of the
            model, 1/16 at least.
        find_unused_parameters: True silences the report of unused parameters.
        check_reduction: accepted for PyTorch scripts, without meaning.
        gradient_as_bucket_view: ``param.grad`` lies in the bucket (no copy); else it is copied.
        static_graph: promise that every step uses the same parameters; breaking it is an error.
        delay_all_reduce_named_params: (name, parameter) pairs to reduce after all others.
        param_to_hook_all_reduce: accepted with the former, as in PyTorch; all others come first.
        unused_parameters: "report" them once (a warning of the logger "allgrad.ddp"), "ignore"
            them, or take them for an "error".
        weighted_mean: False lets all ranks count the same, as PyTorch does.
        logical_shards: reproducible mode: steps are cut into so many shards (at least as many as
            ranks), and the bits do not depend on the number of ranks. Every rank runs its shards
            one after the other, see `shards`.
        threads_per_shard: of the kernels in reproducible mode, whatever the environment says.
        buffer_sync: "broadcast" (the values of the lowest rank that steps, the default), "average"
            (the weighted mean of floating-point buffers) or "none".
        check_replicas_every: every so many steps the ranks compare digests of their parameters; if
            they differ, all ranks raise with the first parameter, the ranks, by how much, and the
            likely cause. 0: never. It travels with the step header and costs no collective.
        overlap: whether gradients travel while backward computes (True) or all after it (False);
            the bits are the same. "auto" overlaps, but between hosts tries both in steps 5 to 16,
            and stays with what the slowest rank found faster, see Note [When overlapping loses].

    Raises:
        DistributedError: no process group; no parameter requires grad; ranks hold different models
            or options (names the first difference and its ranks); already wrapped.
        OptionError: an argument that is not allowed; the message lists what is.

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
        delay_all_reduce_named_params: Sequence[tuple[str, Tensor]] | None = None,
        param_to_hook_all_reduce: Tensor | None = None,
        *,
        unused_parameters: str = "report",
        weighted_mean: bool = True,
        buffer_sync: str | None = None,
        logical_shards: int | None = None,
        threads_per_shard: int = 1,
        check_replicas_every: int = CHECK_EVERY,
        overlap: bool | str = AUTO,
    ) -> None:
        super().__init__()
        self.device = gpus.device_of_wrapped(module, device_ids, output_device)
        if bucket_cap_mb is not None and not bucket_cap_mb >= 0:
            raise OptionError(f"bucket_cap_mb={bucket_cap_mb!r}: expected a number, 0 or above")
        if unused_parameters not in _UNUSED:
            raise OptionError.unknown("unused_parameters", unused_parameters, _UNUSED)
        if buffer_sync is not None and buffer_sync not in _BUFFERS:
            raise OptionError.unknown("buffer_sync", buffer_sync, _BUFFERS)
        if (delay_all_reduce_named_params is None) != (param_to_hook_all_reduce is None):
            raise OptionError(
                "delay_all_reduce_named_params and param_to_hook_all_reduce: give both or none"
            )
        if find_unused_parameters and unused_parameters == "report":
            unused_parameters = "ignore"
        if not check_replicas_every >= 0:
            raise OptionError(
                f"check_replicas_every={check_replicas_every!r}: expected a number of steps, or 0"
            )
        if overlap not in _OVERLAPS:
            raise OptionError.unknown("overlap", overlap, _OVERLAPS)
        self.module = module
        self.process_group = process_group if process_group is not None else default_group()
        self._dim = dim
        self._reducer: Reducer | None = None
        self.logical: LogicalShards | None = None
        watch = Watch(module)
        _check_trainable(self.process_group, watch.trainable)
        total = sum(p._array.nbytes for _, p in watch.trainable)
        has_wire = self.process_group.communicator.has_wire
        on_gpu = any(arrays.on_device(p._array) for _, p in watch.trainable)
        cap = default_cap(total, has_wire and not on_gpu)
        if bucket_cap_mb is not None:
            cap = int(bucket_cap_mb * (1 << 20))
        self._options = options = Options(
            as_view=gradient_as_bucket_view,
            cap_bytes=cap,
            unused=unused_parameters,
            weighted=weighted_mean,
            static=static_graph,
            delayed=tuple(name for name, _ in delay_all_reduce_named_params or ()),
            buffers=buffer_sync or ("broadcast" if broadcast_buffers else "none"),
            logical_shards=logical_shards,
            threads_per_shard=threads_per_shard,
            check_every=check_replicas_every,
            overlap=overlap if overlap != AUTO or (has_wire and not on_gpu) else True,
        )
        if self.process_group.size == 1 and logical_shards is None:
            return
        if logical_shards is not None:
            check_logical(self.process_group.communicator, module, options)
            pin_threads(threads_per_shard)
        self._connect(options, init_sync, watch)

    def _connect(self, options: Options, init_sync: bool, watch: Watch) -> None:
        """Collective. Compare and take over the model, then install the hooks."""
        module, communicator = self.module, self.process_group.communicator
        self.process_group.meet()
        check_same_model(communicator, module, options)
        if init_sync:
            take_from(communicator, module)
        buffers = None
        if options.buffers != "none" and BufferSync.count(module):
            if options.logical_shards is None:
                buffers = BufferSync(communicator, module, options.buffers == "average")
            else:
                buffers = ShardBuffers(communicator, module)
        gate = Gate.of(self.process_group)
        self._watch = watch
        self._reducer = Reducer(gate, module, watch.trainable, options, buffers)
        # the hooks must not outlive the wrapper: the module may be wrapped again, or used alone
        weakref.finalize(self, self._reducer.retire).atexit = False
        if options.logical_shards is not None:
            self.logical = LogicalShards(communicator, self._reducer, options, self._dim)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module.

        There is no communication, except in training mode where a `DataLoader` has ended since the
        last step: there all ranks meet, so that the new epoch begins with the same bits.
        """
        reducer = self._reducer
        if self.device is not None:
            args, kwargs = gpus.moved((args, kwargs), self.device)
        if reducer is not None and is_grad_enabled():
            if self.training:
                self._enter_step(reducer)
            reducer.samples.add((args, kwargs), self._dim, self.training)
        timeline = active()
        if timeline is not None:
            return timed_forward(self._forward, self.module, timeline, args, kwargs)
        return self._forward(*args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.logical is not None and self.training and is_grad_enabled():
            with self.logical.plain():
                return self.module(*args, **kwargs)
        return self.module(*args, **kwargs)

    def _enter_step(self, reducer: Reducer) -> None:
        """Before what may be the first forward of a step."""
        reducer.gate.enter_forward()
        if self._watch.changed():
            reducer.adopt(self._watch.trainable)

    def shards(self, *batch: Any) -> Iterator[Any]:
        """Cut this rank's batch into its logical shards; forward and backward go inside the loop.

        Without `logical_shards` the batch is yielded as it is, once, so that one script serves
        both. Where every rank owns exactly one shard, a loop without `shards` works as well.

        Args:
            batch: tensors or arrays with the samples in dimension `dim`; tuples, lists and dicts
                of them; sequences of texts or numbers. Other things are handed on as they are.

        Yields:
            The arguments, cut; of one argument alone, it itself.

        Raises:
            DistributedError: inside `no_sync`; a shard ran backward never or twice; a loop over
                shards was left early.
            ShapeError: fewer samples than shards.

        Example:
            >>> import allgrad as ag
            >>> from allgrad import ddp, nn
            >>> ddp.init_process_group()
            >>> model = ddp.DistributedDataParallel(nn.Linear(4, 2), logical_shards=2)
            >>> for x, y in model.shards(ag.ones(6, 4), ag.zeros(6, 2)):
            ...     nn.functional.mse_loss(model(x), y).backward()
            >>> x.shape, model.logical.step
            (torch.Size([3, 4]), 1)
            >>> ddp.destroy_process_group()
        """
        logical, reducer = self.logical, self._reducer
        if logical is None or reducer is None:
            yield batch[0] if len(batch) == 1 else batch
            return
        logical.check_outside()
        self._enter_step(reducer)
        yield from logical.run(batch)

    def count_samples(self, count: int) -> None:
        """Let this rank's next synchronised backward count as so many samples, whatever was seen.

        For models whose samples do not lie in one dimension, or losses that are means over
        something else, such as tokens. All ranks must call it for the same steps.
        """
        self._refuse_with_shards("count_samples", "shards count by the samples they hold")
        if self._reducer is not None:
            self._reducer.samples.given = count

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let backward calls inside accumulate on each rank alone.

        The next backward outside reduces the sum. All ranks must do this for the same backward
        calls; if they do not, the next synchronised backward is an error on all ranks.
        """
        self._refuse_with_shards(
            "no_sync", "every step is reduced; gradients of several steps add up until zero_grad()"
        )
        reducer = self._reducer
        if reducer is None:
            yield
            return
        before, reducer.synchronise = reducer.synchronise, False
        try:
            yield
        finally:
            reducer.synchronise = before

    @contextmanager
    def join(
        self,
        divide_by_initial_world_size: bool | None = None,
        enable: bool = True,
        throw_on_early_termination: bool = False,
    ) -> Iterator[None]:
        """Put around a training loop in which ranks may have different numbers of batches.

        Loops over a `DataLoader` need no context: a rank whose loader has ended serves the others'
        steps wherever it next meets them, see Note [Join] in ``ddp/join.py``. This is for data from
        elsewhere, and for the options.

        Args:
            divide_by_initial_world_size: while ranks are absent, divide the sum of gradients by
                the number of all ranks (True, PyTorch's default) or of those that step (False).
                Default: by samples, as ever.
            enable: False makes this context do nothing.
            throw_on_early_termination: raise DistributedError on all ranks as soon as one rank has
                come to the end.
        """
        reducer = self._reducer
        if reducer is None or not enable:
            yield
            return
        gate = reducer.gate
        before = gate.throwing, reducer.divide_by_initial
        gate.throwing = gate.throwing or throw_on_early_termination
        reducer.divide_by_initial = divide_by_initial_world_size
        try:
            yield
            gate.end_join()
        finally:
            gate.throwing, reducer.divide_by_initial = before

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
        self._refuse_with_shards("register_comm_hook", "gradients are summed over a fixed tree")
        reducer = self._reducer
        if reducer is None:
            return
        if isinstance(reducer.reduction, HookReduction):
            raise DistributedError(
                f"{self.process_group.where} register_comm_hook was called before; one hook "
                "per model"
            )
        if do_replicas_differ(hook):
            reducer.check_every = 0
        reducer.reduction = HookReduction(self.process_group.communicator, state, hook)

    def use_reduction(self, reduction: Reduction, params: Sequence[Tensor]) -> None:
        """Let `reduction` see to the buckets: for optimizers that need a part of the mean only.

        Args:
            reduction: of the same kind on all ranks.
            params: all that it serves.

        Raises:
            DistributedError: these are not the model's trainable parameters, or the model has a
                communication hook or logical shards.
        """
        self._refuse_with_shards("another reduction", "gradients are summed over a fixed tree")
        served, trainable = {id(p) for p in params}, list(self.parameters())
        missing = [p for p in trainable if p.requires_grad and id(p) not in served]
        if missing or len(served) > len(trainable):
            raise DistributedError(
                f"{self.process_group.where} the optimizer must have exactly the model's trainable "
                f"parameters; {len(missing)} of {len(trainable)} are missing in it"
            )
        reducer = self._reducer
        if reducer is None:
            return
        if isinstance(reducer.reduction, HookReduction):
            raise DistributedError(
                f"{self.process_group.where} the model has a communication hook; attach the "
                "optimizer to a model without one"
            )
        reducer.reduction = reduction

    def _refuse_with_shards(self, what: str, why: str) -> None:
        if self.logical is not None:
            raise DistributedError(
                f"{self.process_group.where} {what} cannot be combined with logical_shards: {why}"
            )

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

    def _get_ddp_logging_data(self) -> dict[str, Any]:
        """What PyTorch's method of this name tells, and with its names; ranks may differ.

        Sizes are bytes, times nanoseconds per synchronised step. Times of forward and backward are
        not among them: `--trace` measures those.
        """
        return logging_data(self)


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
