"""Rows of products, sums over named dimensions, and linear algebra."""

from __future__ import annotations

from support.inputs import Spec, fixed, normal, positive
from support.op_table import row

WHOLE = {"batches": ()}


def well(*shape):
    """Square matrices far from singular, with singular values that differ."""

    def draw(rng, s):
        n = s[-1]
        a = rng.standard_normal(s) * 0.3
        return a + 2 * (1 + 0.5 * rng.permutation(n))[..., None] * (rng.permutation(n)[:, None]
                                                                    == range(n))  # fmt: skip

    return Spec(draw, shape, batched=len(shape) > 2)


SQUARE = well(3, 4, 4)


def _products():
    a, b, v, w = normal(3, 4), fixed(4, 5), normal(4, batched=False), normal(5, batched=False)
    for name, op, f, inputs in (
        ("mv", "Dot", lambda lib, F, a, v: lib.mv(a, v), (a, v)),
        ("vdot", "Dot", lambda lib, F, v: lib.vdot(v, v * 2), (v,)),
        ("inner", "MatMul", lambda lib, F, a, b: lib.inner(a, b.t()), (a, b)),
        ("inner_scalar", "Mul", lambda lib, F, a: lib.inner(a, a.sum()), (a,)),
        ("outer", "Mul", lambda lib, F, v, w: lib.outer(v, w), (v, w)),
        ("ger", "Mul", lambda lib, F, v, w: v.ger(w), (v, w)),
        (
            "addmm",
            "MatMul",
            lambda lib, F, w, a, b: lib.addmm(w, a, b, beta=0.5, alpha=2),
            (w, a, b),
        ),
        ("addmm_plain", "MatMul", lambda lib, F, w, a, b: w.addmm(a, b), (w, a, b)),
        ("addmm_alone", "MatMul", lambda lib, F, w, a, b: lib.addmm(w, a, b, beta=0), (w, a, b)),
        ("addmv", "Dot", lambda lib, F, v, b: lib.addmv(v[:1], b.t(), v, alpha=3), (v, b)),
        ("addr", "Mul", lambda lib, F, b, v, w: lib.addr(b, v, w, beta=2), (b, v, w)),
        (
            "addmm_in_place",
            "MatMul",
            lambda lib, F, b, v, w: (b * 1).addr_(v, w).addmm_(lib.eye(4).to(b), b),
            (b, v, w),
        ),
        ("tensordot", "MatMul", lambda lib, F, a, b: lib.tensordot(a, b, 1), (a, b)),
        ("tensordot_outer", "MatMul", lambda lib, F, a, b: lib.tensordot(a, b, 0), (a, b)),
        ("kron", "Mul", lambda lib, F, v, b: lib.kron(v, b), (v, b)),
        ("matmul_shared", "MatMul", lambda lib, F, x, b: lib.matmul(x, b), (normal(3, 2, 4), b)),
        ("matmul_shared_left", "MatMul", lambda lib, F, x, b: b.t() @ x.mT, (normal(3, 2, 4), b)),
    ):
        yield row(f"product_{name}", op, f, *inputs)
    x, y = normal(2, 3, 4), normal(2, 4, 5)
    yield row(
        "baddbmm",
        "MatMul",
        lambda lib, F, w, x, y: lib.baddbmm(w, x, y, beta=0.5, alpha=2),
        w,
        x,
        y,
    )
    yield row("addbmm", "MatMul", lambda lib, F, w, x, y: lib.addbmm(w, x, y), w, x, y)
    yield row(
        "tensordot_dims", "MatMul", lambda lib, F, x, b: lib.tensordot(x, b, dims=([2], [0])), x, b
    )
    yield row(
        "tensordot_two",
        "MatMul",
        lambda lib, F, x, y: lib.tensordot(x, y.mT, dims=([0, 2], [0, 2])),
        x,
        y,
    )
    yield row("cross", "Roll", lambda lib, F, x: lib.cross(x, x.flip(1) * 2, dim=1), x)
    yield row(
        "cross_broadcast",
        "Roll",
        lambda lib, F, x: lib.linalg.cross(x.mT, x[:1].mT.flip(2)),
        x,
        batches=(1,),
    )
    yield row(
        "multi_dot",
        "MatMul",
        lambda lib, F, v, b, a: lib.linalg.multi_dot([v, b, b.t(), a.t()]),
        v,
        b,
        a,
    )
    yield row(
        "chain_matmul",
        "MatMul",
        lambda lib, F, a, b: lib.chain_matmul(a, b, b.t(), b),
        a,
        b,
        torch=False,
    )


