"""Products and linear algebra of complex tensors: values and gradients as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag

RNG = np.random.default_rng(3)
A, B = (RNG.standard_normal((2, 3, 3)) + 1j * RNG.standard_normal((2, 3, 3)) for _ in range(2))
A = A + 3 * np.eye(3)

# Written once for both libraries: real numbers of a and b.
FUNCTIONS = {
    "matmul": lambda lib, a, b: (a @ b).abs(),
    "matmul_vector": lambda lib, a, b: (a @ b[0, 0]).abs(),
    "vector_matmul": lambda lib, a, b: (b[0, 0] @ a).abs(),
    "vdot": lambda lib, a, b: lib.vdot(a[0, 0], b[0, 0]).abs(),
    "dot": lambda lib, a, b: lib.dot(a[0, 0], b[0, 0]).real,
    "outer": lambda lib, a, b: lib.outer(a[0, 0], b[0, 0]).imag,
    "einsum": lambda lib, a, b: lib.einsum("bij,bkj->bik", a, b).abs(),
    "adjoint": lambda lib, a, b: (a.mH @ b.adjoint()).abs(),
    "inv": lambda lib, a, b: lib.linalg.inv(a).abs(),
    "solve": lambda lib, a, b: lib.linalg.solve(a, b).abs(),
    "det": lambda lib, a, b: lib.linalg.det(a).abs(),
    "slogdet": lambda lib, a, b: lib.linalg.slogdet(a).logabsdet,
    "slogdet_sign": lambda lib, a, b: lib.linalg.slogdet(a).sign.imag,
    "cholesky": lambda lib, a, b: lib.linalg.cholesky(
        a @ a.mH + lib.eye(3, dtype=lib.complex128)
    ).abs(),
    "eigvalsh": lambda lib, a, b: lib.linalg.eigvalsh(a + a.mH),
    "eigh": lambda lib, a, b: lib.linalg.eigh(a + a.mH).eigenvectors.abs(),
    "svdvals": lambda lib, a, b: lib.linalg.svdvals(a),
    "svd": lambda lib, a, b: lib.linalg.svd(a).U.abs() * lib.linalg.svd(a).Vh.abs(),
    "qr": lambda lib, a, b: lib.linalg.qr(a).Q.abs() + lib.linalg.qr(a).R.abs(),
    "pinv": lambda lib, a, b: lib.linalg.pinv(a[..., :2]).abs(),
    "cross": lambda lib, a, b: lib.linalg.cross(a, b).abs(),
    "tensordot": lambda lib, a, b: lib.tensordot(a, b, dims=([1, 2], [1, 2])).abs(),
    "kron": lambda lib, a, b: lib.kron(a[0], b[0]).abs(),
    "vecdot": lambda lib, a, b: lib.linalg.vecdot(a, b).abs(),
    "vector_norm": lambda lib, a, b: lib.linalg.vector_norm(a, 3, -1),
    "matrix_norm": lambda lib, a, b: lib.linalg.matrix_norm(a, 1),
    "index_add": lambda lib, a, b: a.index_add(1, lib.tensor([0, 0, 1]), b).abs(),
    "diag_embed": lambda lib, a, b: lib.diag_embed(a).abs().sum(0) + b.abs().sum(),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_like_torch(name):
    torch = pytest.importorskip("torch")
    results = []
    for lib in (ag, torch):
        tensors = [lib.tensor(v).requires_grad_() for v in (A, B)]
        y = FUNCTIONS[name](lib, *tensors)
        weights = lib.tensor(np.random.default_rng(1).standard_normal(tuple(y.shape)))
        (y * weights).sum().backward()
        grads = [np.zeros(A.shape) if t.grad is None else t.grad.resolve_conj().numpy()
                 if lib is torch else t.grad.numpy() for t in tensors]  # fmt: skip
        results.append((y.detach().numpy(), *grads))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)
