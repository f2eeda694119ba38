"""no_grad, enable_grad and set_grad_enabled in every form."""

from __future__ import annotations

import pytest

import allgrad as ag


def on():
    return ag.is_grad_enabled()


def test_contexts_nest():
    with ag.no_grad():
        assert not on()
        with ag.enable_grad():
            assert on()
            with ag.set_grad_enabled(False):
                assert not on()
            assert on()
        assert not on()
    assert on()


def test_context_ends_with_an_exception():
    with pytest.raises(KeyError), ag.no_grad():
        raise KeyError
    assert on()


def test_one_context_entered_twice():
    context = ag.no_grad()
    with context:
        with context:
            assert not on()
        assert not on()
    assert on()


def test_call():
    ag.set_grad_enabled(False)
    assert not on()
    ag.set_grad_enabled(True)
    assert on()


@pytest.mark.parametrize(("decorator", "inside"), [
    (ag.no_grad(), False), (ag.no_grad, False), (ag.enable_grad(), True), (ag.enable_grad, True),
    (ag.set_grad_enabled(True), True),
])  # fmt: skip
def test_decorator(decorator, inside):
    @decorator
    def function(a, b=2):
        """Its text."""
        return on(), a, b

    with ag.set_grad_enabled(not inside):
        assert function(1, b=3) == (inside, 1, 3)
        assert function(1) == (inside, 1, 2)
        assert on() is not inside
    assert (function.__name__, function.__doc__) == ("function", "Its text.")


def test_set_grad_enabled_as_decorator_waits_for_the_call():
    @ag.set_grad_enabled(False)
    def function():
        return on()

    assert on()
    assert function() is False
    assert on()


@pytest.mark.parametrize("decorator", [ag.no_grad(), ag.no_grad])
def test_methods(decorator):
    class Model:
        @decorator
        def predict(self, x):
            return self, x, on()

        @classmethod
        @decorator
        def build(cls):
            return cls, on()

        @staticmethod
        @decorator
        def helper(x):
            return x, on()

    model = Model()
    assert model.predict(3) == (model, 3, False)
    assert Model.build() == (Model, False)
    assert model.helper(4) == (4, False)


def test_recursion():
    @ag.no_grad()
    def count(n):
        return on() or (n > 0 and count(n - 1))

    assert count(5) is False
    assert on()


def test_generator():
    log = []

    @ag.no_grad()
    def numbers():
        try:
            for i in range(3):
                assert not on()
                log.append((yield i))
        except ValueError:
            assert not on()
            yield "caught"
        return "end"

    steps = numbers()
    assert next(steps) == 0
    assert on()  # the caller's state while the generator waits
    assert steps.send("hello") == 1
    assert steps.throw(ValueError()) == "caught"
    with pytest.raises(StopIteration, match="end"):
        next(steps)
    assert log == ["hello"]
    assert list(numbers()) == [0, 1, 2]
    steps = numbers()
    next(steps)
    steps.close()
    assert on()


def test_nothing_is_recorded():
    w = ag.ones(2, requires_grad=True)
    with ag.no_grad():
        y = w * 2
        new = ag.zeros(2, requires_grad=True)
    assert not y.requires_grad
    assert y.grad_fn is None
    assert new.requires_grad
    with ag.no_grad(), ag.enable_grad():
        assert (w * 2).requires_grad