EQUATIONS = {
    "ij,jk->ik": ((3, 4), (4, 5)), "bij,bjk": ((2, 3, 4), (2, 4, 5)), "ii": ((3, 3),),
    "iij->j": ((3, 3, 2),), "ij->ji": ((2, 3),), "i,j": ((3,), (4,)), "i,i": ((3,), (3,)),
    "...ij,...jk->...ik": ((2, 1, 3, 4), (5, 4, 2)), "...i->...": ((2, 3),),
    "bhqd,bhkd->bhqk": ((2, 3, 4, 5), (2, 3, 6, 5)), "bn,anm,bm->ba": ((2, 3), (4, 3, 5), (2, 5)),
    "ij,kj->ik": ((1, 3), (4, 1)), "a...b,b...->a...": ((2, 3, 4), (4, 3)),
    "Ab,bA": ((2, 3), (3, 2)),
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 5)), "iijj->ij": ((2, 2, 3, 3),),
    "ij,ij->": ((2, 3), (2, 3)),
    "...,...": ((2, 3), (3,)), "xyz->zx": ((2, 3, 4),), "a,ab,b": ((2,), (2, 3), (3,)),
}  # fmt: skip


def _sums():
    for equation, shapes in EQUATIONS.items():
        yield row(
            f"einsum {equation}",
            "",
            lambda lib, F, *x, e=equation: lib.einsum(e, *x),
            *(normal(*s, batched=False) for s in shapes),
            **WHOLE,
        )
    yield row(
        "einsum_lists",
        "MatMul",
        lambda lib, F, a, b: lib.einsum(a, [0, 1], b, [1, 2], [2, 0]),
        normal(3, 4),
        fixed(4, 5),
    )


def _positive(lib, x):
    return x @ x.mT + 0.5 * lib.eye(x.shape[-1]).to(x)


def _decompositions():
    for name, op, f in (
        ("inv", "Inverse", lambda lib, F, x: lib.linalg.inv(x)),
        ("inverse", "Inverse", lambda lib, F, x: x.inverse() * 2),
        ("det", "Det", lambda lib, F, x: lib.linalg.det(x)),
        ("slogdet", "SlogDet", lambda lib, F, x: lib.linalg.slogdet(x).logabsdet),
        ("logdet", "SlogDet", lambda lib, F, x: lib.logdet(_positive(lib, x))),
        ("cholesky", "Cholesky", lambda lib, F, x: lib.linalg.cholesky(_positive(lib, x))),
        (
            "cholesky_upper",
            "Cholesky",
            lambda lib, F, x: lib.linalg.cholesky(_positive(lib, x), upper=True),
        ),
        ("eigvalsh", "EigH", lambda lib, F, x: lib.linalg.eigvalsh(x + x.mT)),
        ("eigh", "EigH", lambda lib, F, x: lib.linalg.eigh(x + x.mT).eigenvectors.square()),
        ("svdvals", "SVD", lambda lib, F, x: lib.linalg.svdvals(x)),
        ("pinv", "PseudoInverse", lambda lib, F, x: lib.linalg.pinv(x[..., :3])),
        ("pinv_wide", "PseudoInverse", lambda lib, F, x: lib.linalg.pinv(x[..., :2, :])),
        ("matrix_power", "MatMul", lambda lib, F, x: lib.linalg.matrix_power(x * 0.3, 5)),
        ("matrix_power_negative", "Inverse", lambda lib, F, x: lib.matrix_power(x, -2)),
        ("cond", "SVD", lambda lib, F, x: lib.linalg.cond(x)),
    ):
        yield row(name, op, f, SQUARE, batches=(1,))
    yield row(
        "cond_1",
        "Inverse",
        lambda lib, F, x: lib.linalg.cond(x, 1),
        SQUARE,
        batches=(1,),
        torch=False,
    )  # there it loses its own saved inverse
    for name, f in (
        ("qr", lambda lib, F, x: lib.linalg.qr(x)),
        ("qr_tall", lambda lib, F, x: lib.linalg.qr(x[..., :3])),
        ("qr_wide", lambda lib, F, x: lib.linalg.qr(x[..., :2, :])),
        ("qr_complete", lambda lib, F, x: lib.linalg.qr(x[..., :3, :], "complete")),
    ):
        # the signs are LAPACK's choice, the same in both libraries
        yield row(
            name,
            "QR",
            lambda lib, F, x, f=f: tuple(p.square() for p in f(lib, F, x)),
            SQUARE,
            batches=(1,),
        )
    for name, f in (
        ("svd", lambda lib, x: lib.linalg.svd(x)),
        ("svd_tall", lambda lib, x: lib.linalg.svd(x[..., :3], full_matrices=False)),
        ("svd_wide", lambda lib, x: lib.linalg.svd(x[..., :2, :], False)),
    ):
        yield row(
            name,
            "SVD",
            lambda lib, F, x, f=f: tuple(p.square() for p in f(lib, x)),
            SQUARE,
            batches=(1,),
        )


