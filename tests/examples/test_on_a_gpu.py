"""The CIFAR example on a GPU: in half precision, wrapped, eager and as one graph a step."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.gpu import gpu as gpu
from support.gpu import stand_in as stand_in

from allgrad import kernel_counts

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10" / "train.py"
SHORT = "--device cuda --synthetic --synthetic-size 16 --batch-size 4 --epochs 1 --fingerprint"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_eager_and_recorded_steps_end_with_the_same_bits(gpu, tmp_path, capsys, amp):
    spec = importlib.util.spec_from_file_location("example_cifar_gpu", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ends = []
    for way in ("eager", "graph"):
        options = [*SHORT.split(), "--amp", amp, "--checkpoint-dir", str(tmp_path / way)]
        kernel_counts.reset()
        module.main([*options, "--graph"] if way == "graph" else options)
        assert not kernel_counts.fallback_counts()  # libraries or our kernels served every call
        ends += [line for line in capsys.readouterr().out.splitlines() if "SHA-256" in line]
    assert len(ends) == 2
    assert ends[0] == ends[1]
