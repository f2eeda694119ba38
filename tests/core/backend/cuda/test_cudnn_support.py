"""Every graph that networks ask of cuDNN is one that the real library was asked for, and has.

`cudnn_support.json` holds the answers of cuDNN for H200 and A100; `support/cudnn_support.py` says
how they were got, without a GPU. A graph that is not in it has to be asked for: see there.
"""

from __future__ import annotations

import ast

import pytest
from support import cudnn_support
from support.gpu import REAL

import allgrad as ag
from allgrad.backend.cuda import cudnn_graphs
from allgrad.errors import Unsupported

STORED = cudnn_support.stored()
NETWORKS = cudnn_support.networks()
PROBES = {repr(p): p for p in cudnn_support.probes()}


def answers(problem):
    """What the real cuDNN said, by device and kind of plan."""
    found = STORED["problems"].get(repr(problem))
    assert found, f"{problem} was never asked of cuDNN: see support/cudnn_support.py"
    return {(device, case): answer for device, row in found.items() for case, answer in row.items()}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ConvNet", ag.float32),
        ("ConvNet", ag.bfloat16),
        ("ResNet-20", ag.float32),
        ("ResNet-20", ag.float16),
        ("ResNet-50", ag.float16),
    ],
)
@pytest.mark.skipif(REAL, reason="looks at what is asked of cuDNN")
def test_graphs_of_networks_have_kernels(gpu, name, dtype):
    make, image = NETWORKS[name]
    asked = cudnn_support.traced(make, image, dtype)
    assert len(asked) >= 4
    for problem in asked:
        for case, answer in answers(problem).items():
            assert "refused" not in answer, (problem, case, answer)
            assert answer["plans"] > 0


@pytest.mark.skipif(REAL, reason="looks at what is asked of cuDNN")
def test_layouts_of_images_make_no_difference_to_cudnn(gpu):
    make, image = NETWORKS["ResNet-20"]
    plain, last = (cudnn_support.traced(make, image, ag.float16, c) for c in (False, True))
    assert plain == last


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.skipif(REAL, reason="about the stand-in")
def test_the_stand_in_refuses_what_cudnn_refuses(gpu, name):
    module = cudnn_graphs.library()
    refused = {"refused" in answer for answer in answers(PROBES[name]).values()}
    assert len(refused) == 1, "devices differ"
    handle = module.create_handle()
    try:
        graph = cudnn_graphs.enter(module, PROBES[name], handle=handle)
        cudnn_graphs.find_plans(module, graph, True, False)
        served = True
    except Unsupported:
        served = False
    finally:
        module.destroy_handle(handle)
    assert served is not refused.pop()


def test_what_is_stored_is_whole():
    assert STORED["about"]["frontend"].startswith(cudnn_graphs.FRONTEND)
    assert set(STORED["about"]["devices"]) == {"sm_80", "sm_90"}
    kinds = {name.split("(")[0] for name in STORED["problems"]}
    assert {"ConvForward", "ConvInput", "ConvWeight", "BatchNormForward"} <= kinds
    for name in STORED["problems"]:
        assert ast.parse(name, mode="eval")
