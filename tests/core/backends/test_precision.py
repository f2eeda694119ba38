from __future__ import annotations

import pytest

import allgrad as ag
from allgrad.backends.cuda import matmul


@pytest.fixture(autouse=True)
def _as_before():
    before = matmul.allow_tf32
    yield
    matmul.allow_tf32 = before


def test_words_choose_tf32():
    for word, allowed in (("highest", False), ("high", True), ("medium", True)):
        ag.set_float32_matmul_precision(word)
        assert matmul.allow_tf32 is allowed
        assert ag.get_float32_matmul_precision() == ("high" if allowed else "highest")
    with pytest.raises(ValueError, match="known: 'highest', 'high', 'medium'"):
        ag.set_float32_matmul_precision("low")
