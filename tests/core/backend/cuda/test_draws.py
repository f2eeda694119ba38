"""Random tensors of a GPU: drawn there, with the distribution asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

N = 20_000

# name -> (makes it on a device, mean, standard deviation)
DRAWS = {
    "rand": (lambda d: ag.rand(N, device=d), 0.5, 12**-0.5),
    "rand_float64": (lambda d: ag.rand(N, device=d, dtype=ag.float64), 0.5, 12**-0.5),
    "rand_like": (lambda d: ag.rand_like(ag.zeros(N, device=d)), 0.5, 12**-0.5),
    "randn": (lambda d: ag.randn(N // 2, 2, device=d), 0, 1),
    "randn_half": (lambda d: ag.randn(N, device=d, dtype=ag.float16), 0, 1),
    "randn_like": (lambda d: ag.randn_like(ag.zeros(N, device=d)), 0, 1),
    "randint": (lambda d: ag.randint(3, 7, (N,), device=d), 4.5, 1.25**0.5),
    "randint_like": (lambda d: ag.randint_like(ag.zeros(N, device=d), 2), 0.5, 0.5),
    "randperm": (lambda d: ag.randperm(N, device=d), (N - 1) / 2, N / 12**0.5),
    "normal": (lambda d: ag.normal(ag.full((N,), 2.0, device=d), 3.0), 2, 3),
    "normal_std": (lambda d: ag.normal(1.0, ag.full((N,), 2.0, device=d)), 1, 2),
    "bernoulli": (lambda d: ag.bernoulli(ag.full((N,), 0.3, device=d)), 0.3, 0.21**0.5),
    "bernoulli_": (lambda d: ag.empty(N, device=d).bernoulli_(0.3), 0.3, 0.21**0.5),
    "multinomial": (
        lambda d: ag.multinomial(ag.tensor([1.0, 3.0], device=d), N, True), 0.75, 0.1875**0.5,
    ),
    "poisson": (lambda d: ag.poisson(ag.full((N,), 4.0, device=d)), 4, 2),
    "binomial": (
        lambda d: ag.binomial(ag.full((N,), 4.0, device=d), ag.full((N,), 0.5, device=d)), 2, 1,
    ),
    "uniform_": (lambda d: ag.empty(N, device=d).uniform_(-1, 1), 0, 3**-0.5),
    "normal_": (lambda d: ag.empty(N, device=d).normal_(1, 2), 1, 2),
    "exponential_": (lambda d: ag.empty(N, device=d).exponential_(2), 0.5, 0.5),
    "log_normal_": (
        lambda d: ag.empty(N, device=d).log_normal_(0, 0.5), math.exp(0.125),
        (math.exp(0.5) - math.exp(0.25)) ** 0.5,
    ),
    "geometric_": (lambda d: ag.empty(N, device=d).geometric_(0.5), 2, 2**0.5),
    "random_": (lambda d: ag.empty(N, device=d).random_(0, 10), 4.5, 8.25**0.5),
    "kaiming_normal_": (lambda d: nn.init.kaiming_normal_(ag.empty(200, 100, device=d)), 0, 0.1414),
    "xavier_uniform_": (lambda d: nn.init.xavier_uniform_(ag.empty(200, 100, device=d)), 0, 0.0816),
    "trunc_normal_": (lambda d: nn.init.trunc_normal_(ag.empty(N, device=d)), 0, 0.8796),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_distribution(name):
    make, mean, deviation = DRAWS[name]
    ag.manual_seed(5)
    got = make("cuda")
    assert got.is_cuda
    assert got.dtype is make("cpu").dtype
    values = got.cpu().numpy().astype(np.float64)
    assert values.mean() == pytest.approx(mean, abs=5 * deviation / N**0.5)
    assert values.std() == pytest.approx(deviation, rel=0.06)
    ag.manual_seed(5)
    assert ag.equal(make("cuda"), got)
    assert not ag.equal(make("cuda"), got)


def test_without_replacement():
    weights = ag.ones(3, 50, device="cuda")
    weights[:, 7] = 0
    drawn = ag.multinomial(weights, 49)
    assert drawn.is_cuda
    for row in drawn.tolist():
        assert sorted(row) == [i for i in range(50) if i != 7]
    assert sorted(ag.randperm(100, device="cuda").tolist()) == list(range(100))


def test_generators_belong_to_devices():
    here, there = ag.Generator(), ag.Generator(device="cuda")
    with pytest.raises(RuntimeError, match=r"Expected a 'cuda:0' device type.*found 'cpu'"):
        ag.rand(2, device="cuda", generator=here)
    with pytest.raises(RuntimeError, match=r"Expected a 'cpu' device type.*found 'cuda:0'"):
        ag.rand(2, generator=there)
    a = ag.rand(3, device="cuda", generator=there.manual_seed(1))
    b = ag.zeros(3, device="cuda").uniform_(generator=there.manual_seed(1))
    assert a.tolist() == b.tolist()


@pytest.mark.parametrize(
    "init",
    [
        nn.init.orthogonal_,
        nn.init.eye_,
        nn.init.ones_,
        lambda t: nn.init.sparse_(t, 0.5),
        lambda t: nn.init.dirac_(t.view(6, 4, 1)),
    ],
)
def test_other_starts(init):
    t = ag.empty(6, 4, device="cuda")
    init(t)
    assert t.is_cuda
    assert t.isfinite().all()
    if init is nn.init.orthogonal_:
        assert ag.allclose(t.T @ t, ag.eye(4, device="cuda"), atol=1e-5)
