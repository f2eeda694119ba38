"""The CUDA backend serves every kernel of the protocol, most of them by a library or a kernel."""

from __future__ import annotations

import inspect

import pytest

from allgrad import backend
from allgrad.backend.protocol import Backend
from allgrad.backend.reference import ReferenceBackend

pytestmark = pytest.mark.usefixtures("gpu")

# Kernels that CuPy's own functions serve, with the reason.
WHOLE = "never called one by one: `step_all` steps a whole group in one launch"
RARE = "rarely used; a few calls of CuPy for each parameter"
BY_THE_REFERENCE = {
    **dict.fromkeys(
        ("adam_step", "adagrad_step", "lamb_step", "lars_step", "rmsprop_step", "sgd_step"), WHOLE
    ),
    **dict.fromkeys(
        ("adadelta_step", "adafactor_step", "adamax_step", "asgd_step", "nadam_step", "radam_step",
         "rprop_step"), RARE
    ),
    "muon_step": "matrix products, which cuBLAS serves",
    "nll_forward": "one gather of log-probabilities; `cross_entropy_forward` is the fused one",
    "nll_backward": "as nll_forward",
}  # fmt: skip


def declared():
    return sorted(
        name
        for base in Backend.__mro__
        for name, value in vars(base).items()
        if inspect.isfunction(value) and not name.startswith("_")
    )


@pytest.mark.parametrize("name", declared())
def test_it_is_there_with_the_protocols_parameters(name):
    kernels = backend.on_cuda(0)
    ours = inspect.signature(getattr(type(kernels), name))
    wanted = inspect.signature(getattr(ReferenceBackend, name))
    assert list(ours.parameters) == list(wanted.parameters)


def test_what_the_reference_serves_is_listed():
    kernels = type(backend.on_cuda(0))
    plain = {
        name
        for name in declared()
        if inspect.unwrap(getattr(kernels, name)) is getattr(ReferenceBackend, name)
    }
    assert plain == set(BY_THE_REFERENCE)
