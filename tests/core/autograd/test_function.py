"""Users' own functions: `autograd.Function`, compared with PyTorch's."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
from allgrad.autograd import gradcheck, gradgradcheck
from allgrad.autograd.function import once_differentiable

X = np.arange(6.0).reshape(2, 3) - 2.2
Y = np.linspace(0.5, 2, 6).reshape(2, 3)


def cube_of(lib):
    class Cube(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x)
            ctx.factor = factor
            return factor * x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * ctx.factor * 3 * x**2, None

    return Cube


def exp_of(lib):
    class Exp(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    return Exp


def first(lib, F, t):
    y = cube_of(lib).apply(t.x, 2.0)
    y.sum().backward()
    return y.detach(), y.grad_fn.name(), y.requires_grad


def any_order(lib, F, t):
    y = cube_of(lib).apply(exp_of(lib).apply(t.x), 0.5).sum()
    orders = []
    for _ in range(3):
        (slope,) = lib.autograd.grad(y, t.x, create_graph=True)
        orders.append(slope)
        y = slope.sum()
    return tuple(orders)


def several_outputs(lib, F, t):
    class Both(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y, x + y, "text"

        @staticmethod
        def backward(ctx, grad_product, grad_sum, nothing):
            x, y = ctx.saved_tensors
            return grad_product * y + grad_sum, grad_product * x + grad_sum

    product, _, text = Both.apply(t.x, t.y)
    product.sum().backward()  # grad_sum comes as zeros
    return product.detach(), text


def without_materializing(lib, F, t):
    seen = []

    class Pair(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            seen.append(b is None)
            return a * 2

    Pair.apply(t.x)[0].sum().backward()
    return tuple(seen)


def non_differentiable(lib, F, t):
    class Split(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            sign = x.sign()
            ctx.mark_non_differentiable(sign)
            return x.abs(), sign

        @staticmethod
        def backward(ctx, grad, grad_sign):
            return grad * 7 + grad_sign

    size, sign = Split.apply(t.x)
    size.sum().backward()
    return sign.requires_grad, size.requires_grad


def dirty(lib, F, t):
    class Double(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    h = t.x * 1
    same = Double.apply(h)
    (h * h).sum().backward()
    return same is h, h.detach()


def setup_context(lib, F, t):
    class Scale(lib.autograd.Function):
        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs, output)

        @staticmethod
        def backward(ctx, grad):
            x, y, z = ctx.saved_tensors
            return grad * z / x, grad * z / y

    z = Scale.apply(t.x, t.y)
    (slope,) = lib.autograd.grad(z.sum(), t.x, create_graph=True)
    (slope**2).sum().backward()


def named_arguments(lib, F, t):
    class Scale(lib.autograd.Function):
        @staticmethod
        def forward(x, factor=3.0):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    y = Scale.apply(t.x) + Scale.apply(t.x, factor=2.0) + cube_of(lib).apply(t.x, factor=0.5)
    y.sum().backward()
    return y.detach()


def needs(lib, F, t):
    seen = []

    class Add(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x, y, z):
            seen.extend([ctx.needs_input_grad, lib.is_grad_enabled()])
            return x + y

        @staticmethod
        def backward(ctx, grad):
            seen.append(lib.is_grad_enabled())
            return grad, grad, None

    Add.apply(t.x, t.y.detach(), 3).sum().backward()
    with lib.no_grad():
        free = Add.apply(t.x, t.y, 3)
    return str(seen), free.requires_grad


def input_returned(lib, F, t):
    class Same(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * 5

    y = Same.apply(t.x)
    y.sum().backward()
    return y is t.x


def input_returned_and_saved(lib, F, t):
    class Square(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0] * 2

    (slope,) = lib.autograd.grad(Square.apply(t.x).sum(), t.x, create_graph=True)
    slope.pow(2).sum().backward()


def dirty_and_saved(lib, F, t):
    class Exp(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.exp_()
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    (slope,) = lib.autograd.grad(Exp.apply(t.x * 1).sum(), t.x, create_graph=True)
    slope.pow(2).sum().backward()


def broadcast_gradient(lib, F, t):
    class Wide(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad.expand(4, 2, 3).double(), None, None

    Wide.apply(t.x).sum().backward()


def no_gradient(lib, F, t):
    class Stop(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return None

    (Stop.apply(t.x) + t.x).sum().backward()


def integer_output(lib, F, t):
    class Round(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.long()

        @staticmethod
        def backward(ctx, grad):
            return grad

    return Round.apply(t.x).requires_grad


def once(lib, F, t):
    if lib is ag:
        decorator = once_differentiable
    else:
        from torch.autograd.function import once_differentiable as decorator

    class Numpy(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @decorator
        def backward(ctx, grad):
            return grad * 2 * ctx.saved_tensors[0]

    y = Numpy.apply(t.x)
    (plain,) = lib.autograd.grad(y.sum(), t.x, retain_graph=True)
    (slope,) = lib.autograd.grad((y**2).sum(), t.x, create_graph=True)
    try:
        slope.sum().backward()
    except RuntimeError as error:
        return plain, slope.detach(), "once_differentiable" in str(error)
    return None


SCENARIOS = [
    first, any_order, several_outputs, without_materializing, non_differentiable, dirty,
    setup_context, named_arguments, needs, input_returned, input_returned_and_saved,
    dirty_and_saved, broadcast_gradient, no_gradient, integer_output, once,
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_like_torch(scenario):
    both(scenario, x=X, y=Y)


def returning(results, forward=lambda ctx, x, k: x * 2):
    """A function of (x, k) whose backward returns `results`."""

    def make(lib):
        return type(
            "Bad",
            (lib.autograd.Function,),
            {
                "forward": staticmethod(forward),
                "backward": staticmethod(lambda ctx, grad: results(lib, ctx, grad)),
            },
        )

    return make


def unmarked(ctx, x, k):
    h = x * 1
    ctx.mark_dirty(x)
    return h


MISTAKES = {
    "too few": (returning(lambda lib, ctx, g: g), "incorrect number of gradients"),
    "too many": (returning(lambda lib, ctx, g: (g, None, g)), "incorrect number of gradients"),
    "for a number": (returning(lambda lib, ctx, g: (g, g)), "different than None at position 2"),
    "shape": (returning(lambda lib, ctx, g: (g[:1, :2], None)), "invalid gradient at index 0"),
    "too small": (returning(lambda lib, ctx, g: (g.sum(), None)), "invalid gradient at index 0"),
    "number": (returning(lambda lib, ctx, g: (3.0, None)), "float"),
    "raises": (returning(lambda lib, ctx, g: 1 / 0), "division by zero"),
    "not returned": (returning(lambda lib, ctx, g: (g, None), unmarked), "dirty"),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_like_torch(name):
    torch = pytest.importorskip("torch")
    make, message = MISTAKES[name]
    kinds = []
    for lib in (torch, ag):
        x = lib.tensor(X, requires_grad=True)
        with pytest.raises((RuntimeError, ZeroDivisionError), match=message) as caught:
            make(lib).apply(x * 1, 2.0).sum().backward()
        kinds.append(caught.type)
    assert issubclass(kinds[1], kinds[0])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # PyTorch's
def test_other_mistakes_like_torch():
    torch = pytest.importorskip("torch")

    def saves_a_number(lib):
        def forward(ctx, x):
            ctx.save_for_backward(3)
            return x

        return type("Bad", (lib.autograd.Function,), {"forward": staticmethod(forward)})

    for lib in (torch, ag):
        x = lib.tensor(X, requires_grad=True)
        with pytest.raises(TypeError, match="can only save"):
            saves_a_number(lib).apply(x)
        with pytest.raises(NotImplementedError, match="forward"):
            type("Empty", (lib.autograd.Function,), {}).apply(x)
        forward = {"forward": staticmethod(lambda ctx, x: x * 2)}
        with pytest.raises(NotImplementedError, match="backward"):
            type("Half", (lib.autograd.Function,), forward).apply(x).sum().backward()
        with pytest.raises(TypeError):
            cube_of(lib).apply(x, power=2.0)
        with pytest.raises(RuntimeError, match="static"):
            cube_of(lib)()(x)


def test_saved_tensors_are_guarded_and_freed():
    for change, message in ((True, "modified by an in-place"), (False, "freed")):
        x = ag.tensor(X, requires_grad=True)
        h = x * 1
        y = cube_of(ag).apply(h, 1.0).sum()
        if change:
            h.add_(1)
        else:
            y.backward()
        with pytest.raises(RuntimeError, match=message):
            y.backward()


def test_a_leaf_that_requires_grad_cannot_be_dirty():
    class Double(ag.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

    with pytest.raises(RuntimeError, match="leaf"):
        Double.apply(ag.tensor(X, requires_grad=True))


def test_checks_pass_and_find_mistakes():
    x = ag.tensor(X, requires_grad=True)
    assert gradcheck(lambda t: cube_of(ag).apply(t, 2.0), x)
    assert gradgradcheck(lambda t: cube_of(ag).apply(t, 2.0), x)
    wrong = returning(lambda lib, ctx, g: (g, None))(ag)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda t: wrong.apply(t, 2.0), x)


def test_memory_is_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = ag.tensor(X, requires_grad=True)
        y = exp_of(ag).apply(x)
        node, saved = weakref.ref(y.grad_fn), weakref.ref(y)
        del y
        assert node() is None
        assert saved() is None
    finally:
        gc.enable()


def test_half_types_and_other_threads_of_the_graph():
    x = ag.tensor([1.0, 2.0]).bfloat16().requires_grad_(True)
    cube_of(ag).apply(x, 1.0).sum().backward()
    assert x.grad.dtype == ag.bfloat16
    assert x.grad.tolist() == [3.0, 12.0]
