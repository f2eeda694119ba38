"""Rows of losses with margins, of likelihoods, and of CTC; `rows_losses.py` has the others."""

from __future__ import annotations

import itertools

import numpy as np
from support.inputs import Spec, integers, normal, positive
from support.op_table import row

REDUCTIONS = ("mean", "sum", "none")


def signs(*shape, **options):
    def draw(rng, s):
        return np.where(rng.random(s) < 0.5, -1.0, 1.0)

    return Spec(draw, shape, **{"constant": True, **options})


def counts(*shape, **options):
    return Spec(lambda rng, s: rng.integers(0, 5, s).astype(float), shape,
                **{"constant": True, **options})  # fmt: skip


def labels(*shape):
    """Rows of class indices of which some end in -1."""

    def draw(rng, s):
        found = np.stack([rng.permutation(s[1]) for _ in range(s[0])])
        found[0, 2:] = -1
        found[1, :] = -1
        return found

    return Spec(draw, shape, batched=False, constant=True)


def _margins():
    pair = (normal(4, 3), normal(4, 3))
    cases = {
        "hinge_embedding_loss": ("Where", (normal(4, 3), signs(4, 3)), {"margin": 0.7}),
        "soft_margin_loss": ("Softplus", (normal(4, 3), signs(4, 3)), {}),
        "cosine_embedding_loss": ("Where", (*pair, signs(4)), {"margin": -0.2}),
        "margin_ranking_loss": ("Clamp", (*pair, signs(4, 3)), {"margin": 0.3}),
        "multilabel_soft_margin_loss": ("LogSigmoid", pair, {}),
        "triplet_margin_loss": ("Clamp", (*pair, normal(4, 3)), {"margin": 1.3}),
        "poisson_nll_loss": ("Exp", (normal(4, 3), counts(4, 3)), {"full": True}),
        "gaussian_nll_loss": ("Log", (*pair, positive(4, 3)), {"full": True}),
    }
    for (name, (ops, inputs, options)), reduction in itertools.product(cases.items(), REDUCTIONS):
        yield row(
            f"{name}_{reduction}", ops,
            lambda lib, F, *t, n=name, o=options, r=reduction: getattr(F, n)(*t, reduction=r, **o),
            *inputs, batches=(1,),
        )  # fmt: skip
    yield row(
        "triplet_margin_loss_swap",
        "Minimum",
        lambda lib, F, a, p, n: F.triplet_margin_loss(a, p, n, p=3, swap=True),
        *pair,
        normal(4, 3),
        batches=(1,),
    )
    yield row(
        "triplet_margin_with_distance_loss",
        "Clamp",
        lambda lib, F, a, p, n: F.triplet_margin_with_distance_loss(
            a, p, n, distance_function=lambda x, y: (x - y).abs().sum(-1), margin=2.0
        ),
        *pair,
        normal(4, 3),
        batches=(1,),
    )
    yield row(
        "poisson_nll_loss_rate",
        "Log",
        lambda lib, F, x, t: F.poisson_nll_loss(x, t, log_input=False),
        positive(4, 3),
        counts(4, 3),
        batches=(1,),
    )
    yield row(
        "gaussian_nll_loss_one_variance",
        "Log",
        lambda lib, F, x, t, v: F.gaussian_nll_loss(x, t, v),
        *pair,
        positive(4),
        batches=(1,),
    )


def _classes():
    for p, weighted, reduction in itertools.product((1, 2), (False, True), REDUCTIONS):
        yield row(
            f"multi_margin_loss_{p}_{weighted:d}_{reduction}", "Gather",
            lambda lib, F, x, t, w, p=p, use=weighted, r=reduction:
                F.multi_margin_loss(x, t, p, 0.8, w if use else None, reduction=r),
            normal(4, 5), integers(5, 4), positive(5, batched=False, constant=True), batches=(1,),
        )  # fmt: skip
    for reduction in REDUCTIONS:
        yield row(
            f"multilabel_margin_loss_{reduction}",
            "Gather",
            lambda lib, F, x, t, r=reduction: F.multilabel_margin_loss(x, t, reduction=r),
            normal(4, 5, batched=False),
            labels(4, 5),
            batches=(),
        )


def _ctc():
    lengths = ([7, 5, 6], [3, 0, 2])
    for reduction in REDUCTIONS:
        yield row(
            f"ctc_loss_{reduction}", "CTC LogSoftmax",
            lambda lib, F, x, t, r=reduction: F.ctc_loss(
                F.log_softmax(x, 2), t + 1, *map(lib.tensor, lengths), reduction=r
            ),
            normal(7, 3, 5, batched=False), integers(4, 3, 3, batched=False), batches=(),
        )  # fmt: skip
    yield row(
        "ctc_loss_joined_targets", "CTC",
        lambda lib, F, x, t: F.ctc_loss(
            F.log_softmax(x, 2), t, *map(lib.tensor, lengths), blank=4, zero_infinity=True
        ),
        normal(7, 3, 5, batched=False), integers(4, 5, batched=False), batches=(),
    )  # fmt: skip


ROWS = [*_margins(), *_classes(), *_ctc()]
