"""The SHA-256 of a training's state: what it covers, and what it does not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.errors import DistributedError


def training() -> tuple[nn.Module, Any]:
    ag.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    model(ag.ones(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_same_state_same_number() -> None:
    model, optimizer = training()
    one = ddp.fingerprint(model, optimizer)
    assert len(one) == 64
    assert ddp.fingerprint(*training()) == one
    assert ddp.fingerprint(model) != one
    memory = np.asfortranarray(model[0].weight._array)
    model[0].weight._array = memory
    assert ddp.fingerprint(model, optimizer) == one


@pytest.mark.parametrize("what", ["parameter", "buffer", "state", "setting", "name"])
def test_every_part_counts(what: str) -> None:
    model, optimizer = training()
    before = ddp.fingerprint(model, optimizer)
    if what == "parameter":
        model[2].bias.data[1] = np.nextafter(np.float32(model[2].bias[1].item()), np.float32(9))
    elif what == "buffer":
        model[1].num_batches_tracked += 1
    elif what == "state":
        next(iter(optimizer.state.values()))["exp_avg"]._array.flat[0] += 1
    elif what == "setting":
        optimizer.param_groups[0]["lr"] = 0.2
    else:
        model = nn.ModuleDict({"1": model[1], "0": model[0], "3": model[2]})
    assert ddp.fingerprint(model, optimizer) != before


def test_ranks_agree_or_say_where_they_differ() -> None:
    def body(differ: bool) -> str:
        ddp.init_process_group()
        model, optimizer = training()
        wrapped = ddp.DistributedDataParallel(model)
        if differ and ddp.get_rank() == 1:
            model[2].bias.data[0] += 1
        return ddp.fingerprint(wrapped, optimizer, check=True)

    assert ddp.run_ranks(lambda: body(False), 2) == [ddp.fingerprint(*training())] * 2
    with pytest.raises(DistributedError, match=r"rank 1 differs from rank 0 in 1 .*2\.bias"):
        ddp.run_ranks(lambda: body(True), 2)


def test_a_state_without_bytes_is_refused() -> None:
    class Part:
        def state_dict(self) -> dict[str, Any]:
            return {"thing": object()}

    with pytest.raises(TypeError, match="numbers and texts"):
        ddp.fingerprint(training()[0], Part())
