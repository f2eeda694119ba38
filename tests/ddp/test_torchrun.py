"""Ranks that torchrun's variables describe meet at a server; what is wrong there is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from allgrad.ddp import environment, pmi_server, torchrun
from allgrad.errors import DistributedError

PLACE = environment.RankEnvironment(1, 3, 1, 3, 0, 1, "torchrun")


@pytest.fixture(autouse=True)
def _no_mpi_yet(monkeypatch):
    """As in a process that has not started MPI, whatever other tests have imported here."""
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    monkeypatch.setattr(torchrun, "_met", [])


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return min(free.getsockname()[1], 65000)


def variables(port, **more):
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"} | more


@pytest.mark.parametrize(
    ("hosts", "mapping"),
    [
        (["a"], "(vector,(0,1,1))"),
        (["a", "a", "b", "b"], "(vector,(0,1,2),(1,1,2))"),
        (["a", "b", "a"], "(vector,(0,1,1),(1,1,1),(0,1,1))"),
    ],
)
def test_mpi_is_told_who_shares_memory(hosts, mapping):
    assert pmi_server.process_mapping(hosts) == mapping


def test_lines_of_the_protocol():
    assert pmi_server.parse("cmd=barrier_in") == {"cmd": "barrier_in"}
    assert pmi_server.parse("cmd=put kvsname=k key=a value=b c=d \n")["value"] == "b c=d"


@pytest.mark.parametrize("text", ["", "no", "0", "70000"])
def test_a_port_that_is_none(text):
    with (
        pytest.raises(DistributedError, match="MASTER_PORT"),
        torchrun.meeting(PLACE, variables(text), 1.0),
    ):
        pass


def test_nobody_is_there(port):
    environ = variables(port)
    meeting = torchrun.meeting(PLACE, environ, 0.3)
    with (
        pytest.raises(DistributedError, match=r"\[rank 1/3\] nobody meets at MASTER_ADDR"),
        meeting,
    ):
        pass
    assert "PMI_PORT" not in environ


def test_who_listens_there_is_somebody_else(port, monkeypatch):
    monkeypatch.setattr(torchrun, "_ANSWER_S", 0.3)  # for which it waits in vain
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen(64)
        other.settimeout(0)
        begin = time.monotonic()
        meeting = torchrun.meeting(PLACE, variables(port), 0.3)
        with pytest.raises(DistributedError, match="nobody meets"), meeting:
            pass
        assert time.monotonic() - begin < 30


def test_the_missing_ranks_are_named(port):
    place = environment.RankEnvironment(0, 3, 0, 3, 0, 1, "torchrun")
    meeting = torchrun.meeting(place, variables(port), 1.5)
    words = rf":{port}; missing: rank 1, 2. Were all started"
    with pytest.raises(DistributedError, match=words), meeting:
        pass
    torchrun._servers.pop().wait(20)  # nobody is connected any more


@pytest.mark.parametrize(
    "place",
    [
        environment.RankEnvironment(0, 3, 0, 3, 0, 1, "pmi"),
        environment.RankEnvironment(0, 1, 0, 1, 0, 1, "torchrun"),
    ],
)
def test_other_ranks_do_not_meet(place, port):
    with torchrun.meeting(place, variables(port), 0.1):
        pass


@pytest.mark.mpi
def test_variables_are_not_inherited_by_programs_of_the_script(tmp_path):
    pytest.importorskip("mpi4py")
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom allgrad import ddp\nddp.init_process_group()\n"
        "assert not [name for name in os.environ if name.startswith('PMI_')]\n"
        "print(ddp.get_rank(), ddp.get_world_size(), ddp.get_node_count(), flush=True)\n"
        "ddp.destroy_process_group()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 65000)
    common = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (2, 0, 1)
    ]
    try:
        out = [rank.communicate(timeout=100)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert out == ["2 3 1\n", "0 3 1\n", "1 3 1\n"]
