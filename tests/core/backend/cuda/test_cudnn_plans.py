"""Plans of cuDNN: kept in memory and on disk, chosen by trial, never made inside of a capture."""

from __future__ import annotations

import json
import logging
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support.gpu import REAL

from allgrad import kernel_counts
from allgrad.backend.reference import ReferenceBackend
from allgrad.backends import cudnn as settings
from allgrad.errors import DeviceError, Unsupported

from .test_conv import close, numbers

pytestmark = pytest.mark.skipif(REAL, reason="looks into the stand-in for cuDNN")
WINDOW = ((1, 1), (1, 1), (1, 1), 1)


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ALLGRAD_CACHE_DIR", str(tmp_path / "new" / "folder"))


@pytest.fixture
def library(gpu):
    """The stand-in; what it ran is forgotten."""
    from support.emulated_gpu import cudnn_module

    cudnn_module.executed.clear()
    return cudnn_module


@pytest.fixture
def backend(gpu, monkeypatch):
    """Makes CUDA backends, each without plans in memory; falling back is an error."""
    from allgrad.backend.cuda.backend import CudaBackend

    monkeypatch.setenv("ALLGRAD_STRICT", "1")
    return CudaBackend


def convolve(cuda, cupy, n=2):
    x, w = numbers((n, 8, 6, 6), 0), numbers((16, 8, 3, 3), 1)
    y = cuda.conv_forward(cupy.asarray(x), cupy.asarray(w), None, *WINDOW)
    return y, ReferenceBackend().conv_forward(x, w, None, *WINDOW)


def weight_gradient(cuda, cupy):
    x, grad = numbers((2, 8, 6, 6), 0), numbers((2, 16, 6, 6), 1)
    return cuda.conv_backward_weight(
        cupy.asarray(grad), cupy.asarray(x), (16, 8, 3, 3), *WINDOW, False
    )[0]


def files(tmp_path):
    return sorted((tmp_path / "new" / "folder" / "cudnn").iterdir())


def test_the_next_process_finds_the_plan(backend, gpu, library, tmp_path, monkeypatch):
    convolve(backend(), gpu)
    (path,) = files(tmp_path)
    assert path.suffix == ".plan"

    def forbidden(*_):
        raise AssertionError("planned again")

    monkeypatch.setattr(library.pygraph, "create_execution_plans", forbidden)
    close(*convolve(backend(), gpu), "f4")
    with pytest.raises(AssertionError, match="planned again"):
        convolve(backend(), gpu, n=3)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "another plan", "not a plan"])
def test_damaged_files_are_made_anew(backend, gpu, tmp_path, caplog, harm):
    from allgrad.backend.cuda import cudnn_plans

    convolve(backend(), gpu)
    (path,) = files(tmp_path)
    good = path.read_bytes()
    head, _, plan = good.partition(b"\n")
    bad = {
        "cut": good[:-7],
        "flipped": good[:-7] + bytes([good[-7] ^ 1]) + good[-6:],
        "empty": b"",
        "another plan": head.replace(b"ConvForward", b"ConvBackward") + b"\n" + plan,
        "not a plan": b"",
    }[harm]
    if harm == "not a plan":  # whole, but cuDNN cannot read it
        identity = json.loads(head)["identity"]
        bad = cudnn_plans._head(identity, b"nonsense") + b"\nnonsense"
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING, logger="allgrad"):
        close(*convolve(backend(), gpu), "f4")
    assert "made anew" in caplog.text
    assert path.read_bytes() == good


def test_a_folder_that_cannot_be_written_costs_only_the_copies(backend, gpu, tmp_path, caplog):
    (tmp_path / "new").write_text("a file where a folder should be")
    cuda = backend()
    with caplog.at_level(logging.WARNING, logger="allgrad"):
        close(*convolve(cuda, gpu), "f4")
        close(*convolve(cuda, gpu, n=3), "f4")
    assert caplog.text.count("are not kept") == 1
    assert "ALLGRAD_CACHE_DIR" in caplog.text


