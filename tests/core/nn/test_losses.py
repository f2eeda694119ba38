"""Loss layers: the options that the op table does not reach, and single samples."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from support.losses import CLASSES, IMAGE, LOGITS, LOSSES, PLANE, SHARES, STEPS, UNIT, WEIGHT
from support.tolerances import GRADIENT, assert_close
from support.twin import both

import allgrad as ag
from allgrad import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LEGACY = [n for n in LOSSES if "size_average" in inspect.signature(getattr(torch.nn, n)).parameters]
CASES = [(name, i) for name, (_, options) in LOSSES.items() for i in range(len(options))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_layers(name, number):
    arrays, options = LOSSES[name]

    def scenario(lib, F, t):
        inputs = [getattr(t, key) for key in ("x", "y", "z", "w") if hasattr(t, key)]
        loss = getattr(lib.nn, name)(**options[number])(*inputs)
        loss.sum().backward()
        return loss, repr(getattr(lib.nn, name)())

    # PyTorch has no gradient for these targets, or (Poisson) 0 * inf.
    fixed = ("y",) if name in ("PoissonNLLLoss", "SoftMarginLoss") else ()
    both(scenario, constants=fixed, **arrays)


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss", "BCELoss", "BCEWithLogitsLoss"])
def test_weights_are_buffers(name):
    def scenario(lib, F, t):
        loss = getattr(lib.nn, name)(weight=t.w)
        loss(t.x, t.y).backward()
        return str(list(loss.state_dict())), len(list(loss.parameters()))

    arrays = dict(LOSSES[name][0])
    both(scenario, constants=("w",), w=WEIGHT, **arrays)


def test_positive_weight():
    def scenario(lib, F, t):
        loss = lib.nn.BCEWithLogitsLoss(pos_weight=t.w)
        loss(t.x, t.y).backward()
        return str(list(loss.state_dict()))

    both(scenario, constants=("w",), w=WEIGHT, x=LOGITS, y=SHARES)


def test_images():
    def scenario(lib, F, t):
        loss = lib.nn.CrossEntropyLoss(t.w, ignore_index=2, label_smoothing=0.1)(t.x, t.y)
        loss.backward()
        return loss, F.nll_loss(F.log_softmax(t.x, 1), t.y, reduction="none")

    both(scenario, constants=("w",), w=WEIGHT, x=IMAGE, y=PLANE)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_single_sample(reduction, smoothing):
    def scenario(lib, F, t):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        a = F.cross_entropy(t.x, t.y, **options)
        b = F.cross_entropy(t.x, t.p, **options)
        c = F.nll_loss(F.log_softmax(t.x, 0), t.y, reduction=reduction)
        (a + 2 * b + 3 * c).backward()
        return a, b, c

    both(scenario, x=LOGITS[0], y=CLASSES[0], p=SHARES[0])


def test_everything_ignored_is_nan_as_in_pytorch():
    def scenario(lib, F, t):
        loss = F.cross_entropy(t.x, t.y, reduction="sum")
        loss.backward()
        return loss, bool(F.cross_entropy(t.x, t.y).isnan())

    both(scenario, x=LOGITS, y=np.full(4, -100))


def test_target_of_another_dtype():
    def scenario(lib, F, t):
        loss = F.mse_loss(t.x, (t.x > 0).to(lib.float64)) + F.mse_loss(t.x, lib.ones(4, 5))
        loss.backward()
        return loss

    both(scenario, x=LOGITS)


def test_broadcast_target_of_mse():
    x = ag.tensor(LOGITS, requires_grad=True)
    t = ag.tensor(SHARES[:1], requires_grad=True)
    with pytest.warns(UserWarning, match=r"mse_loss.*\(1, 5\).*\(4, 5\)"):
        nn.functional.mse_loss(x, t).backward()
    assert t.grad.shape == (1, 5)
    np.testing.assert_allclose(t.grad.numpy(), -x.grad.numpy().sum(0, keepdims=True))


def test_weighted_mse():
    def scenario(lib, F, t):
        loss = F.mse_loss(t.x, t.y, weight=t.w)
        loss.backward()
        return loss

    both(scenario, constants=("w",), x=LOGITS, y=SHARES, w=np.broadcast_to(WEIGHT, (4, 5)))


@pytest.mark.parametrize(
    ("options", "reduction"),
    [
        ({"size_average": False}, "sum"),
        ({"reduce": False}, "none"),
        ({"size_average": True}, "mean"),
    ],
)
@pytest.mark.parametrize("name", [n for n in LOSSES if n in LEGACY])
def test_old_names_of_reductions(name, options, reduction):
    with pytest.warns(UserWarning, match="reduction"):
        loss = getattr(nn, name)(**options)
    assert loss.reduction == reduction
    with pytest.warns(UserWarning, match="reduction"):
        assert getattr(torch.nn, name)(**options).reduction == reduction


def test_ctc_of_one_sample_and_joined_targets():
    def scenario(lib, F, t):
        one = F.ctc_loss(t.x[:, 0], t.y[:3], lib.tensor(6), lib.tensor(3), reduction="none")
        lengths = (lib.tensor([6, 6, 5, 6]), lib.tensor([3, 1, 2, 0]))
        many = F.ctc_loss(F.log_softmax(t.x, 2), t.y, *lengths, reduction="none")
        (one + (many * t.w).sum()).backward()
        return one, many

    rng = np.random.default_rng(3)
    both(scenario, constants=("w",), x=np.log(rng.dirichlet(np.ones(5), (6, 4))),
         y=np.array([1, 1, 3, 2, 4, 4]), w=rng.random(4))  # fmt: skip


@pytest.mark.parametrize("zero", [False, True])
def test_ctc_without_any_alignment(zero):
    """Three labels, the first two alike, do not fit into three steps."""

    def scenario(lib, F, t):
        lengths = (lib.tensor([3, 3]), lib.tensor([3, 2]))
        loss = F.ctc_loss(t.x, t.y, *lengths, reduction="none", zero_infinity=zero)
        loss[1 - zero :].sum().backward()
        return loss

    x = np.log(np.random.default_rng(3).dirichlet(np.ones(4), (3, 2)))
    both(scenario, x=x, y=np.array([[1, 1, 2], [1, 2, 0]]))


@pytest.mark.parametrize("head_bias", [False, True])
def test_adaptive_log_softmax(head_bias):
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 6], 2.0, head_bias).double()
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 6], 2.0, head_bias).double()
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    array, classes = rng.standard_normal((9, 8)), np.array([0, 11, 3, 5, 6, 2, 1, 8, 4])
    found = []
    for lib, layer in ((ag, ours), (torch, theirs)):
        x, t = lib.tensor(array, requires_grad=True), lib.tensor(classes)
        result = layer(x, t)
        result.loss.backward()
        one = layer(x[0], t[0])
        found.append(
            [result.output, result.loss, x.grad, one.output, layer.log_prob(x), layer.predict(x)]
            + [p.grad for p in layer.parameters()]
        )
    for a, b in zip(*found, strict=True):
        assert_close(a.detach().numpy(), b.detach().numpy(), GRADIENT)


@pytest.mark.parametrize("make", [
    lambda lib: lib.nn.AdaptiveLogSoftmaxWithLoss(4, 9, []),
    lambda lib: lib.nn.AdaptiveLogSoftmaxWithLoss(4, 9, [5, 3]),
    lambda lib: lib.nn.AdaptiveLogSoftmaxWithLoss(4, 9, [9]),
    lambda lib: lib.nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3], 2)(lib.ones(2, 4), lib.tensor([1])),
    lambda lib: lib.nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3], 2)(lib.ones(1, 4), lib.tensor([9])),
])  # fmt: skip
def test_adaptive_log_softmax_mistakes(make):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        make(torch)
    with pytest.raises(theirs.type):
        make(ag)


# name -> (call, what its message must name): the exception must be one of the type PyTorch raises.
MISTAKES = {
    "mse shapes": (lambda lib, F, t: F.mse_loss(t.x, t.x[:, :3]), r"mse_loss.*\(4, 5\).*\(4, 3\)"),
    "mse integers": (lambda lib, F, t: F.mse_loss(t.y, t.y), "mse_loss.*int64"),
    "smooth_l1 beta": (lambda lib, F, t: F.smooth_l1_loss(t.x, t.x, beta=-1.0), "-1"),
    "huber delta": (lambda lib, F, t: F.huber_loss(t.x, t.x, delta=0.0), "delta"),
    "bce shapes": (lambda lib, F, t: F.binary_cross_entropy(t.u, t.u[:2]), r"\(4, 5\).*\(2, 5\)"),
    "bce range": (lambda lib, F, t: F.binary_cross_entropy(t.x * 9, t.u), r"0\.\.1"),
    "bce dtype": (lambda lib, F, t: F.binary_cross_entropy(t.u, t.u.float()), "float32"),
    "bce integers": (lambda lib, F, t: F.binary_cross_entropy(t.u, t.u.long()), "int64"),
    "logits shapes": (lambda lib, F, t: F.binary_cross_entropy_with_logits(t.x, t.x[0]), "5"),
    "logits integers": (lambda lib, F, t: F.binary_cross_entropy_with_logits(t.x, t.x.long()),
                        "int64"),
    "logits pos_weight": (lambda lib, F, t: F.binary_cross_entropy_with_logits(
        t.x, t.u, pos_weight=t.x[0, :3]), r"\(4, 5\)"),
    "kl shapes": (lambda lib, F, t: F.kl_div(t.x, t.u[:3], reduction="sum"), "kl_div"),
    "nll float target": (lambda lib, F, t: F.nll_loss(t.x, t.x[:, 0]), "nll_loss.*float64"),
    "nll batch": (lambda lib, F, t: F.nll_loss(t.x, t.y[:3]), r"\(4, 5\).*\(3,\)"),
    "nll class": (lambda lib, F, t: F.nll_loss(t.x, t.y + 5), "5 classes"),
    "nll weight": (lambda lib, F, t: F.nll_loss(t.x, t.y, t.x[0, :3]), "5 classes"),
    "nll scalar": (lambda lib, F, t: F.nll_loss(t.x[0, 0], t.y[0]), "nll_loss"),
    "nll integers": (lambda lib, F, t: F.nll_loss(t.x.long(), t.y), "int64"),
    "cross_entropy batch": (lambda lib, F, t: F.cross_entropy(t.x, t.y[:3]), r"\(4, 5\).*\(3,\)"),
    "cross_entropy class": (lambda lib, F, t: F.cross_entropy(t.x, t.y - 1), "-1"),
    "cross_entropy float classes": (lambda lib, F, t: F.cross_entropy(t.x, t.x[:, 0]),
                                    "float64"),
    "cross_entropy smoothing": (lambda lib, F, t: F.cross_entropy(t.x, t.y, label_smoothing=2.0),
                                "label_smoothing"),
    "cross_entropy weight": (lambda lib, F, t: F.cross_entropy(t.x, t.y, t.x[0, :3]), "5 classes"),
    "cross_entropy weight dtype": (lambda lib, F, t: F.cross_entropy(t.x, t.y, t.x[0].float()),
                                   "float32"),
    "cross_entropy ignored share": (lambda lib, F, t: F.cross_entropy(t.x, t.u, ignore_index=2),
                                    "ignore_index"),
    "poisson shapes": (lambda lib, F, t: F.poisson_nll_loss(t.x, t.u[:2]), "poisson"),
    "gaussian variance": (lambda lib, F, t: F.gaussian_nll_loss(t.x, t.x, t.u[:, :2]), "var"),
    "gaussian negative": (lambda lib, F, t: F.gaussian_nll_loss(t.x, t.x, -t.u), "negative"),
    "hinge shapes": (lambda lib, F, t: F.hinge_embedding_loss(t.x, t.x[:2, :2]), "hinge"),
    "cosine dimensions": (lambda lib, F, t: F.cosine_embedding_loss(t.x, t.x, t.x[:, :1]),
                          r"\(4, 1\)"),
    "cosine batch": (lambda lib, F, t: F.cosine_embedding_loss(t.x, t.x, t.x[:2, 0]), r"\(2,\)"),
    "ranking dimensions": (lambda lib, F, t: F.margin_ranking_loss(t.x, t.x, t.x[0]), r"\(5,\)"),
    "multi_margin p": (lambda lib, F, t: F.multi_margin_loss(t.x, t.y, p=3), "p 1 or 2"),
    "multi_margin weight": (lambda lib, F, t: F.multi_margin_loss(t.x, t.y, weight=t.x[0, :3]),
                            "5 classes"),
    "multi_margin class": (lambda lib, F, t: F.multi_margin_loss(t.x, t.y + 5), "out of range"),
    "multi_margin batch": (lambda lib, F, t: F.multi_margin_loss(t.x, t.y[:2]), r"\(2,\)"),
    "multi_margin dtype": (lambda lib, F, t: F.multi_margin_loss(t.x, t.x[:, 0]), "float64"),
    "multilabel shapes": (lambda lib, F, t: F.multilabel_margin_loss(t.x, t.y), r"\(4,\)"),
    "soft_margin shapes": (lambda lib, F, t: F.soft_margin_loss(t.x, t.x[:2]), "soft_margin"),
    "triplet dimensions": (lambda lib, F, t: F.triplet_margin_loss(t.x, t.x, t.x[0]), r"\(5,\)"),
    "triplet margin": (lambda lib, F, t: F.triplet_margin_loss(t.x, t.x, t.x, margin=-1.0), "-1"),
    "ctc blank": (lambda lib, F, t: F.ctc_loss(t.s, t.y, t.n, t.n * 0 + 1, blank=9), "blank"),
    "ctc lengths": (lambda lib, F, t: F.ctc_loss(t.s, t.y, t.n[:2], t.n * 0 + 1), "4"),
    "ctc steps": (lambda lib, F, t: F.ctc_loss(t.s, t.y, t.n + 9, t.n * 0 + 1), r"0\.\.6"),
    "ctc dimensions": (lambda lib, F, t: F.ctc_loss(t.s[0, 0], t.y, t.n, t.n), "log_probs"),
    **{
        f"{name} reduction": (
            lambda lib, F, t, n=name, o=options: getattr(lib.nn, n)(reduction="x", **o)(
                *([t.s, t.y, t.n, t.n] if n == "CTCLoss" else
                  [t.x, t.x, t.u] if len(LOSSES[n][0]) == 3 else
                  [t.u, t.u] if n == "BCELoss" else
                  [t.x, t.y] if LOSSES[n][0]["y"].dtype.kind == "i" else [t.x, t.u])
            ),
            "'x'",
        )
        for name, options in ((n, {}) for n in LOSSES)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:.*differs from the input size")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_mistakes_raise_what_pytorch_raises(name):
    call, message = MISTAKES[name]
    arrays = {"x": LOGITS, "y": CLASSES, "u": UNIT, "s": STEPS, "n": np.array([6, 6, 5, 6])}

    def run(lib):
        t = SimpleNamespace(**{k: lib.tensor(v) for k, v in arrays.items()})
        call(lib, lib.nn.functional, t)

    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        run(torch)
    with pytest.raises(theirs.type, match=message):
        run(ag)
