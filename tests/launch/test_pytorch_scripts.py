"""Scripts written for torch.distributed run after a change of their imports alone.

The three texts follow PyTorch's own examples: the toy model of the DDP tutorial (processes started
by `mp.spawn`), the model of torchrun's example (place read from variables), and MNIST with
`DistributedSampler`. The same text runs on PyTorch with gloo where that is installed, and must
print the same numbers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from allgrad.launch import leftovers

TOY = """
import os
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.optim as optim
from torch.nn.parallel import DistributedDataParallel as DDP

def setup(rank, world_size):
    os.environ["MASTER_ADDR"] = "localhost"
    os.environ["MASTER_PORT"] = "29533"
    dist.init_process_group("gloo", rank=rank, world_size=world_size)

class ToyModel(nn.Module):
    def __init__(self):
        super(ToyModel, self).__init__()
        self.net1 = nn.Linear(10, 10)
        self.relu = nn.ReLU()
        self.net2 = nn.Linear(10, 5)

    def forward(self, x):
        return self.net2(self.relu(self.net1(x)))

def demo_basic(rank, world_size, steps):
    setup(rank, world_size)
    model = ToyModel()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    ddp_model = DDP(model)
    loss_fn = nn.MSELoss()
    optimizer = optim.SGD(ddp_model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1 + rank, 200).reshape(20, 10)
        loss = loss_fn(ddp_model(x), torch.ones(20, 5))
        loss.backward()
        optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    if dist.get_rank() == 0:
        print("RESULT", dist.get_world_size(), dist.get_backend(), f"{total.item():.4f}")
    dist.destroy_process_group()

def run_demo(demo_fn, world_size):
    mp.spawn(demo_fn, args=(world_size, 5), nprocs=world_size, join=True)

if __name__ == "__main__":
    run_demo(demo_basic, 2)
"""

ELASTIC = """
import os
import torch
import torch.distributed as dist
from torch import nn, optim
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        x = nn.functional.relu(self.conv(x))
        return nn.functional.log_softmax(self.fc(torch.flatten(x, 1)), dim=1)

def train(model, loader, sampler, optimizer, epochs):
    model.train()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        seen, sum_of_losses = torch.zeros(1), torch.zeros(1)
        for data, target in loader:
            optimizer.zero_grad()
            loss = nn.functional.nll_loss(model(data), target)
            loss.backward()
            optimizer.step()
            seen += len(data)
            sum_of_losses += loss.item() * len(data)
        work = dist.all_reduce(seen, async_op=True)
        dist.reduce(sum_of_losses, dst=0)
        work.wait()
    return seen.item(), (sum_of_losses / seen).item()

@record
def main():
    dist.init_process_group(backend="gloo", init_method="env://")
    rank = int(os.environ["RANK"])
    assert rank == dist.get_rank() and int(os.environ["WORLD_SIZE"]) == dist.get_world_size()
    assert int(os.environ["LOCAL_RANK"]) == rank
    device = torch.device("cpu")
    model = Net().to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).reshape(parameter.shape))
    model = DDP(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    model.register_comm_hook(None, default_hooks.allreduce_hook)
    count = 37
    data = torch.linspace(-1, 1, count * 64).reshape(count, 1, 8, 8)
    dataset = TensorDataset(data, torch.arange(count) % 3)
    sampler = DistributedSampler(dataset, shuffle=False)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen, loss = train(model, loader, sampler, optimizer, epochs=2)
    names = [None] * dist.get_world_size()
    dist.all_gather_object(names, f"rank{rank}")
    half = dist.new_group([0])
    one = torch.ones(1)
    dist.all_reduce(one, group=half)
    dist.barrier()
    if rank == 0:
        torch.save({"epoch": 2, "loss": loss}, os.environ["CHECKPOINT"])
        print("RESULT", names, seen, one.item(), f"{loss:.4f}")
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def for_allgrad(text: str) -> str:
    """The script with its imports changed."""
    text = re.sub(r"^import torch$", "import allgrad as torch", text, flags=re.MULTILINE)
    text = re.sub(r"^import torch\.", "import allgrad.", text, flags=re.MULTILINE)
    return re.sub(r"^from torch\b", "from allgrad", text, flags=re.MULTILINE)


def run(argv: list[str], tmp_path: Path) -> str:
    """Run to the end, in a group of its own that a time-out ends as a whole."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "ALLGRAD_"))}
    environment = kept | {"OMP_NUM_THREADS": "1", "CHECKPOINT": str(tmp_path / "checkpoint")}
    process = subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    )
    try:
        out, _ = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        pytest.fail(f"{argv} did not end\n{out}")
    assert process.returncode == 0, out
    return out


def result(out: str) -> list[str]:
    """The words that rank 0 prints."""
    lines = [line for line in out.splitlines() if "RESULT" in line]
    assert len(lines) == 1, out
    return lines[0].split("RESULT")[1].split()


@pytest.fixture
def scripts(tmp_path: Path) -> dict[str, Path]:
    files = {}
    for name, text in (("toy", TOY), ("elastic", ELASTIC)):
        files[name] = tmp_path / f"{name}_allgrad.py"
        files[name].write_text(for_allgrad(text))
        files[name + "_torch"] = tmp_path / f"{name}_torch.py"
        files[name + "_torch"].write_text(text)
    return files


@pytest.mark.mpi
def test_scripts_of_pytorch_run(scripts: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    before = leftovers.segments()
    toy = result(run([sys.executable, str(scripts["toy"])], tmp_path))
    assert toy == ["2", "gloo", "27.9361"]  # the same number as PyTorch prints
    launcher = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2"]
    elastic = result(run([*launcher, str(scripts["elastic"])], tmp_path))
    assert elastic[:4] == ["['rank0',", "'rank1']", "38.0", "1.0"]
    assert (tmp_path / "checkpoint").exists()
    leftovers.remove_segments(before)


@pytest.mark.mpi
@pytest.mark.torch
def test_torchrun_s_script_gives_the_same_numbers_on_pytorch(
    scripts: dict[str, Path], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("mpi4py")
    if not torch.distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    theirs = result(
        run([*torchrun, "--master-port=29534", str(scripts["elastic_torch"])], tmp_path)
    )
    launcher = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2"]
    assert result(run([*launcher, str(scripts["elastic"])], tmp_path)) == theirs
