"""Kernels for the emulated GPU: CUDA C++ compiled by g++ with the words of `csrc/cuda_shim.h`.

Compiled files stay in a folder of the user's, under a name made of all that went into them; what
has not been used for a month is deleted.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_HOME = Path(__file__).with_name("csrc")
_MONTH_S = 30 * 24 * 3600
_FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing")
# Undefined behaviour that is found where it happens: a GPU faults, too, or reads something else.
_CHECKS = (
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero",
    "-fsanitize-undefined-trap-on-error",
)
# Names of kernels are nobody else's: neither the C library's nor those of other sources.
_OWN_NAMES = ("-fvisibility=hidden", "-fno-gnu-unique", "-Wl,-Bsymbolic")
_WARNINGS = (
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-Wno-sign-compare",
)
_EXTERN_SHARED = re.compile(
    r"extern\s+__shared__\s+((?:__align__\(\w+\)\s*|alignas\(\w+\)\s*)?)([\w\s:]+?)\s*\b(\w+)\s*\[\s*\]\s*;"
)
_GLOBAL = re.compile(
    r"EMU_GLOBAL\s+(?:void\s+)?(?:EMU_BOUNDS\(([^()]*(?:\([^()]*\))?[^()]*)\)\s*)?(?:void\s+)?"
    r"(?:EMU_BOUNDS\(([^()]*)\)\s*)?(\w+)\s*\(([^)]*)\)"
)


class CompileException(Exception):  # noqa: N818 - CuPy's name
    """A source does not compile; the message is the compiler's."""


class Parameter(ctypes.Structure):
    """`emu_parameter` of the shim."""

    _fields_ = (
        ("kind", ctypes.c_char),
        ("constant", ctypes.c_char),
        ("element", ctypes.c_char),
        ("size", ctypes.c_uint),
        ("element_size", ctypes.c_uint),
    )


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("bounds", ctypes.c_char_p),
        ("declared", ctypes.c_char_p),
        ("launch", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)),
        ("parameters", ctypes.POINTER(Parameter)),
        ("size", ctypes.c_int),
    )


@dataclass(frozen=True)
class Compiled:
    """One kernel.

    Attributes:
        name: of the kernel.
        launch: starts it with an `emu_run`.
        parameters: what it takes; `names` is what the source calls them.
        max_threads: of its launch bounds, or 1,024.
    """

    name: str
    launch: object
    parameters: tuple[Parameter, ...]
    names: tuple[str, ...]
    max_threads: int


@functools.cache
def folder() -> Path:
    """Where compiled kernels lie."""
    home = Path(tempfile.gettempdir()) / f"allgrad-emulated-gpu-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    for file in home.iterdir():
        try:
            if time.time() - file.stat().st_mtime > _MONTH_S:
                file.unlink()
        except FileNotFoundError:
            continue
    return home


def _gxx(*arguments: str, text: str) -> str:
    command, env = ["g++", *arguments], {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, input=text, env=env, capture_output=True, text=True, timeout=300, check=False
        )
    except FileNotFoundError:
        raise CompileException("g++, which compiles for the emulated GPU, is missing") from None
    if done.returncode:
        raise CompileException(done.stderr or f"g++ ended with {done.returncode}")
    return done.stdout


def _built(source: str, flags: tuple[str, ...], complete: Callable[[str], str] = str) -> Path:
    """The library made of a source; compiled unless that has been done before.

    `complete` gives the text that is compiled.
    """
    parts = [source, *flags, *(f.read_text() for f in sorted(_HOME.iterdir())), _ENTRIES]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    library = folder() / f"{key}.so"
    try:
        os.utime(library)
        return library
    except FileNotFoundError:
        pass
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        made = Path(scratch) / "made.so"
        output = ("-shared", "-I", str(_HOME), "-x", "c++", "-", "-o", str(made))
        _gxx(*flags, *output, text=complete(source))
        made.replace(library)
    return library


@functools.cache
def runtime() -> ctypes.CDLL:
    """What runs threads; its functions are there for all kernels."""
    text = (_HOME / "runtime.cpp").read_text()
    return ctypes.CDLL(str(_built(text, (*_FLAGS, "-Wall"))), mode=ctypes.RTLD_GLOBAL)


