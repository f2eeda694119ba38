"""Which launcher starts how many ranks where, as options and environment say."""

from __future__ import annotations

import shlex

import pytest

from allgrad.errors import LaunchError
from allgrad.launch import cli
from allgrad.launch.placement import choose

# What sbatch sets: two nodes of four tasks; one node of one task with eight cores.
TWO_NODES = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "0",
}
ONE_NODE = TWO_NODES | {"SLURM_JOB_NODELIST": "n1", "SLURM_TASKS_PER_NODE": "4"}
ONE_TASK = TWO_NODES | {"SLURM_JOB_NODELIST": "n1", "SLURM_TASKS_PER_NODE": "1"}
IN_A_STEP = TWO_NODES | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}
IN_A_SHELL_OF_SRUN = TWO_NODES | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_TASKS_PER_NODE": "1",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
}


def chosen(line, environ=None, *, srun=True, without=frozenset()):
    options = cli.build_parser().parse_args(["run", *shlex.split(line), "train.py"])
    return choose(options, environ or {}, srun=srun, without=without)


@pytest.mark.parametrize(
    ("line", "environ", "launcher", "ranks"),
    [
        ("", {}, "local", [1]),
        ("-n 1", {}, "local", [1]),
        ("-n 4", {}, "mpiexec", [4]),
        ("--nproc-per-node 4", {}, "mpiexec", [4]),
        ("--nproc_per_node 4 --nnodes 1", {}, "mpiexec", [4]),
        ("--launcher mpiexec -n 1", {}, "mpiexec", [1]),
        ("-H a:2,b:2", {}, "mpiexec", [2, 2]),
        ("-H a:2,b:2 -n 3", {}, "mpiexec", [2, 1]),
        ("-H a:2,b:2 -n 2 --nproc-per-node 1", {}, "mpiexec", [1, 1]),
        ("-H a,b --nproc-per-node 4", {}, "mpiexec", [4, 4]),
        ("-H a:2,b:2 --nnodes 1", {}, "mpiexec", [2]),
        ("-H a:2,b:2", TWO_NODES, "mpiexec", [2, 2]),
        ("-H n1:2,n2:2 --launcher srun", TWO_NODES, "srun", [2, 2]),
        ("", TWO_NODES, "srun", [4, 4]),
        ("-n 6", TWO_NODES, "srun", [4, 2]),
        ("-n 1", TWO_NODES, "local", [1]),
        ("--nproc-per-node 2", TWO_NODES, "srun", [2, 2]),
        ("--nnodes 1", TWO_NODES, "srun", [4]),
        ("-n 4", ONE_NODE, "srun", [4]),
        ("", ONE_NODE, "srun", [4]),
        ("-n 8", ONE_NODE, "mpiexec", [8]),
        ("-n 8", ONE_TASK, "mpiexec", [8]),
        ("", ONE_TASK, "local", [1]),
        ("-n 2", IN_A_STEP, "mpiexec", [2]),
        ("", IN_A_STEP, "local", [1]),
        ("", IN_A_SHELL_OF_SRUN, "srun", [4, 4]),
        ("--launcher mpiexec", TWO_NODES, "mpiexec", [4, 4]),
    ],
)
def test_choice(line, environ, launcher, ranks):
    placement = chosen(line, environ)
    found = list(placement.ranks_per_host) or [placement.nproc]
    assert (placement.launcher, found) == (launcher, ranks)
    assert placement.nproc == sum(ranks)


def test_host_files(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("a:2\nb slots=1\n")
    placement = chosen(f"--hostfile {path}")
    assert (placement.launcher, placement.ranks_per_host) == ("mpiexec", (2, 1))


def test_without_srun_an_allocation_is_used_by_name_only():
    assert chosen("-n 2", TWO_NODES, srun=False).hosts == ()


def test_srun_makes_an_allocation_of_its_own():
    placement = chosen("--launcher srun --nnodes 2 --nproc-per-node 3")
    assert (placement.nproc, placement.nodes, placement.hosts) == (6, 2, ())


def test_hosts_that_were_lost():
    placement = chosen("-H a:2,b:2,c:2 --nnodes 3 -n 4", without=frozenset({"a"}))
    assert [host.name for host in placement.hosts] == ["b", "c"]
    assert placement.ranks_per_host == (2, 2)


@pytest.mark.parametrize(
    ("line", "environ", "words"),
    [
        ("-H a:2 --hostfile x", {}, "-H and --hostfile both name hosts"),
        ("--nnodes 2", {}, "needs to know which hosts: -H node1:4"),
        ("-n 4 --nproc-per-node 2", {}, "needs several hosts: name them by -H"),
        ("--launcher local -n 2", {}, "--launcher local starts one rank"),
        ("--launcher local -H a:2", {}, "--launcher local starts one rank"),
        ("-H a:2,b:2 --nnodes 3", {}, "--nnodes 3, but there are 2 hosts: a, b"),
        ("-H a:2,b:2 -n 5", {}, "5 ranks are asked for, but the 2 hosts take 4"),
        ("-n 9", TWO_NODES, r"9 ranks are asked for, but the 2 hosts take 8 \(n1:4, n2:4\)"),
        ("-H a,,b", {}, "expected a host such as"),
    ],
)
def test_refusals(line, environ, words):
    with pytest.raises(LaunchError, match=words):
        chosen(line, environ)


def test_srun_that_is_not_there():
    with pytest.raises(LaunchError, match="there is no srun on PATH"):
        chosen("--launcher srun", srun=False)


def test_threads_take_no_hosts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    assert cli.main(["run", "--launcher", "threads", "-H", "a:2", "train.py"]) == 2
    assert "leave hosts out" in capsys.readouterr().err


def test_threads_is_debug(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    assert cli.main(["run", "--launcher", "threads", "-n", "2", "--dry-run", "train.py"]) == 0
    assert "2 ranks as threads of one process" in capsys.readouterr().err
