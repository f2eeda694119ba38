"""The user's line is found from anywhere inside of allgrad."""

from __future__ import annotations

import sys

import numpy as np

import allgrad as ag
from allgrad import nn
from allgrad.ddp.diagnosis import source


def test_line_of_the_caller() -> None:
    found = source.user_line()
    assert found is not None
    assert found.file.endswith("test_source.py")
    assert found.text == "found = source.user_line()"
    assert str(found).endswith(f"test_source.py:{found.line} in {found.function}: {found.text}")


def test_line_of_backward_from_inside_a_hook() -> None:
    seen = []
    model = nn.Linear(3, 2)
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(source.mark()))
    # the hook itself is the user's function here, and nearest
    model(ag.tensor(np.ones((1, 3), np.float32))).sum().backward()
    assert source.place(seen[0]).function == "<lambda>"


def test_names_of_libraries_between_us_and_the_user_are_skipped() -> None:
    frame = sys._getframe()
    assert not source.is_ours(frame)
    stack = source.user_stack(frame, most=3)
    assert len(stack) == 3
    assert stack[0].text == "stack = source.user_stack(frame, most=3)"
