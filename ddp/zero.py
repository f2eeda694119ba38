"""Optimizer state cut over the ranks: `ZeroRedundancyOptimizer`, stage 1 of ZeRO.

Stage of the flow: in the optimizer's place, after backward. May import: `zero_partition`,
`zero_reduction`, `zero_state`, `process_group`, `communicators.base`, ``allgrad``.

Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", SC 2020, section 5.1; names as ``torch.distributed.optim``.

Note [Pieces]
    Every element of every parameter belongs to one rank. That rank has a tensor over its piece of
    the parameter's own memory, and a plain optimizer of the user's class over these tensors: it
    steps in place, in the parameter, and keeps state for its pieces alone. Then the ranks gather
    each other's pieces. An optimizer that treats every element alike gives the same bits as on
    one rank, wherever the cuts are; the others get whole parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from allgrad import Tensor, optim
from allgrad.ddp import zero_state
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp
from allgrad.ddp.distributed import DistributedDataParallel
from allgrad.ddp.process_group import ProcessGroup, default_group
from allgrad.ddp.zero_partition import Piece, by_elements, by_parameters
from allgrad.ddp.zero_reduction import ScatterReduction
from allgrad.errors import DistributedError, OptionError
from allgrad.optim import Optimizer
from allgrad.tensors.graph import compute_all

# What these do to an element depends on that element's own history only.
ELEMENTWISE: tuple[type[Optimizer], ...] = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop,
    optim.Adagrad, optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip


class ZeroRedundancyOptimizer(Optimizer):
    """An optimizer of which every rank keeps the state of its own part of the parameters.

    The memory for state falls as 1 / ranks; results are those of the plain optimizer, the same bits
    where it treats every element alike (`SGD`, `Adam` and their kind). By itself it steps from the
    gradients that `DistributedDataParallel` has averaged on all ranks. After `attach` every
    rank receives the mean of its own part only (reduce-scatter instead of all-reduce). All ranks
    must make every step: a rank that runs out of batches while others train is an error on all
    ranks.

    Args:
        params: as for the optimizer; the same order on all ranks.
        optimizer_class: e.g. ``allgrad.optim.Adam``. Classes other than allgrad's elementwise ones
            get whole parameters, so their state is cut less evenly.
        process_group: default: the default group.
        parameters_as_bucket_view: accepted for PyTorch scripts, without meaning.
        overlap_with_ddp: must be False; see `attach`.
        defaults: settings of the optimizer.

    Raises:
        OptionError: `optimizer_class` is no optimizer that keeps state per parameter, or
            overlap_with_ddp is True.

    Example:
        >>> import allgrad as ag
        >>> from allgrad import ddp, nn, optim
        >>> ddp.init_process_group()
        >>> net = nn.Linear(4, 2)
        >>> optimizer = ZeroRedundancyOptimizer(net.parameters(), optim.Adam, lr=1e-3)
        >>> net(ag.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> ddp.destroy_process_group()
    """

    def __init__(
        self,
        params: Iterable[Any],
        optimizer_class: type[Optimizer],
        process_group: ProcessGroup | None = None,
        parameters_as_bucket_view: bool = False,
        overlap_with_ddp: bool = False,
        **defaults: Any,
    ) -> None:
        if overlap_with_ddp:
            raise OptionError(
                "overlap_with_ddp=True: expected False; optimizer.attach(model) reduces and "
                "scatters gradients during backward"
            )
        if not issubclass(optimizer_class, Optimizer) or issubclass(optimizer_class, optim.LBFGS):
            raise OptionError(
                f"ZeroRedundancyOptimizer: optimizer_class={optimizer_class.__name__}: expected an "
                "optimizer that steps parameter by parameter, such as allgrad.optim.AdamW"
            )
        self._group = process_group or default_group()
        self._communicator: Communicator = self._group.communicator
        self._class, self._settings = optimizer_class, defaults
        self._cut = by_elements if issubclass(optimizer_class, ELEMENTWISE) else by_parameters
        self._inner: Optimizer | None = None
        self._pieces: list[list[list[Piece]]] = []  # per group and rank
        self._mine: list[list[Tensor]] = []  # per group, over the memory of our pieces
        self._reduction: ScatterReduction | None = None
        self._consolidated: dict[str, Any] | None = None
        super().__init__(params, defaults)

    @property
    def optim(self) -> Optimizer:
        """The optimizer of this rank's pieces."""
        assert self._inner is not None
        return self._inner

    # ---- pieces ----------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, on all ranks; they are cut by themselves."""
        if self._reduction is not None:
            raise DistributedError(
                f"{self._group.where} add_param_group after attach: add groups before"
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        ranks = self._cut([p.numel() for p in group["params"]], self._group.size)
        self._pieces.append(ranks)
        mine = [_over(group["params"][piece.index], piece) for piece in ranks[self._group.rank]]
        self._mine.append(mine)
        inner = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        inner["params"] = mine
        if self._inner is None:
            self._inner = self._class([inner], **self._settings)
            for name, value in self._inner.param_groups[0].items():
                group.setdefault(name, value)
            self.defaults = self._inner.defaults
        else:
            self._inner.add_param_group(inner)

    def attach(self, model: DistributedDataParallel) -> None:
        """Let the model's backward give every rank the mean of its own pieces only.

        Afterwards ``param.grad`` holds the mean over the ranks in this rank's pieces, and this
        rank's own gradient elsewhere: clip with this optimizer's `clip_grad_norm_`.

        Raises:
            DistributedError: the optimizer has not exactly the model's trainable parameters, or
                the model has a communication hook or logical shards.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        owned: list[dict[int, list[Piece]]] = [{} for _ in range(self._group.size)]
        for group, ranks in zip(self.param_groups, self._pieces, strict=True):
            for rank, pieces in enumerate(ranks):
                for piece in pieces:
                    of = owned[rank].setdefault(id(group["params"][piece.index]), [])
                    of.append(piece)
        reduction = ScatterReduction(self._communicator, owned)
        model.use_reduction(reduction, params)
        self._reduction = reduction if self._group.size > 1 else None

    # ---- steps -----------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Collective. Step this rank's pieces, then take those of the others.

        Args:
            closure: computes the loss again (with ``backward``) and returns it.
            kwargs: handed to the optimizer's own `step`.
        """
        loss = self._begin_step(closure)
        for group in self.param_groups:
            self._ready(group)  # raises where a gradient does not fit
        self._consolidated = None
        self._refresh()
        assert self._inner is not None
        if any(self._mine):
            self._inner.step(**kwargs)
        if self._group.size > 1:
            self._exchange()
        for group in self.param_groups:
            for p in group["params"]:
                p._bump_version()
        return loss

    def _refresh(self) -> None:
        """Settings, memory and gradients of the pieces as they are now."""
        rank = self._group.rank
        assert self._inner is not None
        for group, inner, ranks, mine in zip(
            self.param_groups, self._inner.param_groups, self._pieces, self._mine, strict=True
        ):
            inner.update({k: v for k, v in group.items() if k not in ("params", "param_names")})
            for piece, tensor in zip(ranks[rank], mine, strict=True):
                param = group["params"][piece.index]
                tensor._array = _part(param._array, piece)
                grad = param.grad
                tensor.grad = None if grad is None else Tensor(_part(grad._array, piece))

    def _exchange(self) -> None:
        """Gather the pieces of all ranks into every rank's parameters."""
        params = [group["params"] for group in self.param_groups]
        parts = [
            [
                _part(params[number][piece.index]._array, piece).reshape(-1).view(np.uint8)
                for number, ranks in enumerate(self._pieces)
                for piece in ranks[rank]
            ]
            for rank in range(self._group.size)
        ]
        width = max(sum(part.size for part in own) for own in parts)
        like = params[0][0]._array
        row = np.zeros_like(like, shape=(width,), dtype=np.uint8)
        _join(parts[self._group.rank], row)
        self._communicator.note = "parameters of ZeroRedundancyOptimizer"
        rows = np.empty_like(row, shape=(self._group.size, width))
        self._communicator.of(row).all_gather_into(rows, row)
        self._communicator.note = ""
        for rank, own in enumerate(parts):
            if rank != self._group.rank:
                _split(rows[rank], own)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Collective. Scale all gradients so that their norm over all ranks' pieces is `max_norm`.

        Right with and without `attach`; without it `nn.utils.clip_grad_norm_` does the same.

        Returns:
            The norm before, a tensor of shape ().
        """
        compute_all()
        self._refresh()
        grads = [t.grad._array for mine in self._mine for t in mine if t.grad is not None]
        norms = [np.linalg.norm(g.reshape(-1).astype(np.float64), norm_type) for g in grads]
        infinite = np.isinf(norm_type)
        mine: Any = np.zeros_like(self.param_groups[0]["params"][0]._array, np.float64, shape=())
        for norm in norms:
            mine[...] = np.maximum(mine, norm) if infinite else mine + norm**norm_type
        op = ReduceOp.MAX if infinite else ReduceOp.SUM
        self._communicator.of(mine).all_reduce(mine, op).wait()
        total = mine if infinite else mine ** (1 / norm_type)  # a GPU's is not waited for
        factor = np.minimum(1.0, max_norm / (total + 1e-6))
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad._array *= factor.astype(p.grad._array.dtype)
                    p.grad._bump_version()
        return Tensor(total.astype(np.float32))

    def agree_on_overflow(self, found: bool) -> bool:
        """Collective. Whether any rank has found an infinite gradient; asked by `GradScaler`."""
        value = np.array(found, np.uint8)
        self._communicator.all_reduce(value, ReduceOp.MAX)
        return bool(value)

    # ---- saving ----------------------------------------------------------------------------

    def state_bytes(self) -> int:
        """Bytes of optimizer state that this rank keeps."""
        return zero_state.size_bytes(self.optim.state)

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Collective. Bring the whole state to rank `to`, for `state_dict`; -1: to all ranks."""
        self._refresh()
        state = zero_state.consolidate(
            self._communicator, self.optim, self.param_groups, self._pieces, to
        )
        if state is not None:  # what an earlier call has brought here stays
            self._consolidated = state

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of the plain optimizer, for any number of ranks.

        Raises:
            DistributedError: `consolidate_state_dict` was not called since the last step, or
                brought the state to another rank.
        """
        if self._consolidated is None and self._group.size == 1:
            self.consolidate_state_dict()
        if self._consolidated is None:
            raise DistributedError(
                f"{self._group.where} the optimizer's state lies on all ranks: call "
                f"optimizer.consolidate_state_dict(to={self._group.rank}) on every rank first"
            )
        return self._consolidated

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a plain optimizer, or what `state_dict` returned, on any rank."""
        rank = self._group.rank
        groups = [pieces[rank] for pieces in self._pieces]
        self.optim.load_state_dict(zero_state.cut(state_dict, self.param_groups, groups))
        for group, inner in zip(self.param_groups, self.optim.param_groups, strict=True):
            group.update({k: v for k, v in inner.items() if k != "params"})
        self._consolidated = None


def _part(array: Array, piece: Piece) -> Array:
    """The piece's elements; a whole array keeps its shape."""
    if piece.size == array.size:
        return array
    return array.reshape(-1)[piece.start : piece.stop]


def _over(param: Tensor, piece: Piece) -> Tensor:
    """A leaf tensor over the piece's part of the parameter's memory.

    Raises:
        OptionError: the parameter's memory is not contiguous.
    """
    array = param._array
    if not array.flags.c_contiguous:
        raise OptionError(
            f"ZeroRedundancyOptimizer: a parameter of shape {tuple(param.shape)} is not contiguous "
            "in memory; make it so before: param.data = param.data.contiguous()"
        )
    return Tensor(_part(array, piece), requires_grad=param.requires_grad)


def _join(parts: list[Array], row: Array) -> None:
    start = 0
    for part in parts:
        row[start : start + part.size] = part
        start += part.size


def _split(row: Array, parts: list[Array]) -> None:
    start = 0
    for part in parts:
        part[...] = row[start : start + part.size]
        start += part.size
