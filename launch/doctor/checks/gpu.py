"""GPUs: is there a driver, and one GPU for each rank?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, warning


def _wants_gpus(facts: Facts) -> bool:
    return any(name.startswith("cupy") for name in facts.software.packages)


def visible(facts: Facts) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES up to the first that CUDA would not take; else all."""
    text = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return [str(index) for index in range(len(facts.gpus.names))]
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return entries[: entries.index("-1")] if "-1" in entries else entries


def no_driver(facts: Facts) -> Iterator[Finding]:
    """A GPU, CuPy or CUDA_VISIBLE_DEVICES without a driver that answers."""
    gpus = facts.gpus
    reasons = [
        reason
        for reason, holds in (
            ("this machine has a GPU of NVIDIA", gpus.present),
            ("CuPy is installed", _wants_gpus(facts)),
            ("CUDA_VISIBLE_DEVICES is set", bool(facts.environ.get("CUDA_VISIBLE_DEVICES"))),
        )
        if holds
    ]
    if gpus.problem and reasons:
        yield warning(
            "no_gpu_driver",
            f"{' and '.join(reasons)}, but NVIDIA's driver does not answer: {gpus.problem}",
            "install the driver, in a container start it with --gpus all (NVIDIA Container "
            "Toolkit), under Slurm ask for GPUs: --gpus-per-node; `nvidia-smi` must list them",
        )


def hidden(facts: Facts) -> Iterator[Finding]:
    """GPUs are there, and CUDA_VISIBLE_DEVICES hides them all."""
    text = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if facts.gpus.names and text is not None and not visible(facts):
        yield warning(
            "gpus_hidden",
            f"CUDA_VISIBLE_DEVICES={text!r} hides all {len(facts.gpus.names)} GPUs",
            "unset CUDA_VISIBLE_DEVICES; under Slurm ask for GPUs: --gpus-per-node",
        )


def not_there(facts: Facts) -> Iterator[Finding]:
    """CUDA ignores a number that does not exist and all that follow it."""
    count = len(facts.gpus.names)
    wrong = [entry for entry in visible(facts) if entry.isdigit() and int(entry) >= count]
    if wrong and count and "CUDA_VISIBLE_DEVICES" in facts.environ:
        yield warning(
            "gpu_not_there",
            f"CUDA_VISIBLE_DEVICES={facts.environ['CUDA_VISIBLE_DEVICES']} names GPU {wrong[0]}, "
            f"but there are {count}, from 0 to {count - 1}; CUDA ignores it and what follows",
            f"export CUDA_VISIBLE_DEVICES={','.join(map(str, range(count)))}",
        )


def more_ranks_than_gpus(facts: Facts) -> Iterator[Finding]:
    """Ranks that share a GPU share its time, and NCCL refuses them."""
    count = min(len(visible(facts)), len(facts.gpus.names))
    if 0 < count < facts.ranks_here:
        yield warning(
            "more_ranks_than_gpus",
            f"{facts.ranks_here} ranks on {facts.host.name} share {count} visible GPUs "
            f"({', '.join(sorted(set(facts.gpus.names)))}); NCCL refuses two ranks on one GPU, so "
            "what they tell each other travels through main memory",
            f"{count} ranks per host, or more hosts",
        )


def old_driver(facts: Facts) -> Iterator[Finding]:
    """CuPy of a CUDA version that the driver is too old for."""
    cuda, major = _cuda_of_cupy(facts), facts.gpus.driver.partition(".")[0]
    needed = _DRIVERS.get(cuda)
    if needed is not None and major.isdigit() and int(major) < needed:
        yield warning(
            "old_gpu_driver",
            f"CuPy for CUDA {cuda} needs NVIDIA's driver {needed} or newer, and here is "
            f"{facts.gpus.driver}: no GPU can be used",
            "a newer driver"
            + (", or CuPy for CUDA 12: pip install 'allgrad[gpu12]'" if cuda == "13" else ""),
        )


def no_nccl(facts: Facts) -> Iterator[Finding]:
    """Several ranks with GPUs, and no NCCL for them."""
    there = any(name.startswith("nvidia-nccl") for name in facts.software.packages)
    if _wants_gpus(facts) and facts.gpus.names and facts.ranks_here > 1 and not there:
        yield warning(
            "no_nccl",
            "CuPy and GPUs are there, but not NCCL: what GPUs tell each other travels through "
            "main memory, which is slower",
            "pip install 'allgrad[gpu]' (CUDA 13) or 'allgrad[gpu12]' (CUDA 12)",
        )


def other_cuda(facts: Facts) -> Iterator[Finding]:
    """Libraries of another CUDA version than CuPy's, which it does not find."""
    cuda = _cuda_of_cupy(facts)
    wrong = sorted(
        name
        for name in facts.software.packages
        if name.startswith("nvidia-")
        and (made := name.rpartition("-cu")[2]).isdigit()
        and made != cuda
    )
    if cuda and wrong:
        fitting = [name.rpartition("-cu")[0] + f"-cu{cuda}" for name in wrong]
        missing = [name for name in fitting if name not in facts.software.packages]
        if missing:
            yield warning(
                "gpu_libraries_of_other_cuda",
                f"CuPy is made for CUDA {cuda}, but there are {', '.join(wrong)}",
                f"pip install {' '.join(missing)}",
            )


_DRIVERS = {"12": 525, "13": 580}  # Source: CUDA Compatibility, "Minor Version Compatibility"
_CUPY = re.compile(r"cupy-cuda(\d\d)x")


def _cuda_of_cupy(facts: Facts) -> str:
    """The CUDA version that CuPy's wheel is made for, "12" or "13"; "" where that is not known."""
    found = [m[1] for name in facts.software.packages if (m := _CUPY.fullmatch(name))]
    return found[0] if len(found) == 1 else ""
