"""CUDA's runtime compiler without a GPU, driver or CuPy: the wheel `nvidia-cuda-nvrtc` by ctypes.

python tests/support/nvrtc.py [sm_90 ...]    # registers, spills and shared memory per kernel
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.emulated_gpu import compiler

# What CuPy's RawModule adds to every source, and the assembler's report.
OPTIONS = (
    "--std=c++17",
    "-ftz=true",
    "--device-as-default-execution-space",
    "--ptxas-options=-v",
)
_HOME = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "lib")
_PROPERTIES = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of a multiprocessor, as the assembler reports it.

    Attributes:
        registers: per thread.
        spilled, stack: bytes per thread in local memory.
        shared: bytes of shared memory per block.
    """

    registers: int
    spilled: int
    stack: int
    shared: int


class CompileError(RuntimeError):
    """The compiler refused a source; the message is its log."""


def why_not() -> str | None:
    """Why nothing can be compiled here, or None."""
    try:
        _library()
    except OSError as error:
        return f"pip install nvidia-cuda-nvrtc: {error}"
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    # NVRTC looks for its built-ins by name alone, so they are loaded first.
    for builtins in sorted(_HOME.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(_HOME / "libnvrtc.so.13"))


def compiled(source: str, arch: str, options: tuple[str, ...] = OPTIONS) -> tuple[bytes, str]:
    """(machine code, log) of a source for `arch`, such as "sm_90".

    Raises:
        CompileError: with the log.
    """
    library, program = _library(), ctypes.c_void_p()
    status = library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"source.cu", 0, None, None
    )
    if status:
        raise CompileError(f"nvrtcCreateProgram returned {status}")
    try:
        flags = [flag.encode() for flag in (f"-arch={arch}", *options)]
        status = library.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*flags)
        )
        log = _text(program, "ProgramLog").decode(errors="replace")
        if status:
            raise CompileError(log)
        return _text(program, "CUBIN"), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def kept(source: str, arch: str, options: tuple[str, ...] = OPTIONS) -> str:
    """The log of `compiled`, which is kept for sources that have not changed."""
    version = sorted(p.name for p in _HOME.parent.parent.parent.glob("nvidia_cuda_nvrtc*"))
    key = "\0".join((source, arch, *options, *version))
    file = compiler.folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.log"
    try:
        os.utime(file)
        return file.read_text()
    except FileNotFoundError:
        _, log = compiled(source, arch, options)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            new.write(log)
        os.replace(new.name, file)
        return log


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    library, size = _library(), ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def usage(log: str) -> dict[str, Usage]:
    """Per kernel what the assembler's report says."""
    found = {}
    for match in _PROPERTIES.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["symbol"]] = Usage(
            registers=int(match["registers"]),
            spilled=int(match["stores"]) + int(match["loads"]),
            stack=int(match["stack"]),
            shared=int(shared[1]) if shared else 0,
        )
    return found


def table(arch: str) -> str:
    """Registers, spills, shared memory and resident threads of every kernel, as Markdown."""
    from allgrad.backend.cuda.kernels.registry import FILES, KERNELS, source

    rows = [
        f"| kernel ({arch}) | threads | registers | spilled bytes | shared bytes | blocks per SM |",
        "|---|---|---|---|---|---|",
    ]
    reports: dict[str, Usage] = {}
    for file in FILES:
        reports |= usage(kept(source(file), arch))
    for kernel in KERNELS.values():
        for symbol in kernel.symbols():
            u = reports[symbol]
            resident = min(
                2048 // kernel.threads, 65536 // (kernel.threads * -(-u.registers // 8) * 8)
            )
            rows.append(
                f"| {symbol} | {kernel.threads} | {u.registers} | {u.spilled} | {u.shared} "
                f"| {resident} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    missing = why_not()
    if missing:
        sys.exit(missing)
    for name in sys.argv[1:] or ["sm_90"]:
        print(table(name))  # noqa: T201 - it is a program here
