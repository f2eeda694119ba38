"""What can be wrong with a backward, in words. Called by `reducer`.

May import: `gate`, `layout`, `diagnosis.replicas`, `model_check`, `communicators.base`,
`allgrad.errors`.
"""

from __future__ import annotations

from allgrad.ddp.communicators.base import Array, Communicator
from allgrad.ddp.diagnosis import replicas
from allgrad.ddp.gate import PARAMETERS, RUNS, STRUCTURE, Gate
from allgrad.ddp.layout import Layout
from allgrad.ddp.model_check import first_difference
from allgrad.errors import DistributedError


def arrived_twice(communicator: Communicator, name: str) -> DistributedError:
    """A gradient came although the last backward has not ended."""
    return DistributedError(
        f"{communicator.where} the gradient of {name!r} became ready twice in one backward. Did "
        "the backward before this one end with an exception? Then the ranks are out of step: let "
        "the exception end the program"
    )


def frozen_meanwhile(communicator: Communicator, name: str) -> DistributedError:
    """A gradient came for a parameter that is frozen."""
    return DistributedError(
        f"{communicator.where} {name!r} was frozen after the forward whose backward is running; "
        "set requires_grad=False before forward"
    )


def graph_of_mean(communicator: Communicator) -> DistributedError:
    """A gradient with a graph came, which its mean cannot have."""
    return DistributedError(
        f"{communicator.where} backward(create_graph=True) of a synchronised "
        "DistributedDataParallel: averaged gradients have no graph. For a penalty on gradients use "
        "autograd.grad(..., create_graph=True), which averages nothing, and call backward() on the "
        "loss; or call it inside no_sync()"
    )


def changed_through_several(communicator: Communicator, label: str) -> DistributedError:
    """New buckets cannot be cut while another model's collectives are under way."""
    return DistributedError(
        f"{communicator.where} parameters of {label} were added or thawed before a backward that "
        "runs through several wrapped models; run the first backward after such a change through "
        "one of them alone"
    )


def explain(gate: Gate, label: str, layout: Layout, rows: Array, stepping: list[int]) -> None:
    """Collective of all ranks. Raise if the rows of ranks that step do not go together."""
    if len({rows[rank, RUNS] for rank in stepping}) > 1:
        counts = ", ".join(f"rank {rank}: {int(rows[rank, RUNS])}" for rank in stepping)
        gate.fail(
            f"ranks have run backward of {label} a different number of times since the last "
            f"synchronised one, this one included ({counts})",
            "enter no_sync() for the same backward calls on every rank",
        )
    if len({rows[rank, STRUCTURE] for rank in stepping}) > 1:
        difference = first_difference(gate.communicator.all_gather_object(layout.entries()))
        gate.fail(
            f"ranks have different trainable parameters in {label}; first difference, at "
            f"parameter {difference}",
            "add, freeze and thaw the same parameters before the same step on every rank",
        )
    if len({rows[rank, PARAMETERS] for rank in stepping}) > 1:
        communicator = gate.communicator
        before, communicator.note = communicator.note, "comparison of replicas"
        named = [(n, p._array) for n, p in zip(layout.names, layout.params, strict=True)]
        told = replicas.difference(communicator, named, stepping)
        communicator.note = before
        told = told or "they did some steps ago, when they were looked at"
        what = f"replicas of {label} differ at step {communicator.step}: {told}. Ranks"
        gate.fail(what, replicas.FIX)
