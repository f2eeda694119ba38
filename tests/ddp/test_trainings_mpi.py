"""Hooks, SyncBatchNorm, ZeRO and the rest on processes: the bits of threads, and no alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.trainings import TRAININGS, train

from allgrad import ddp

WAYS = ("shared", "plain")


@pytest.mark.mpi
def test_processes_train_as_threads_do(mpirun: Any, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "trainings.py"
    done = mpirun(2, [str(script), str(tmp_path), *WAYS], 120)
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for name in TRAININGS:
        threads = ddp.run_ranks(lambda name=name: train(name), 2)
        ways = [threads, *([told[rank][way][name] for rank in (0, 1)] for way in WAYS)]
        for first, second in ways:
            assert first[0] == second[0], f"{name}: ranks differ"
            # kernels with another number of threads add up in another order
            close = 2e-3 if name == "fp16_hook" else 1e-5
            np.testing.assert_allclose(first[1], threads[0][1], close, close, err_msg=name)
            if name == "logical_shards":
                assert first[0] == threads[0][0]
    assert told[0]["warnings"] == told[1]["warnings"] == []
    assert done.stderr == ""