@functools.lru_cache(maxsize=256)
def compiled(
    code: str, options: tuple[str, ...] = (), expressions: tuple[str, ...] = ()
) -> dict[str, Compiled]:
    """All kernels of a source, by name.

    Args:
        code: CUDA C++ as NVRTC takes it.
        options: ``-D`` and ``-I`` are used; the rest is NVRTC's own business.
        expressions: instances of templates, such as ``"scale<float>"``.

    Raises:
        CompileException: with what g++ says.
    """
    runtime()
    own = tuple(o for o in options if o.startswith(("-D", "-I")))
    code = _EXTERN_SHARED.sub(r"\2* const \3 = (\2*)emu_now->dynamic_shared; (void)\3;", code)
    complete = functools.partial(_with_table, own=own, expressions=expressions)
    flags = (*_FLAGS, *_CHECKS, *_OWN_NAMES, *_WARNINGS, *own)
    library = ctypes.CDLL(str(_built("\n//".join((code, *expressions)), flags, complete)))
    size = ctypes.c_int.in_dll(library, "emu_kernel_count").value
    table = (_Entry * size).in_dll(library, "emu_kernels") if size else ()
    return {entry.name.decode(): _entry(entry) for entry in table}


_ENTRIES = """
struct emu_entry {
  const char *name, *bounds, *declared;
  int (*launch)(emu_run*);
  const emu_parameter* parameters;
  int size;
};
#define EMU_SEEN __attribute__((visibility("default")))
extern "C" {
extern EMU_SEEN const emu_entry emu_kernels[];
extern EMU_SEEN const int emu_kernel_count;
const emu_entry emu_kernels[] = {
%s};
const int emu_kernel_count = %d;
}
"""


def _with_table(code: str, own: tuple[str, ...], expressions: tuple[str, ...]) -> str:
    """The source with a list of its kernels at its end."""
    scan = ("-E", "-P", "-DEMU_SCAN", "-include", str(_HOME / "cuda_shim.h"), "-x", "c++", "-")
    scanned = _gxx(*own, *scan, text=code)
    found = {
        name: (before or after, " ".join(declared.split()))
        for before, after, name, declared in _GLOBAL.findall(scanned)
    }
    names = [n for n in found if not _is_template(scanned, n)]
    names += [e for e in expressions if e not in names]
    lines = []
    for name in names:
        bounds, declared = found[name.split("<", maxsplit=1)[0].strip()]
        kernel = f"emu_kernel<{name}>"
        lines.append(
            f'{{"{name}", "{bounds}", "{declared}", {kernel}::launch, {kernel}::parameters, '
            f"{kernel}::size}},\n"
        )
    lines.append("{nullptr, nullptr, nullptr, nullptr, nullptr, 0}")
    table = _ENTRIES % ("".join(lines), len(names))
    return f'#include "cuda_shim.h"\n#line 1 "kernels.cu"\n{code}\n{table}'


def _is_template(scanned: str, name: str) -> bool:
    """Whether the kernel of that name is a template, of which instances are asked for by name."""
    bounds = r"(?:EMU_BOUNDS\([^;{}]*?\))?"
    at = re.search(rf"EMU_GLOBAL[^;{{}}()]*{bounds}[^;{{}}()]*\b{name}\s*\(", scanned)
    assert at is not None
    before = scanned[: at.start()]
    return bool(re.search(r"template\s*<[^;{}]*>\s*(?:static\s+|inline\s+)*$", before))


def _entry(entry: _Entry) -> Compiled:
    first = entry.bounds.decode().split(",", maxsplit=1)[0].strip()
    each = (re.sub(r"\[.*", "", p).split() for p in entry.declared.decode().split(","))
    return Compiled(
        entry.name.decode(),
        entry.launch,
        tuple(entry.parameters[i] for i in range(entry.size)),
        tuple(words[-1].lstrip("*&") for words in each if words),
        int(first) if first.isdigit() else 1024,
    )
