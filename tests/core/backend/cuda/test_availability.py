"""Why no GPU can be used, in one sentence each: no CuPy, no driver, no GPU, a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import allgrad as ag
from allgrad.backend.cuda import availability


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy that answers or raises as it is told."""
    found = SimpleNamespace(answer=0)

    def count():
        if isinstance(found.answer, Exception):
            raise found.answer
        return found.answer

    runtime = SimpleNamespace(getDeviceCount=count)
    module = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    availability.forget()
    return found


CASES = {
    "no driver": (RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is ..."),
                  "no NVIDIA driver here, or it is older"),
    "no device": (RuntimeError("cudaErrorNoDevice: no CUDA-capable device"), "sees no GPU"),
    "none": (0, "sees no GPU"),
    "broken": (RuntimeError("cudaErrorSystemDriverMismatch"), "refuses.*Mismatch.*nvidia-smi"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_reason(cupy, name):
    cupy.answer, message = CASES[name]
    assert not ag.cuda.is_available()
    assert ag.cuda.device_count() == 0
    with pytest.raises(RuntimeError, match=message) as caught:
        ag.zeros(1, device="cuda")
    assert str(caught.value).startswith("device 'cuda': ")
    assert "\n" not in str(caught.value)
    assert "is_available()" in str(caught.value)  # how scripts choose


def test_hidden_gpus(cupy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES=''"):
        ag.zeros(1).cuda()


def test_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    availability.forget()
    with pytest.raises(RuntimeError, match=r"CuPy .*pip install 'allgrad\[gpu\]'.*CUDA 12"):
        ag.cuda.synchronize()


def test_several_gpus(cupy):
    cupy.answer = 2
    assert ag.cuda.device_count() == 2
    with pytest.raises(RuntimeError, match="below 2"):
        ag.zeros(1, device="cuda:2")


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from support.emulated_gpu import emulated_gpu
with emulated_gpu():
    import allgrad as ag
    ag.zeros(1, device="cuda")
    child = os.fork()
    if child == 0:
        try:
            ag.zeros(1, device="cuda:0")
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_forked_child_is_told(tmp_path):
    tests = os.path.join(os.path.dirname(__file__), "..", "..", "..")
    done = subprocess.run([sys.executable, "-c", FORK, os.path.abspath(tests)], timeout=60,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CUDA does not survive a fork" in done.stdout


def test_importing_allgrad_imports_no_library_of_gpus():
    found = "[m for m in ('cupy', 'cudnn') if m in sys.modules]"
    code = f"import sys, allgrad, allgrad.cuda; print({found})"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout.strip() == "[]"
