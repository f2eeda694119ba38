"""Hosts as users and Slurm write them, and how ranks are put on them."""

from __future__ import annotations

import pytest

from allgrad.errors import LaunchError
from allgrad.launch.hosts import (
    Host,
    expand_counts,
    expand_nodelist,
    parse_hosts,
    place,
    read_hostfile,
    slurm_hosts,
    without_allocation,
)

A, B, C = Host("a", 4), Host("b", 4), Host("c", 4)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a:2,b:2", [("a", 2), ("b", 2)]),
        ("a, b:3", [("a", 1), ("b", 3)]),
        ("a,a,b", [("a", 2), ("b", 1)]),
        ("10.0.0.1:8,gpu-07.cluster.org", [("10.0.0.1", 8), ("gpu-07.cluster.org", 1)]),
    ],
)
def test_hosts_of_the_command_line(text, hosts):
    assert [(host.name, host.slots) for host in parse_hosts(text)] == hosts


def test_slots_of_hosts_without_a_number():
    assert parse_hosts("a,b:2", slots=4) == (Host("a", 4), Host("b", 2))


@pytest.mark.parametrize("text", ["", "a:2,", "a:b", "a:0", "a b", ":2", "-a", "a:-1", "a;ls"])
def test_wrong_hosts(text):
    with pytest.raises(LaunchError, match="-H: "):
        parse_hosts(text)


def test_host_files(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\n\na:4\nb slots=2   # half\nc\nd slots=3 max_slots=8\nb max-slots=1\n")
    assert [(host.name, host.slots) for host in read_hostfile(path)] == [
        ("a", 4),
        ("b", 3),
        ("c", 1),
        ("d", 3),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:4\nb slot=2\n", "line 2: expected 'host'"),
        ("a 4\n", "line 1: expected 'host'"),
        ("a slots=0\n", "line 1: host a has no slots"),
        ("# nobody\n", "no host in it"),
    ],
)
def test_wrong_host_files(tmp_path, text, words):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(LaunchError, match=words):
        read_hostfile(path)


def test_missing_host_file(tmp_path):
    with pytest.raises(LaunchError, match=r"hostfile .*gone.*No such file"):
        read_hostfile(tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n[1-2,5],gpu07", "n1 n2 n5 gpu07"),
        ("rack-2n[009-011]", "rack-2n009 rack-2n010 rack-2n011"),
        ("r[1-2]c[3,5]x,n1", "r1c3x r1c5x r2c3x r2c5x n1"),
    ],
)
def test_lists_of_nodes(text, names):
    assert expand_nodelist(text) == names.split()


@pytest.mark.parametrize("text", ["n[1-", "n[2-1]", "n[a]", "n1]", "n[]", "n1 n2"])
def test_wrong_lists_of_nodes(text):
    with pytest.raises(LaunchError, match="expected a list of nodes"):
        expand_nodelist(text)


def test_counts():
    assert expand_counts("2(x3),1,4(x1)") == [2, 2, 2, 1, 4]
    with pytest.raises(LaunchError, match="SLURM_TASKS_PER_NODE='2x3': expected counts"):
        expand_counts("2x3")


def test_hosts_of_an_allocation():
    tasks = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    cpus = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "16(x2)"}
    assert slurm_hosts(tasks) == (Host("n1", 2), Host("n2", 2), Host("n3", 1))
    assert slurm_hosts(cpus) == (Host("n1", 16), Host("n2", 16))
    assert slurm_hosts({"SLURM_NODELIST": "n1"}) == (Host("n1", 1),)
    assert slurm_hosts({}) == ()


def test_a_job_may_stay_here():
    environ = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}
    assert without_allocation(environ) == {"SLURM_JOB_ID": "7"}
    assert slurm_hosts(without_allocation(environ)) == ()


def test_an_allocation_that_contradicts_itself():
    with pytest.raises(LaunchError, match="mixes two jobs"):
        slurm_hosts({"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x2)"})


@pytest.mark.parametrize(
    ("nproc", "per_node", "ranks"),
    [
        (None, None, (4, 4, 4)),
        (None, 2, (2, 2, 2)),
        (6, None, (4, 2, 0)),
        (5, 2, (2, 2, 1)),
        (1, None, (1, 0, 0)),
        (12, 4, (4, 4, 4)),
    ],
)
def test_places(nproc, per_node, ranks):
    assert place((A, B, C), nproc, per_node) == ranks


@pytest.mark.parametrize(
    ("nproc", "per_node", "words"),
    [
        (13, None, r"13 ranks are asked for, but the 3 hosts take 12 \(a:4, b:4, c:4\); ask for"),
        (7, 2, r"7 ranks are asked for, but the 3 hosts take 6 \(a:2, b:2, c:2\)"),
        (None, 5, "host a has 4 slots; write a:5"),
    ],
)
def test_more_ranks_than_slots(nproc, per_node, words):
    with pytest.raises(LaunchError, match=words):
        place((A, B, C), nproc, per_node)
