"""The way from other hosts to the supervisor: who knows the word comes in, others do not."""

from __future__ import annotations

import os
import selectors
import socket
import time
from threading import Thread

import pytest

from allgrad.errors import LaunchError
from allgrad.launch import worker_link
from allgrad.launch.door import host_timeout, is_lost, is_silent, own_addresses, tcp_door, unix_door


def admitted(door, link, seconds=10.0):
    """The door's answer, once the other side has spoken."""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = door.admits(link)
            if answer is not None:
                return answer
            selector.select(0.1)
    return None


def connecting(address):
    """Connect as a worker does, at the same time; the list gets its socket or error."""
    found = []

    def work():
        try:
            found.append(worker_link.connect(address))
        except OSError as error:
            found.append(error)

    thread = Thread(target=work)
    thread.start()
    return thread, found


def test_who_knows_the_word_comes_in():
    with tcp_door(["127.0.0.1"], 4, strict=True) as door:
        assert door.address.startswith(f"tcp:{door.token}@127.0.0.1:")
        thread, found = connecting(door.address)
        link = door.accept()
        assert admitted(door, link) is True
        thread.join(20)
        found[0].sendall(b"hello")
        assert link.recv(5) == b"hello"
        assert not is_silent(link)
        for end in (link, found[0]):
            end.close()


@pytest.mark.parametrize("word", [b"x" * 32, b"short", b"", b"\xff" * 40])
def test_nobody_else_comes_in(word):
    with tcp_door(["127.0.0.1"], 4, strict=True) as door:
        stranger = socket.create_connection(door.listener.getsockname())
        stranger.sendall(word)
        stranger.shutdown(socket.SHUT_WR)
        link = door.accept()
        assert admitted(door, link) is False
        link.close()
        stranger.close()


def test_a_word_may_come_in_pieces():
    with tcp_door(["127.0.0.1"], 4, strict=True) as door:
        worker = socket.create_connection(door.listener.getsockname())
        link = door.accept()
        for byte in door.token[:-1].encode():
            worker.sendall(bytes([byte]))
        assert admitted(door, link, 0.3) is None
        worker.sendall(door.token[-1].encode())
        assert admitted(door, link) is True
        assert worker.recv(1) == worker_link.WELCOME
        for end in (link, worker):
            end.close()


def test_a_worker_finds_the_address_that_works():
    with tcp_door(["127.0.0.1"], 4, strict=True) as door:
        port = door.listener.getsockname()[1]
        with socket.socket() as taken:  # bound, but nobody listens
            taken.bind(("127.0.0.1", 0))
            closed = taken.getsockname()[1]
            address = f"tcp:{door.token}@127.0.0.1:{closed},127.0.0.1:{port}"
            thread, found = connecting(address)
            link = door.accept()
            assert admitted(door, link)
            thread.join(20)
        for end in (link, found[0]):
            end.close()


def test_a_worker_says_why_it_cannot_connect():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"does not reach the supervisor.*:{port}.*refused"):
            worker_link.connect(f"tcp:word@127.0.0.1:{port}")


def test_the_unix_socket_needs_no_word(tmp_path):
    folder = tmp_path if len(str(tmp_path)) < 80 else None
    if folder is None:
        pytest.skip("the temporary folder's path is too long for a socket")
    with unix_door(folder, 1) as door:
        worker = worker_link.connect(door.address)
        link = door.accept()
        assert door.admits(link) is True
        for end in (link, worker):
            end.close()


def test_addresses():
    assert own_addresses(["127.0.0.1", "localhost", "127.0.0.1"], strict=True)[0] == "127.0.0.1"
    assert own_addresses(["no-such-host.invalid"], strict=False) == []
    with pytest.raises(LaunchError, match=r"host no-such-host.invalid: .*check its name"):
        own_addresses(["no-such-host.invalid"], strict=True)


def test_slurm_may_know_nodes_by_other_names():
    with tcp_door(["no-such-host.invalid"], 1, strict=False) as door:
        assert "127.0.0.1:" in door.address


def test_lost_hosts_are_told_from_dead_workers():
    assert is_lost(TimeoutError())
    assert is_lost(OSError(113, "No route to host"))
    assert not is_lost(ConnectionResetError(104, "reset"))


def test_host_timeout():
    assert host_timeout({}) == 30
    assert host_timeout({"ALLGRAD_HOST_TIMEOUT": "2.5"}) == 2.5
    for text in ("0", "soon", "nan"):
        with pytest.raises(LaunchError, match="ALLGRAD_HOST_TIMEOUT"):
            host_timeout({"ALLGRAD_HOST_TIMEOUT": text})


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"PMI_SIZE": "2"}, (1, 2, 1, 2, 0, 1)),
        ({"ALLGRAD_RANKS_PER_HOST": "1,3"}, (1, 4, 0, 3, 1, 2)),
        ({}, None),
    ],
)
def test_places(environ, place):
    ours = {"ALLGRAD_RANK_VARIABLE": "PMI_RANK", "PMI_RANK": "1"}
    assert worker_link.place_of(ours | environ) == place


def test_places_of_srun():
    environ = {"ALLGRAD_RANK_VARIABLE": "SLURM_PROCID", "SLURM_PROCID": "4"}
    environ |= {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}
    assert worker_link.place_of(environ) == (4, 5, 0, 1, 2, 3)


def test_each_host_divides_its_cores():
    cores = len(os.sched_getaffinity(0))
    environ = {"ALLGRAD_RANK_VARIABLE": "PMI_RANK", "PMI_RANK": "1"}
    environ |= {"ALLGRAD_RANKS_PER_HOST": "1,3"}
    worker_link.divide_cores(environ)
    assert environ["OMP_NUM_THREADS"] == str(max(1, cores // 3))


def test_each_host_binds_its_ranks():
    cores = sorted(os.sched_getaffinity(0))
    for rank, expected in (("0", cores[0]), ("1", cores[1 % len(cores)])):
        environ = {"ALLGRAD_RANK_VARIABLE": "PMI_RANK", "PMI_RANK": rank, "OMP_NUM_THREADS": "1"}
        environ |= {"ALLGRAD_RANKS_PER_HOST": "2,2", "ALLGRAD_BIND_CORES": "1"}
        try:
            worker_link.divide_cores(environ)
            assert os.sched_getaffinity(0) == {expected}
        finally:
            os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("more", "threads"),
    [
        ({"SLURM_CPUS_ON_NODE": "16"}, "8"),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_CPUS_PER_TASK": "3"}, "3"),
        ({"SLURM_CPUS_ON_NODE": "16", "OMP_NUM_THREADS": "5"}, "5"),
    ],
)
def test_slurm_says_how_many_cores_there_are(more, threads):
    environ = {"ALLGRAD_RANK_VARIABLE": "SLURM_PROCID", "SLURM_PROCID": "1"} | more
    environ["ALLGRAD_RANKS_PER_HOST"] = "2,2"
    worker_link.divide_cores(environ)
    assert environ["OMP_NUM_THREADS"] == threads
