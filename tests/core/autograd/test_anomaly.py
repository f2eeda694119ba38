"""`detect_anomaly` names the op and the user's line whose backward made a NaN or failed."""

from __future__ import annotations

import inspect

import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd import detect_anomaly, set_detect_anomaly
from allgrad.errors import GradientError


def roots(x):
    safe = x + 1
    return safe.sum() + (x - 1).sqrt().sum()  # the line with the NaN


def line_of(function, text):
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 3), nn.ReLU())

    def forward(self, x):
        h = self.first(x)
        return h.sum() + (h * 0).sqrt().sum()  # the slope is 0 * inf


def test_the_line_of_forward_is_named():
    x = ag.tensor([0.5, 3.0], requires_grad=True)
    with detect_anomaly(), pytest.raises(GradientError) as caught:
        roots(x).backward()
    text = str(caught.value)
    assert text.startswith("Function 'SqrtBackward' returned nan values in its 0th output.")
    assert f'File "{__file__}", line {line_of(roots, "(x - 1)")}, in roots' in text
    assert text.rstrip().endswith("# the line with the NaN")


def test_lines_of_modules_are_the_users():
    with detect_anomaly(), pytest.raises(GradientError) as caught:
        Net()(ag.ones(4, 2)).backward()
    assert f"line {line_of(Net.forward, 'sqrt')}, in forward" in str(caught.value)
    assert "nn/modules" not in str(caught.value)


def test_errors_are_explained_and_keep_their_type():
    class Fails(ag.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("lost")

    x = ag.ones(2, requires_grad=True)
    with set_detect_anomaly(True), pytest.raises(KeyError) as caught:
        Fails.apply(x).sum().backward()
    (note,) = caught.value.__notes__
    assert "FailsBackward" in note
    assert "Fails.apply(x)" in note


def test_a_changed_value_is_explained():
    x = ag.ones(2, requires_grad=True)
    with detect_anomaly():
        h = x * 1
        y = h * h  # saves h
        h.add_(1)
        with pytest.raises(GradientError, match=r"(?s)in-place.*y = h \* h  # saves h"):
            y.sum().backward()


def test_gradients_with_a_graph_are_watched():
    x = ag.tensor([0.0, 1.0], requires_grad=True)
    with detect_anomaly(), pytest.raises(GradientError, match=r"DivBackward.*nan"):
        ag.autograd.grad((x / x).sum(), x, create_graph=True)


def test_forward_outside_is_said():
    x = ag.tensor([0.0], requires_grad=True)
    y = (x / x).sum()
    with detect_anomaly(), pytest.raises(GradientError, match="no forward call was noted"):
        y.backward()


def test_nan_may_be_left_unchecked():
    x = ag.tensor([0.0], requires_grad=True)
    with detect_anomaly(check_nan=False):
        assert not ag.is_anomaly_check_nan_enabled()
        (x / x).sum().backward()
    assert x.grad.isnan().all()


def test_switches():
    assert not ag.is_anomaly_enabled()
    with detect_anomaly():
        assert ag.is_anomaly_enabled()
        with set_detect_anomaly(False):
            assert not ag.is_anomaly_enabled()
        assert ag.is_anomaly_check_nan_enabled()
    set_detect_anomaly(True)
    assert ag.is_anomaly_enabled()
    set_detect_anomaly(False)
    assert not ag.is_anomaly_enabled()
    x = ag.ones(1, requires_grad=True)
    assert (x * 2).grad_fn.trace is None
