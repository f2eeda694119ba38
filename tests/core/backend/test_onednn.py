"""The binding: where the library is found, statuses, plans and their cache, threads."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend import cpu_base, memory, onednn, onednn_plan
from allgrad.backend.cpu import CpuBackend
from allgrad.errors import Unsupported


def test_version_is_3(cpu):
    library = cpu.engine.library
    assert library.version[0] == 3
    assert library.runtime in ("sequential", "OpenMP", "TBB")


def _in_fresh_process(code: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(
        command,
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_environment_variable_names_the_library(cpu):
    path = cpu.engine.library.path
    code = "from allgrad.backend import onednn; print(onednn.load().path)"
    assert _in_fresh_process(code, ALLGRAD_ONEDNN=path).strip() == path


MISSING = """
import logging
logging.basicConfig()
import numpy as np
from allgrad import kernel_counts
from allgrad.backend.cpu import CpuBackend
CpuBackend()
backend = CpuBackend()
x = np.ones((1, 1, 3, 3), np.float32)
print(backend.conv_forward(x, x, None, (1, 1), (0, 0), (1, 1), 1).item())
print(backend.matmul(np.ones((99, 99), "f"), np.ones((99, 99), "f"))[0, 0])
print(len(kernel_counts.fallback_counts()))
"""


def test_without_the_library_the_reference_serves_and_says_so_once(cpu):
    output = _in_fresh_process(MISSING, ALLGRAD_ONEDNN="/nowhere/libdnnl.so.3", ALLGRAD_STRICT="0")
    assert output.split("\n")[:3] == ["9.0", "99.0", "2"]
    assert output.count("slow reference kernels will be used") == 1
    assert "/nowhere/libdnnl.so.3: no such file" in output


def test_another_library_is_refused():
    with open("/proc/self/maps") as maps:
        libc = next(line.split()[-1] for line in maps if "/libc.so" in line)
    with pytest.raises((Unsupported, AttributeError)):
        onednn.Library(libc)


def test_statuses_become_errors(cpu):
    assert isinstance(onednn.status_error(3, "f"), Unsupported)
    assert "invalid arguments" in str(onednn.status_error(2, "f"))
    plan = cpu.new_plan()
    with pytest.raises(RuntimeError, match=r"memory_desc_create_with_strides.*invalid arguments"):
        plan.strided((2, 2), (1, 1))
    plan.close()


def test_missing_argument_is_an_error_not_a_fast_kernel(cpu):
    plan = cpu.new_plan()
    vector = plan.dense((8,))
    kind = plan.describe("binary", onednn_plan.BINARY_ADD, *[vector] * 3, plan.attributes())
    plan.call(kind, {onednn_plan.ARG_SRC: plan.external(vector)})
    with pytest.raises(RuntimeError, match="primitive_execute failed: invalid arguments"):
        plan.seal().run(np.ones(8, np.float32))


def test_unknown_function_is_named(cpu):
    with pytest.raises(AttributeError, match="'no_such_thing' has no prototype"):
        cpu.engine.library.no_such_thing()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0, dtype=np.float32),
        np.arange(6.0, dtype=np.float32)[2:],
        np.arange(6.0, dtype=np.float32)[::-1],
        np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
        np.zeros((0, 3), np.float32),
        np.frombuffer(b"abcdefgh", np.float32),
    ],
)
def test_address(array):
    assert onednn_plan.address(array) == array.__array_interface__["data"][0]


def test_scratch_grows_and_stays_aligned(cpu):
    scratch = onednn_plan.Scratch()
    scratch.reserve(100)
    assert scratch.base % 64 == 0
    base = scratch.base
    scratch.reserve(50)
    assert scratch.base == base
    scratch.reserve(1 << 20)
    assert scratch.base % 64 == 0
    assert scratch.nbytes >= 1 << 20


def test_plans_follow_the_scratch_buffer_when_it_moves(cpu, reference, draw, close):
    small, w = draw(2, 4, 6, 6), draw(4, 4, 3, 3)
    window = ((1, 1), (0, 0), (1, 1), 1)
    want = reference.conv_forward(small, w, None, *window)
    close(cpu.conv_forward(small, w, None, *window), want)
    big, big_w = draw(2, 64, 6, 6), draw(64, 64, 3, 3)
    cpu.conv_forward(big, big_w, None, *window)
    close(cpu.conv_forward(small, w, None, *window), want)


def test_the_cache_is_bounded_and_drops_the_oldest(cpu, draw):
    cpu.plans.capacity = 3
    sizes = [3000, 3001, 3002, 3000, 3003]
    for size in sizes:
        cpu.relu_forward(draw(size))
    assert len(cpu.plans) == 3
    assert cpu.plans.get(("relu", 4, 3000)) is not None
    assert cpu.plans.get(("relu", 4, 3001)) is None
    cpu.plans.clear()
    assert len(cpu.plans) == 0
    cpu.relu_forward(draw(3000))


def test_handles_are_freed(cpu, draw):
    def resident_pages() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    cpu.plans.capacity = 4
    x, w = draw(2, 16, 6, 6), draw(16, 16, 3, 3)
    for round_ in range(4):
        if round_ == 1:
            start = resident_pages()
        for n in range(1, 40):
            cpu.conv_forward(x[:1].repeat(n, axis=0), w, None, (1, 1), (1, 1), (1, 1), 1)
    assert resident_pages() - start < 5000  # 20 MB; 120 plans with code and weights would be more


def test_strict_mode_is_an_error(cpu):
    double = np.ones((3, 3))
    with pytest.raises(Unsupported, match="ALLGRAD_STRICT=1 and matmul fell back: dtype float64"):
        cpu.matmul(double, double)


def test_threads_have_their_own_backends_and_counters(cpu, reference, draw):
    x, w, window = draw(4, 8, 12, 12), draw(8, 8, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    want = cpu.conv_forward(x, w, None, *window)
    failures: list[str] = []
    barrier = threading.Barrier(4)

    def rank(number: int) -> None:
        backend = CpuBackend()
        kernel_counts.reset()
        barrier.wait(timeout=30)
        scaled = x * (number + 1)
        for _ in range(30):
            y = backend.conv_forward(scaled, w, None, *window)
            pooled, saved = backend.max_pool_forward(y, (2, 2), (2, 2), (0, 0), (1, 1), False)
            backend.max_pool_backward(pooled, saved, y.shape, (2, 2), (2, 2), (0, 0), (1, 1))
            if not np.allclose(y, want * (number + 1), rtol=1e-4, atol=1e-4):
                failures.append(f"rank {number}: wrong result")
        if kernel_counts.fast_counts().get("conv_forward") != 30:
            failures.append(f"rank {number}: {kernel_counts.fast_counts()}")
        backend.plans.clear()

    threads = [threading.Thread(target=rank, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not failures


def test_number_of_threads(cpu):
    if cpu.engine.library.runtime != "OpenMP":
        pytest.skip("not an OpenMP build")
    before = onednn.get_num_threads()
    try:
        onednn.set_num_threads(2)
        assert onednn.get_num_threads() == 2
    finally:
        onednn.set_num_threads(before)
    with pytest.raises(ValueError, match="count >= 1, got 0"):
        onednn.set_num_threads(0)


def test_result_does_not_depend_on_the_number_of_calls_before(cpu, draw):
    a, b = draw(70, 80), draw(80, 90)
    first = cpu.matmul(a, b)
    cpu.plans.clear()
    np.testing.assert_array_equal(cpu.matmul(a, b), first)


def test_malloc_thresholds_can_be_left_alone():
    code = "from allgrad.backend import memory; print(memory.keep_large_allocations())"
    assert _in_fresh_process(code, ALLGRAD_MALLOPT="0").strip() == "False"
    glibc = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    assert memory.keep_large_allocations() is glibc
    assert _in_fresh_process(code).strip() == str(glibc)


def test_the_warning_is_logged_once(caplog):
    cpu_base._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="allgrad"):
        cpu_base._warn_once("a test")
        cpu_base._warn_once("a test")
    assert len(caplog.records) == 1
