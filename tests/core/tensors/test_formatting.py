"""What tensors look like in print: as in PyTorch, word for word."""

from __future__ import annotations

import pytest

import allgrad as ag

INF, NAN = float("inf"), float("nan")
# Written once for both libraries.
SHOW = [
    lambda lib: lib.tensor(1.5), lambda lib: lib.tensor(3), lambda lib: lib.tensor(True),
    lambda lib: lib.tensor([1.0, 2.5]), lambda lib: lib.tensor([1.0, 2.0]),
    lambda lib: lib.tensor([1, -20, 300]), lambda lib: lib.tensor([[True, False], [False, True]]),
    lambda lib: lib.tensor([1e-5, 1.0]), lambda lib: lib.tensor([1e9, 1.0]),
    lambda lib: lib.tensor([1234.5, 2.25]), lambda lib: lib.tensor([0.001, 0.999]),
    lambda lib: lib.tensor([NAN, 1.0]), lambda lib: lib.tensor([NAN, INF, -INF]),
    lambda lib: lib.tensor([INF, 0.5, -3.0]), lambda lib: lib.tensor([0.0, 0.0]),
    lambda lib: lib.tensor([-0.0, 1.5]), lambda lib: lib.tensor([]),
    lambda lib: lib.zeros(2, 0), lambda lib: lib.zeros(0, dtype=lib.int64),
    lambda lib: lib.zeros(0, 3, dtype=lib.float64), lambda lib: lib.ones(2, dtype=lib.float64),
    lambda lib: lib.ones(2, dtype=lib.int32), lambda lib: lib.ones(2, dtype=lib.float16) / 3,
    lambda lib: lib.ones(2, dtype=lib.bfloat16) * 1.5,
    lambda lib: lib.ones(2, dtype=lib.uint8), lambda lib: lib.arange(30),
    lambda lib: lib.arange(30.0) / 7, lambda lib: lib.arange(24.0).view(2, 3, 4),
    lambda lib: lib.arange(24).view(1, 2, 3, 4), lambda lib: lib.arange(2000),
    lambda lib: lib.arange(2000.0).view(40, 50) / 3, lambda lib: lib.arange(1500).view(500, 3),
    lambda lib: lib.arange(1001.0), lambda lib: lib.ones(2, requires_grad=True),
    lambda lib: lib.ones(11, requires_grad=True) * lib.tensor(1.5, dtype=lib.float64).detach(),
    lambda lib: lib.ones(9, dtype=lib.float64, requires_grad=True) / 3,
    lambda lib: lib.tensor([1 + 2j, 0.5 - 1j]), lambda lib: lib.tensor(1 + 0j),
    lambda lib: lib.tensor([1 + 2j], dtype=lib.complex128), lambda lib: lib.tensor([-1e-7 + 3j]),
    lambda lib: lib.tensor(7.0), lambda lib: lib.tensor(123456.789), lambda lib: lib.tensor(1e-9),
    lambda lib: lib.tensor([100000000.0]), lambda lib: lib.tensor([1e8 + 1e3]),
]  # fmt: skip
OPTIONS = [
    {"precision": 2}, {"threshold": 5, "edgeitems": 1}, {"linewidth": 30}, {"sci_mode": True},
    {"sci_mode": False}, {"profile": "short"}, {"profile": "full"},
    {"profile": "short", "precision": 6},
]  # fmt: skip


def plain(text):
    """Without what differs on purpose: the names of the library and of its nodes."""
    import re

    text = re.sub(r"grad_fn=<\w+>", "grad_fn=<>", text)
    return text.replace("torch.", "allgrad.")


@pytest.mark.torch
@pytest.mark.parametrize("number", range(len(SHOW)))
def test_like_torch(number):
    torch = pytest.importorskip("torch")
    ours, theirs = repr(SHOW[number](ag)), repr(SHOW[number](torch))
    if "\n" not in theirs and "\n" not in ours:
        assert plain(ours) == plain(theirs)
    else:  # lines break elsewhere, because our name is longer
        assert plain(ours).split() == plain(theirs).split()


@pytest.mark.torch
@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_options_like_torch(number):
    torch = pytest.importorskip("torch")
    try:
        for lib in (ag, torch):
            lib.set_printoptions(**OPTIONS[number])
        for make in (lambda lib: lib.arange(12.0) / 7, lambda lib: lib.arange(1200).view(30, 40),
                     lambda lib: lib.tensor([[1e-7, 1.0]])):  # fmt: skip
            assert repr(make(ag)) == repr(make(torch))
    finally:
        for lib in (ag, torch):
            lib.set_printoptions(profile="default")


def test_unknown_profile():
    with pytest.raises(ValueError, match=r"'long'.*'short'"):
        ag.set_printoptions(profile="long")


def test_a_parameter_says_so():
    text = repr(ag.nn.Parameter(ag.ones(2)))
    assert text == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
