"""What only a real GPU can show: run by ``make gpu-check``, with ALLGRAD_TEST_GPU=1.

One GPU is enough: NCCL with one rank; two processes that share the GPU through main memory, and
from NCCL 2.30 on through NCCL, which must be told so.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(os.environ.get("ALLGRAD_TEST_GPU") != "1", reason="needs a real GPU"),
]

# Two ranks on one GPU: experimental, off without the first; the others bound what each takes of the
# GPU, keep NCCL off the network, and its observer from opening a port.
SHARED = {
    "NCCL_MULTI_RANK_GPU_ENABLE": "1",
    "NCCL_MAX_CTAS": "8",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_RAS_ENABLE": "0",
}

TRAINING = """
import sys
import numpy as np
import allgrad as ag
from allgrad import ddp, nn, optim

backend, size = sys.argv[1], int(sys.argv[2])
ddp.init_process_group(backend or None)
rank = ddp.get_rank()
assert ddp.get_world_size() == size
ag.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 10)
).to("cuda")
wrapped = ddp.DistributedDataParallel(model, static_graph=True, check_replicas_every=3)
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
rng = np.random.default_rng(0)
for step in range(8):
    x = rng.normal(size=(32, 3, 16, 16)).astype(np.float32)
    y = rng.integers(0, 10, 32)
    own = slice(32 * rank // size, 32 * (rank + 1) // size)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(
        wrapped(ag.from_numpy(x[own]).to("cuda")), ag.from_numpy(y[own]).to("cuda")
    )
    loss.backward()
    optimizer.step()
ddp.check_replicas(wrapped)
if rank == 0:
    np.savez(sys.argv[3], **{k: v.cpu().numpy() for k, v in model.state_dict().items()})
ddp.destroy_process_group()
"""


@pytest.fixture
def trained(mpirun, tmp_path):
    """Parameters after some steps on so many processes that share the GPU."""

    def run(ranks: int, backend: str, **variables: str) -> dict[str, np.ndarray]:
        script, out = tmp_path / "train.py", tmp_path / f"{backend}{ranks}.npz"
        script.write_text(TRAINING)
        argv = [str(script), backend, str(ranks), str(out)]
        done = mpirun(ranks, argv, timeout_s=120.0, **variables)
        assert done.returncode == 0, done.stderr
        with np.load(out) as file:
            return dict(file)

    return run


@pytest.fixture
def nccl_version():
    """Of the library that CuPy finds."""
    from allgrad.ddp.communicators.gpu_base import nccl_version

    version, problem = nccl_version()
    assert problem == ""
    return version


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64"])
def test_nccl_with_one_rank(nccl_version, dtype):
    ddp.init_process_group("nccl")
    try:
        x = ag.arange(5).to(getattr(ag, dtype)).to("cuda")
        before = x.float().tolist()
        ddp.all_reduce(x)
        ddp.broadcast(x, 0)
        out = ag.zeros_like(x)
        ddp.all_gather_into_tensor(out, x)
        ddp.reduce_scatter_tensor(x, out)
        work = ddp.all_reduce(x, async_op=True)
        work.wait()
        ddp.barrier()
        assert x.float().tolist() == before
        if dtype != "int64":
            ddp.all_reduce(x, ddp.ReduceOp.AVG)
            assert x.float().tolist() == before
    finally:
        ddp.destroy_process_group()


def test_two_ranks_through_main_memory_are_one_with_the_whole_batch(trained):
    close(trained(2, "gloo"), trained(1, ""))


def test_two_ranks_by_nccl_are_one_with_the_whole_batch(trained, nccl_version):
    if nccl_version < 23000:
        pytest.skip(f"NCCL {nccl_version} refuses two ranks on one GPU; 2.30 does not")
    close(trained(2, "nccl", **SHARED), trained(1, ""))


def test_few_gpus_are_told(mpirun, nccl_version):
    count = ag.cuda.device_count() + 1
    done = mpirun(count, "from allgrad import ddp; ddp.init_process_group('nccl')")
    assert done.returncode != 0
    assert f"GPUs for {count} ranks" in done.stderr or "1 GPU for 2 ranks" in done.stderr