def test_many_may_write_one_file(tmp_path):
    from allgrad.backend.cuda.cudnn_plans import Disk

    disk, wrong = Disk(tmp_path), []

    def work(number):
        for _ in range(20):
            disk.write("identity", bytes([number]) * 5000)
            found = disk.read("identity")
            if found is None or len(set(found)) != 1:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert wrong == []
    assert len(list(tmp_path.iterdir())) == 1


def test_tf32_is_a_choice(backend, gpu, monkeypatch):
    cuda = backend()
    y, expected = convolve(cuda, gpu)
    assert np.abs(y.get() - expected).max() < 1e-5
    monkeypatch.setattr(settings, "allow_tf32", True)
    y, _ = convolve(cuda, gpu)
    assert 1e-5 < np.abs(y.get() - expected).max() < 1e-1


def test_deterministic_leaves_out_plans(backend, gpu, library, monkeypatch):
    cuda = backend()
    weight_gradient(cuda, gpu)
    monkeypatch.setattr(settings, "deterministic", True)
    weight_gradient(cuda, gpu)
    plans = [plan for _, plan in library.executed]
    assert plans == ["eng3_atomic", "eng2_plain"]


def test_benchmark_tries_all_plans_once_and_remembers(backend, gpu, library, monkeypatch):
    monkeypatch.setattr(settings, "benchmark", True)
    slow = {"eng0_tensor_core": 3.0, "eng1_large": 2.0, "eng2_plain": 1.0, "eng3_atomic": 4.0}
    monkeypatch.setattr(gpu.cuda, "get_elapsed_time", lambda *_: slow[library.executed[-1][1]])
    monkeypatch.setattr(settings, "allow_tf32", True)
    weight_gradient(backend(), gpu)
    tried = [plan for _, plan in library.executed]
    assert set(tried) == set(slow)
    assert tried[-1] == "eng2_plain"
    library.executed.clear()
    weight_gradient(backend(), gpu)  # as another process
    assert [plan for _, plan in library.executed] == ["eng2_plain"]


def test_a_plan_inside_of_a_capture_is_refused(backend, gpu):
    from allgrad.backend.cuda import device

    cuda = backend()
    convolve(cuda, gpu)
    for benchmark in (False, True):
        settings.benchmark = benchmark
        device.begin_capture(device.Capture())
        try:
            with pytest.raises(DeviceError, match="run the step once before capturing"):
                convolve(cuda, gpu, n=3)
        finally:
            device.end_capture()
            settings.benchmark = False


def test_a_step_is_captured(backend, gpu):
    from allgrad.backend.cuda import device

    cuda = backend()
    x, w = gpu.asarray(numbers((2, 8, 6, 6), 0)), gpu.asarray(numbers((16, 8, 3, 3), 1))

    def step():
        y = cuda.conv_forward(x, w, None, *WINDOW, "relu")
        z, mean, var, saved = cuda.batch_norm_forward(y, None, None, 1e-5, "relu")
        grad = cuda.batch_norm_backward(z, y, None, mean, var, 1e-5, saved, "relu")[0]
        return z, cuda.conv_backward_weight(grad, x, w.shape, *WINDOW, False)[0]

    stream, pool, capture = device.stream(), gpu.cuda.MemoryPool(), device.Capture()
    step()
    device.begin_capture(capture)
    try:
        with gpu.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            z, grad = step()
            graph = stream.end_capture()
    finally:
        device.end_capture()
    x *= -1
    w += 1
    graph.launch(stream)
    expected = step()
    assert (z.get() == expected[0].get()).all()
    assert (grad.get() == expected[1].get()).all()
    # A larger problem takes a new workspace; the graph keeps its own.
    convolve(cuda, gpu, n=8)
    graph.launch(stream)
    assert (z.get() == expected[0].get()).all()


def test_other_streams_are_followed(backend, gpu, library):
    from support.emulated_gpu import device as emulated

    cuda, stream = backend(), gpu.cuda.Stream(non_blocking=True)
    close(*convolve(cuda, gpu), "f4")
    with stream:
        emulated.log.clear()
        close(*convolve(cuda, gpu), "f4")
    used = [s for what, s in emulated.log if what.startswith("cuDNN")]
    assert used == [stream.ptr]
    stream.synchronize()


