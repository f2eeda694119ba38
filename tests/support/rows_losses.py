"""Rows of losses, with all their options."""

from __future__ import annotations

import itertools

from support.inputs import integers, normal, positive, uniform
from support.op_table import row


def weight(*shape, **options):
    return normal(*shape, batched=False, **options)


def _pair_losses():
    settings = {
        "mse_loss": ("MSE", normal, normal, {}),
        "l1_loss": ("L1", normal, normal, {}),
        "smooth_l1_loss": ("SmoothL1", normal, normal, {"beta": 0.7}),
        "huber_loss": ("SmoothL1", normal, normal, {"delta": 0.6}),
        "binary_cross_entropy": ("BCE", lambda *s: uniform(0.05, 0.95, *s),
                                 lambda *s: uniform(0, 1, *s), {}),
        "binary_cross_entropy_with_logits": ("BCEWithLogits", normal,
                                             lambda *s: uniform(0, 1, *s), {}),
        "kl_div": ("KLDiv", normal, lambda *s: uniform(0.1, 1, *s), {}),
    }  # fmt: skip
    for name, (op, x, t, options) in settings.items():
        for reduction in ("mean", "sum", "none"):
            yield row(
                f"{name}_{reduction}", op,
                lambda lib, F, x, t, n=name, o=options, r=reduction:
                    getattr(F, n)(x, t, reduction=r, **o),
                x(4, 3), t(4, 3), batches=(1,) if reduction == "mean" else (0, 1),
            )  # fmt: skip
    yield row(
        "smooth_l1_loss_zero",
        "SmoothL1",
        lambda lib, F, x, t: F.smooth_l1_loss(x, t, beta=0.0),
        normal(4, 3),
        normal(4, 3),
        batches=(1,),
    )
    yield row(
        "bce_weight",
        "BCE Mul",
        lambda lib, F, x, t, w: F.binary_cross_entropy(x, t, w),
        uniform(0.05, 0.95, 4, 3),
        uniform(0, 1, 4, 3),
        positive(3, batched=False, constant=True),
        batches=(1,),
    )
    yield row(
        "bce_logits_pos_weight",
        "BCEWithLogits",
        lambda lib, F, x, t, p: F.binary_cross_entropy_with_logits(x, t, pos_weight=p),
        normal(4, 3),
        uniform(0, 1, 4, 3),
        positive(3, batched=False, constant=True),
        batches=(1,),
    )
    yield row(
        "kl_div_log",
        "Exp",
        lambda lib, F, x, t: F.kl_div(x, t, reduction="batchmean", log_target=True),
        normal(4, 3),
        normal(4, 3),
        batches=(1,),
    )


def _class_losses():
    for reduction, smoothing, weighted, ignored, spatial in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.2), (False, True), (False, True), (False, True)
    ):
        shape, target = ((4, 5, 3), (4, 3)) if spatial else ((4, 5), (4,))

        def function(lib, F, x, t, w, r=reduction, s=smoothing, use=weighted, i=ignored):
            return F.cross_entropy(
                x,
                t,
                weight=w if use else None,
                reduction=r,
                label_smoothing=s,
                ignore_index=2 if i else -100,
            )

        label = f"{reduction}_{smoothing}_{weighted:d}{ignored:d}{spatial:d}"
        yield row(
            f"cross_entropy_{label}",
            "NLL",
            function,
            normal(*shape),
            integers(5, *target),
            positive(5, batched=False, constant=True),
            batches=() if reduction == "mean" else (0, 1),
        )
    for reduction, weighted in itertools.product(("mean", "sum", "none"), (False, True)):
        yield row(
            f"nll_loss_{reduction}_{weighted:d}", "NLL",
            lambda lib, F, x, t, w, r=reduction, use=weighted:
                F.nll_loss(x, t, weight=w if use else None, reduction=r, ignore_index=1),
            normal(6, 5), integers(5, 6), positive(5, batched=False, constant=True), batches=(),
        )  # fmt: skip
        for smoothing in (0.0, 0.3):
            yield row(
                f"cross_entropy_probabilities_{reduction}_{weighted:d}_{smoothing}",
                "SoftTargetCrossEntropy",
                lambda lib, F, x, t, w, r=reduction, use=weighted, s=smoothing:
                    F.cross_entropy(x, t, weight=w if use else None, reduction=r,
                                    label_smoothing=s),
                normal(4, 5, 3), uniform(0, 1, 4, 5, 3),
                positive(5, batched=False, constant=True), batches=(1,),
            )  # fmt: skip
    yield row(
        "cross_entropy_single",
        "NLL",
        lambda lib, F, x, t: F.cross_entropy(x, t),
        weight(5),
        integers(5, batched=False),
        batches=(),
    )


ROWS = [*_pair_losses(), *_class_losses()]
