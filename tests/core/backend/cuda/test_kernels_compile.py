"""Every kernel compiles for A100 and H100/H200, without a GPU: no spills, few enough registers.

`PYTHONPATH=tests python -m support.nvrtc sm_90` prints the figures.
"""

from __future__ import annotations

import pytest
from support import nvrtc

from allgrad.backend.cuda.kernels.registry import FILES, KERNELS, source

REGISTERS = 65536  # of a multiprocessor
BUILDS = [(file, arch) for file in FILES for arch in ("sm_90", "sm_80")]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    missing = nvrtc.why_not()
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("build", BUILDS, ids=lambda b: f"{b[0]}-{b[1]}")
def test_kernels_compile_without_spills(build):
    file, arch = build
    log = nvrtc.kept(source(file), arch, (*nvrtc.OPTIONS, "-DTYPES=7"))
    assert "warning" not in log, log
    used = nvrtc.usage(log)
    threads = {s: k.threads for k in KERNELS.values() if k.file == file for s in k.symbols()}
    assert set(used) == set(threads), "the table of kernels and the file differ"
    for symbol, usage in used.items():
        assert usage.spilled == 0, (symbol, usage)
        assert usage.stack == 0, (symbol, usage)
        assert usage.registers * threads[symbol] <= REGISTERS, (symbol, usage)
        assert usage.shared <= 48 * 1024, (symbol, usage)


def test_machine_code_comes_out():
    code, _ = nvrtc.compiled(source("elementwise.cu"), "sm_90", (*nvrtc.OPTIONS, "-DTYPES=2"))
    assert code[:4] == b"\x7fELF"


def test_an_error_names_file_and_line():
    broken = source("elementwise.cu") + "\nKERNEL(32) broken() { undeclared(); }\n"
    line = broken[broken.rindex('#line 1 "elementwise.cu"') :].count("\n") - 1
    with pytest.raises(
        nvrtc.CompileError, match=rf"elementwise\.cu\({line}\): error: .*undeclared"
    ):
        nvrtc.compiled(broken, "sm_90")


def test_spills_are_seen():
    hungry = "".join(f"float a{i} = x[{i}*n]; " for i in range(80))
    use = "".join(f"x[{i}] = a{i} * a{(i * 7 + 1) % 80}; " for i in range(80))
    head = 'extern "C" __global__ void __launch_bounds__(1024, 2) hungry(float* x, int n)'
    (usage,) = nvrtc.usage(nvrtc.compiled(f"{head} {{ {hungry}{use} }}", "sm_90")[1]).values()
    assert usage.spilled > 0
    assert usage.registers <= 32