def test_what_cudnn_refuses_is_counted_and_asked_once(gpu, library, monkeypatch):
    from allgrad.backend.cuda.backend import CudaBackend

    cuda, asked = CudaBackend(), []

    def refuse(self, modes):
        asked.append(modes)
        raise library.cudnnGraphNotSupportedError("No valid engine configs for ____\n{...}")

    monkeypatch.setattr(library.pygraph, "create_execution_plans", refuse)
    kernel_counts.reset()
    for _ in range(2):
        close(*convolve(cuda, gpu), "f4")
    assert len(asked) == 1
    (counted,) = kernel_counts.fallback_counts().items()
    assert counted == (("conv_forward", "cuDNN has no kernel: No valid engine configs for"), 2)


def test_without_cudnn_on_request(gpu, monkeypatch):
    from allgrad.backend.cuda.backend import CudaBackend

    kernel_counts.reset()
    with settings.flags():
        close(*convolve(CudaBackend(), gpu), "f4")
    assert settings.enabled
    assert kernel_counts.fallback_counts() == {
        ("conv_forward", "backends.cudnn.enabled is False"): 1
    }


MISSING = {
    "not installed": (None, r"cudnn-frontend is not installed; pip install 'allgrad\[gpu\]'"),
    "another version": (
        {"__version__": "1.32.0"},
        r"cudnn-frontend 1\.32\.0 is installed, 1\.23 is needed; pip install",
    ),
    "an old cuDNN": (
        {"__version__": "1.23.0", "backend_version": lambda: 90100},
        r"cuDNN 9\.1 is installed, 9\.8 or later is needed; pip install -U nvidia-cudnn-cu13",
    ),
    "no cuDNN": (
        {"__version__": "1.23.1", "backend_version": lambda: int("?")},
        r"libcudnn\.so\.9 cannot be loaded .*pip install",
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_one_sentence_says_what_is_missing(backend, gpu, monkeypatch, what):
    from allgrad.backend.cuda import cudnn_graphs

    attributes, message = MISSING[what]
    module = None if attributes is None else SimpleNamespace(**attributes)
    monkeypatch.setitem(sys.modules, "cudnn", module)
    cudnn_graphs.forget()
    try:
        assert settings.is_available() is False
        assert settings.version() is None
        with pytest.raises(Unsupported, match=message):
            convolve(backend(), gpu)
    finally:
        cudnn_graphs.forget()


def test_settings_answer(gpu):
    assert settings.is_available()
    assert settings.version() == 91900
    with settings.flags(enabled=True, benchmark=True, allow_tf32=False):
        assert settings.benchmark
        assert not settings.allow_tf32
    assert not settings.benchmark


def test_a_missing_cublas_is_told(backend, gpu, monkeypatch):
    from support.emulated_gpu import libraries

    from allgrad.backend.cuda import cublas

    libraries.without("libcublas.so.13")
    cublas.forget()
    try:
        a = gpu.ones((2, 2), np.float32)
        with pytest.raises(Unsupported, match=r"cuBLAS cannot be loaded .*pip install"):
            backend().matmul(a, a)
    finally:
        libraries.with_all()
        cublas.forget()


def test_few_channels_of_halves_are_padded(backend, gpu, library, monkeypatch):
    shapes = []
    run = library.pygraph._run

    def noted(self, *args):
        shapes.append([t.dim[1] for t in self._all()][:2])
        return run(self, *args)

    monkeypatch.setattr(library.pygraph, "_run", noted)
    cuda = backend()
    x, w = numbers((2, 3, 6, 6), 0, "f2"), numbers((8, 3, 3, 3), 1, "f2")
    expected = ReferenceBackend().conv_forward(x.astype("f4"), w.astype("f4"), None, *WINDOW)
    for pad in (True, False):
        monkeypatch.setattr(settings, "pad_channels", pad)
        y = cuda.conv_forward(gpu.asarray(x), gpu.asarray(w), None, *WINDOW)
        close(y, expected, "f2")
        assert y.dtype == np.float16
    assert shapes == [[8, 8], [3, 3]]
