"""Hosts that are network namespaces, for tests: see `benchmarks/netns.py`."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_netns() -> Any:
    """The module of the benchmarks that makes hosts."""
    spec = importlib.util.spec_from_file_location("netns", BENCHMARKS / "netns.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


netns = load_netns()


@contextmanager
def emulated_hosts(count: int, rate: str | None = None) -> Iterator[Any]:
    """So many hosts, their links of that rate; skips where they cannot be made; none is left."""
    try:
        with netns.Hosts(count, rate) as made:
            prefix = made._prefix
            yield made
    except netns.HostsError as error:
        pytest.skip(f"no network namespaces here: {error}")
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert prefix not in left.stdout


def remote_shell(hosts: Any) -> str:
    """The program that runs a command on another host, as ssh does."""
    return f"{hosts._folder.name}/rsh"


def processes_on(hosts: Any, host: int) -> list[str]:
    """The command lines of the processes on a host."""
    listed = subprocess.run(
        ["ip", "netns", "pids", hosts._namespace(host)], capture_output=True, text=True, check=True
    )
    lines = []
    for pid in listed.stdout.split():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if line:
            lines.append(line)
    return lines