def _solvers():
    b = normal(3, 4, 2)
    for name, op, f in (
        ("solve", "Solve", lambda lib, F, x, b: lib.linalg.solve(x, b)),
        ("solve_vectors", "Solve", lambda lib, F, x, b: lib.linalg.solve(x, b[..., 0])),
        ("solve_right", "Solve", lambda lib, F, x, b: lib.linalg.solve(x, b.mT, left=False)),
        (
            "solve_lower",
            "SolveTriangular",
            lambda lib, F, x, b: lib.linalg.solve_triangular(_lower(lib, x), b, upper=False),
        ),
        (
            "solve_upper",
            "SolveTriangular",
            lambda lib, F, x, b: lib.linalg.solve_triangular(_lower(lib, x).mT, b, upper=True),
        ),
        (
            "solve_unit",
            "SolveTriangular",
            lambda lib, F, x, b: lib.linalg.solve_triangular(
                _lower(lib, x), b.mT, upper=False, left=False, unitriangular=True
            ),
        ),
        ("lstsq", "PseudoInverse", lambda lib, F, x, b: lib.linalg.lstsq(x[..., :3], b).solution),
    ):
        yield row(name, op, f, SQUARE, b, batches=(1,))
    yield row(
        "solve_one_vector",
        "Solve",
        lambda lib, F, x, b: lib.linalg.solve(x, b),
        well(4, 4),
        normal(4, batched=False),
        **WHOLE,
    )
    yield row(
        "tensorinv",
        "Inverse",
        lambda lib, F, x: lib.linalg.tensorinv(x.reshape(2, 2, 4), ind=2),
        well(4, 4),
        **WHOLE,
    )


def _lower(lib, x):
    return x.tril() * 0.3 + lib.eye(4).to(x) * 2


def _norms():
    inf = float("inf")
    for ord in (1, 2, 3.5, inf, -inf, 0, -1):
        yield row(
            f"vector_norm_{ord}",
            "",
            lambda lib, F, x, p=ord: lib.linalg.vector_norm(x, p, (0, 2), True),
            positive(3, 4, 5),
            batches=(1,),
            differentiable=ord != 0,
        )
    for ord in ("fro", "nuc", 1, -1, 2, -2, inf, -inf):
        yield row(
            f"matrix_norm_{ord}",
            "",
            lambda lib, F, x, p=ord: lib.linalg.matrix_norm(x, p, (0, 2)),
            normal(3, 2, 4, batched=False),
            **WHOLE,
        )
    yield row(
        "linalg_norm",
        "Norm",
        lambda lib, F, x: (
            lib.linalg.norm(x),
            lib.linalg.norm(x, dim=-1),
            lib.linalg.norm(x, 1),
            lib.linalg.norm(x, 3, dim=0),
            lib.linalg.norm(x, "fro", keepdim=True),
        ),
        normal(3, 4),
    )
    yield row("vecdot", "Mul", lambda lib, F, x: lib.linalg.vecdot(x, x * 2, dim=0), normal(3, 4))
    yield row("vander", "Pow", lambda lib, F, x: lib.linalg.vander(x, N=4), positive(3, 4))
    yield row(
        "linalg_diagonal",
        "Diagonal",
        lambda lib, F, x: lib.linalg.diagonal(x, offset=1),
        normal(2, 3, 4),
    )


def _distances():
    a, b = normal(3, 4), normal(5, 4, batched=False)
    for p in (0, 1, 2, 3.5, float("inf")):
        yield row(
            f"cdist_{p}",
            "Sub",
            lambda lib, F, a, b, p=p: lib.cdist(a, b, p),
            a,
            b,
            differentiable=p != 0,
        )
    yield row(
        "cdist_stack",
        "Norm",
        lambda lib, F, x: lib.cdist(x, x[:1, :2] * 2),
        normal(2, 3, 4),
        batches=(1,),
    )
    yield row("cdist_itself", "Norm", lambda lib, F, a: lib.cdist(a, a), a, differentiable=False)
    yield row("pdist", "Norm", lambda lib, F, b: (F.pdist(b), F.pdist(b, 1)), b)
    yield row("cosine_similarity", "Norm", lambda lib, F, a, b: F.cosine_similarity(a, b[:1]), a, b)
    yield row(
        "cosine_similarity_dim",
        "Norm",
        lambda lib, F, x: F.cosine_similarity(x, x.flip(2), dim=-1),
        normal(2, 3, 4),
    )
    yield row(
        "pairwise_distance",
        "Norm",
        lambda lib, F, a, b: (
            F.pairwise_distance(a, b[0]),
            F.pairwise_distance(a, b[1], 1, keepdim=True),
        ),
        a,
        b,
    )


def _covariance():
    b = normal(5, 4, batched=False)
    weights = [0.5, 1, 2, 0.1]
    yield row(
        "cov",
        "MatMul",
        lambda lib, F, b: (lib.cov(b), lib.cov(b, correction=0), lib.cov(b[0]), b.T.cov()),
        b,
    )
    yield row(
        "cov_weights",
        "MatMul",
        lambda lib, F, b: (
            lib.cov(b, fweights=lib.tensor([1, 0, 2, 1])),
            lib.cov(b, aweights=lib.tensor(weights).to(b.detach())),
            lib.cov(
                b,
                fweights=lib.tensor([1, 1, 2, 1]),
                correction=0,
                aweights=lib.tensor(weights).to(b.detach()),
            ),
        ),
        b,
    )
    yield row("corrcoef", "MatMul", lambda lib, F, b: lib.corrcoef(b).tril(-1), b)


ROWS = [
    *_distances(),
    *_covariance(),
    *_products(),
    *_sums(),
    *_decompositions(),
    *_solvers(),
    *_norms(),
]
