"""Every check of the doctor: facts that have the fault, and facts that have not."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from allgrad.launch.doctor import checks
from allgrad.launch.doctor.checks import check, network
from allgrad.launch.doctor.facts import (
    MIB,
    Facts,
    Folder,
    Gpus,
    Host,
    Interface,
    Limits,
    Mpi,
    Slurm,
    Software,
    World,
)
from allgrad.launch.doctor.finding import BROKEN, WARNING, Finding, broken, merged, warning

GIB = 1024 * MIB
PACKAGES = {"allgrad": "0.1.0", "numpy": "2.4.6", "mpi4py": "4.1.2", "mpich": "5.0.2"}
SOFTWARE = Software(
    "/venv/bin/python", "3.11.7", "/venv", PACKAGES, "/venv/lib/libdnnl.so.3", "3.8.1"
)
MPICH = Mpi(
    "MPICH Version: 5.0.2",
    "/venv/lib/libmpi.so.12",
    "mpich",
    mpiexec="/venv/bin/mpiexec",
    mpiexec_flavour="mpich",
    mpiexec_version="Version: 5.0.2",
)
OPENMPI = replace(
    MPICH, library="Open MPI v5.0.11", path="/venv/lib/libmpi.so.40", flavour="openmpi"
)
LO, ETH0 = Interface("lo", True, ("127.0.0.1",)), Interface("eth0", True, ("10.0.0.1",))
DOCKER0 = Interface("docker0", True, ("172.17.0.1",), virtual=True)
SLURM = Slurm("22.05.8", ("none", "pmi2", "pmix"), "pmi2")
HEALTHY = Facts(
    ranks=4,
    software=SOFTWARE,
    mpi=MPICH,
    host=Host("node1", ("10.0.0.1",), cores=8, affinity=tuple(range(8)), memory_bytes=16 * GIB),
    shared_memory=Folder("/dev/shm", 8 * GIB, 8 * GIB),
    temporary=Folder("/tmp", 8 * GIB, 8 * GIB),
    current=Folder("/home/me", 8 * GIB, 8 * GIB),
    limits=Limits(1024, 8 * MIB),
    interfaces=(LO, ETH0),
    gpus=Gpus(problem="libnvidia-ml.so.1: cannot open shared object file"),
)
TWO_RANKS = {"PMI_RANK": "1", "PMI_SIZE": "2", "OMP_NUM_THREADS": "1"}
STEP = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "OMP_NUM_THREADS": "1",
}  # fmt: skip
ALLOCATION = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_NNODES": "2",
}  # fmt: skip
CUPY = PACKAGES | {"cupy-cuda13x": "14.2.0"}
A100 = Gpus("570.1", ("NVIDIA A100",) * 4, present=True)


def facts(environ=None, **changes):
    return replace(HEALTHY, environ=environ or {}, **changes)


def host(**changes):
    return replace(HEALTHY.host, **changes)


def software(packages=None, **changes):
    return replace(SOFTWARE, packages=packages or PACKAGES, **changes)


def without(name):
    return {key: value for key, value in PACKAGES.items() if key != name}


# name: severity, facts of one process, words that the cause and the fix must have
ONE = {
    "mpi4py_missing": (
        BROKEN, facts(software=software(without("mpi4py"))),
        "has no mpi4py", "/venv/bin/python -m pip install 'mpi4py>=4' mpich",
    ),
    "mpi_library_missing": (
        BROKEN, facts(mpi=Mpi(problem="cannot load MPI library")),
        "loads no MPI library: cannot load MPI library", "pip install",
    ),
    "mpi4py_libmpi_wrong": (
        BROKEN, facts({"MPI4PY_LIBMPI": "/nowhere"}, mpi=Mpi(problem="cannot load MPI library")),
        "MPI4PY_LIBMPI=/nowhere does not load", "unset MPI4PY_LIBMPI",
    ),
    "mpiexec_missing": (
        BROKEN, facts(mpi=replace(MPICH, mpiexec="", mpiexec_flavour="", mpiexec_problem="none")),
        "no usable mpiexec: none", "pip install",
    ),
    "wrong_mpi_for_mpi4py": (
        BROKEN, facts(mpi=OPENMPI),
        "loads Open MPI (/venv/lib/libmpi.so.40), but ranks would be started by MPICH",
        "put Open MPI's own mpiexec first on PATH",
    ),
    "mpi_library_from_elsewhere": (
        WARNING, facts(mpi=replace(MPICH, path="/usr/lib/libmpich.so.12")),
        "loads /usr/lib/libmpich.so.12, but mpiexec is /venv/bin/mpiexec", "LD_LIBRARY_PATH",
    ),
    "onednn_missing": (
        WARNING, facts(software=software(onednn="", onednn_problem="not found")),
        "several times slower: not found", "pip install onednn-cpu-gomp",
    ),
    "contradicting_variables": (
        BROKEN, facts(TWO_RANKS | {"RANK": "0", "WORLD_SIZE": "4"}),
        "PMI_RANK=1 and PMI_SIZE=2, but RANK=0 and WORLD_SIZE=4", "unset those",
    ),
    "stale_environment": (
        BROKEN, facts(TWO_RANKS, stale={"PMI_FD": "7 is no open connection of this process"}),
        "another job: PMI_FD: 7 is no open connection", "unset $(env | grep -oE '^(PMI)_",
    ),
    "all_are_rank_0": (
        BROKEN, facts(twins=4),
        "4 processes run this command side by side, and each believes to be rank 0",
        "`allgrad run -n N`",
    ),
    "launcher_of_another_mpi": (
        BROKEN, facts(TWO_RANKS, mpi=OPENMPI),
        "started for PMI, but mpi4py loads Open MPI", "Open MPI's mpiexec",
    ),
    "wrong_srun_mpi": (
        BROKEN, facts(STEP | {"PMIX_RANK": "1"}, slurm=SLURM),
        "started for PMIx, but mpi4py loads MPICH", "srun --mpi=pmi2",
    ),
    "separate_worlds": (
        BROKEN, facts(TWO_RANKS, world=World(0, 1)),
        "started rank 1 of 2, but MPI sees rank 0 of 1", "the mpiexec of MPICH",
    ),
    "mpi_does_not_start": (
        BROKEN, facts(TWO_RANKS, world=World(problem="exit code 1: Fatal error in MPI_Init")),
        "MPI does not start: exit code 1: Fatal error", "UCX_TLS=tcp,self",
    ),
    "more_ranks_than_slots": (
        BROKEN, facts(ALLOCATION, ranks=5, slurm=SLURM),
        "5 ranks, but the allocation has 4 slots (n1:2, n2:2)", "-n 4, or ask for more: sbatch",
    ),
    "srun_without_pmi": (
        BROKEN, facts(STEP, slurm=SLURM),
        "srun started 2 tasks without a connection for MPI", "srun --mpi=pmi2",
    ),
    "slurm_plugin_missing": (
        BROKEN, facts(mpi=replace(OPENMPI, mpiexec_flavour="openmpi"),
                      slurm=Slurm("22.05.8", ("none", "pmi2"), "pmi2")),
        "needs `srun --mpi=pmix`, but this Slurm offers none, pmi2", "pip install mpich",
    ),
    "srun_default_mpi": (
        WARNING, facts(slurm=replace(SLURM, default="none")),
        "plain `srun` here means --mpi=none", "export SLURM_MPI_TYPE=pmi2",
    ),
    "more_ranks_than_cores": (
        WARNING, facts(ranks=9), "9 ranks on node1, which has 8 cores", "-n 8",
    ),
    "busy_machine": (
        WARNING, facts(host=host(load=20.0)),
        "20.0 processes wanted to run on the 8 cores of node1", "top",
    ),
    "cpu_quota": (
        WARNING, facts(host=host(quota=2.5)),
        "limits this process to 2.5 cores, but 4 ranks run 8 threads", "OMP_NUM_THREADS=1",
    ),
    "shm_unusable": (
        BROKEN, facts(shared_memory=Folder("/dev/shm", problem="Read-only file system")),
        "/dev/shm: Read-only file system", "--shm-size",
    ),
    "shm_too_small": (
        WARNING, facts(shared_memory=Folder("/dev/shm", 64 * MIB, 64 * MIB)),
        "64 MiB free: room for the gradients of 2 million float32 parameters with 4 ranks",
        "docker run --shm-size=2g",
    ),
    "leftover_shared_memory": (
        WARNING, facts(segments=("/dev/shm/mpich_shm_1",)),
        "1 segments of killed jobs take up shared memory: /dev/shm/mpich_shm_1", "rm them",
    ),
    "tmpdir_unusable": (
        BROKEN, facts({"TMPDIR": "/gone"}, temporary=Folder("/gone", problem="No such file")),
        "/gone cannot be used: No such file", "unset TMPDIR, or export TMPDIR=",
    ),
    "tmpdir_full": (
        WARNING, facts(temporary=Folder("/tmp", MIB, GIB)),
        "/tmp has 1.0 MiB free", "remove files there",
    ),
    "folder_not_writable": (
        WARNING, facts(current=Folder("/opt", problem="Permission denied")),
        "/opt cannot be written: Permission denied", "change to a folder of yours",
    ),
    "folder_full": (
        WARNING, facts(current=Folder("/home/me", MIB, GIB)),
        "checkpoints cannot be saved", "write checkpoints elsewhere",
    ),
    "few_open_files": (
        WARNING, facts(limits=Limits(256, -1)), "may open 256 files at once", "ulimit -n 4096",
    ),
    "locked_memory": (
        WARNING, facts(rdma=("mlx5_0",)),
        "InfiniBand (mlx5_0), but only 8 MiB of memory may be locked", "ulimit -l unlimited",
    ),
    "interface_missing": (
        BROKEN, facts({"UCX_NET_DEVICES": "eth7"}),
        "UCX_NET_DEVICES names eth7, but node1 has lo, eth0", "unset UCX_NET_DEVICES",
    ),
    "interface_down": (
        BROKEN, facts({"NCCL_SOCKET_IFNAME": "eth"}, interfaces=(LO, replace(ETH0, up=False))),
        "NCCL_SOCKET_IFNAME names eth, which is down on node1", "ip link set eth0 up",
    ),
    "hostname_unknown": (
        WARNING, facts(host=host(addresses=(), name_problem="Name or service not known")),
        "stands for no address (Name or service not known)", "/etc/hosts",
    ),
    "hostname_loopback": (
        WARNING, facts(ALLOCATION, host=host(addresses=("127.0.1.1",)), slurm=SLURM),
        "stands for 127.0.1.1 on this host", "in /etc/hosts replace the line",
    ),
    "virtual_interface": (
        WARNING, facts(ALLOCATION, interfaces=(LO, ETH0, DOCKER0), slurm=SLURM),
        "docker0 beside eth0", "export UCX_NET_DEVICES=eth0",
    ),
    "no_gpu_driver": (
        WARNING, facts(software=software(PACKAGES | {"cupy-cuda13x": "14.0"})),
        "CuPy is installed, but NVIDIA's driver does not answer", "--gpus all",
    ),
    "gpus_hidden": (
        WARNING, facts({"CUDA_VISIBLE_DEVICES": ""}, gpus=A100),
        "CUDA_VISIBLE_DEVICES='' hides all 4 GPUs", "unset CUDA_VISIBLE_DEVICES",
    ),
    "old_gpu_driver": (
        WARNING, facts(software=software(CUPY | {"nvidia-nccl-cu13": "2.30"}), gpus=A100),
        "CuPy for CUDA 13 needs NVIDIA's driver 580 or newer, and here is 570.1", "allgrad[gpu12]",
    ),
    "no_nccl": (
        WARNING, facts(software=software(CUPY), gpus=replace(A100, driver="580.9")),
        "not NCCL: what GPUs tell each other travels through main memory", "allgrad[gpu]",
    ),
    "gpu_libraries_of_other_cuda": (
        WARNING,
        facts(
            software=software(CUPY | {"nvidia-nccl-cu12": "2.27", "nvidia-cudnn-cu13": "9.19"}),
            gpus=replace(A100, driver="580.9"),
        ),
        "CuPy is made for CUDA 13, but there are nvidia-nccl-cu12", "install nvidia-nccl-cu13",
    ),
    "gpu_not_there": (
        WARNING, facts({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4"}, gpus=A100),
        "names GPU 4, but there are 4, from 0 to 3", "CUDA_VISIBLE_DEVICES=0,1,2,3",
    ),
    "more_ranks_than_gpus": (
        WARNING, facts({"CUDA_VISIBLE_DEVICES": "2,3"}, gpus=A100),
        "4 ranks on node1 share 2 visible GPUs (NVIDIA A100)", "2 ranks per host",
    ),
    "too_many_threads": (
        WARNING, facts({"OMP_NUM_THREADS": "8"}),
        "OMP_NUM_THREADS=8: 4 ranks on node1 run 32 threads (8 each) on 8 cores",
        "OMP_NUM_THREADS=2",
    ),
    "one_core_for_all": (
        WARNING, facts(host=host(affinity=(3,))),
        "all 4 ranks on node1 may use core 3 only, of 8", "taskset -cp",
    ),
}  # fmt: skip


def rank(number, name="node1", **changes):
    place = {
        "PMI_RANK": str(number), "PMI_SIZE": "4", "MPI_LOCALRANKID": str(number % 2),
        "MPI_LOCALNRANKS": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    own = changes.pop("host", host(name=name))
    return replace(HEALTHY, environ=place, host=own, world=World(number, 4), **changes)


def job(**other):
    """Two ranks on node1, and two on node2, of which these fields differ."""
    eth0 = replace(ETH0, addresses=("10.0.0.2",))
    other.setdefault("interfaces", (LO, eth0))
    return [rank(0), rank(1), rank(2, "node2", **other), rank(3, "node2", **other)]


# name: severity, facts of all ranks, words of the cause
JOBS = {
    "versions_differ": (
        BROKEN, job(software=software(PACKAGES | {"allgrad": "0.0.9"})),
        "allgrad differs between ranks: 0.1.0 in ranks 0-1 (on node1); 0.0.9 in ranks 2-3 (on",
    ),
    "python_differs": (
        BROKEN, job(software=software(version="3.12.1")), "3.12.1 in ranks 2-3 (on node2)",
    ),
    "mpi_differs": (
        BROKEN, job(mpi=replace(MPICH, library="MPICH Version: 4.0.2")),
        "MPICH Version: 4.0.2 in ranks 2-3",
    ),
    "clashing_interfaces": (
        WARNING, job(interfaces=(LO, ETH0)), "node1 and node2 both have the address 10.0.0.1 (eth0",
    ),
}  # fmt: skip


def test_a_healthy_machine_has_no_findings():
    assert check([HEALTHY]) == []
    assert check([facts(ALLOCATION, slurm=SLURM)]) == []
    assert check([facts(gpus=A100)]) == []


def test_a_healthy_job_has_no_findings():
    assert check(job()) == []
    assert check([facts(STEP | TWO_RANKS, slurm=SLURM)]) == []


@pytest.mark.parametrize("name", ONE)
def test_one_process(name):
    severity, seen, cause, fix = ONE[name]
    begin = time.perf_counter()
    found = check([seen])
    assert time.perf_counter() - begin < 2
    assert [(f.name, f.severity) for f in found] == [(name, severity)]
    assert cause in found[0].cause
    assert fix in found[0].fix


@pytest.mark.parametrize("name", JOBS)
def test_all_ranks(name):
    severity, seen, cause = JOBS[name]
    (found,) = check(seen)
    assert (found.name, found.severity, found.where) == (name, severity, "")
    assert cause in found.cause
    assert found.fix


def test_clocks():
    seen = job()
    seen[2:] = [replace(f, world=replace(f.world, clock_s=3600.0)) for f in seen[2:]]
    (found,) = check(seen)
    assert found.name == "clock_skew"
    assert "the clock of node2 is 3600.0 s behind that of node1" in found.cause


def test_slow_network():
    (found,) = network.slow_network(job(), 0.01)
    assert (found.name, found.severity) == ("slow_network", WARNING)
    assert "2 hosts average gradients at 10 MB/s, 10 MB/s on each link" in found.cause
    assert list(network.slow_network(job(), 1.0)) == []
    assert list(network.slow_network([HEALTHY], 0.01)) == []
    # Eight hosts at the full speed of 1 Gbit/s: 125 MB/s on each link.
    eight = [replace(HEALTHY, host=host(name=f"n{i}")) for i in range(8)]
    assert list(network.slow_network(eight, 0.125 * 8 / 14)) == []


def test_a_fault_of_one_host_is_said_once_and_with_its_ranks():
    (found,) = check(job(limits=Limits(32, -1)))
    assert (found.name, found.severity) == ("few_open_files", BROKEN)
    assert found.where == "ranks 2-3 on node2"


def test_worse_where_several_hosts_need_it():
    unknown = facts(ALLOCATION, host=host(name_problem="unknown"), slurm=SLURM)
    assert [f.severity for f in check([unknown])] == [BROKEN]
    tiny = facts(shared_memory=Folder("/dev/shm", 16 * MIB, 16 * MIB))
    assert [(f.name, f.severity) for f in check([tiny])] == [("shm_too_small", BROKEN)]
    assert "SIGBUS" in check([tiny])[0].cause


def test_threads_of_a_job_are_added_up_per_host():
    seen = [replace(f, environ=f.environ | {"OMP_NUM_THREADS": "5"}) for f in job()]
    (found,) = check(seen)
    assert "2 ranks on node1 run 10 threads (5 each) on 8 cores" in found.cause
    assert "OMP_NUM_THREADS=4" in found.fix
    bound = [
        replace(
            f, environ={**f.environ, "OMP_NUM_THREADS": ""}, host=host(name="node1", affinity=(i,))
        )
        for i, f in enumerate(job())
    ]
    assert [f.name for f in check(bound[:2])] == []


def test_what_interfaces_are_left_out_of():
    for environ in (
        {"NCCL_SOCKET_IFNAME": "^docker,lo"},
        {"UCX_NET_DEVICES": "all"},
        {"UCX_NET_DEVICES": "mlx5_0:1,eth0"},
        {"OMPI_MCA_btl_tcp_if_include": "10.0.0.0/24"},
        {"NCCL_SOCKET_IFNAME": "et"},
    ):
        seen = facts(environ, rdma=("mlx5_0",), limits=Limits(1024, -1))
        assert check([seen]) == []
    assert [f.name for f in check([facts({"NCCL_SOCKET_IFNAME": "=et"})])] == ["interface_missing"]


def test_torchrun_style_variables_are_explained():
    seen = facts({"RANK": "0", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, world=World(0, 1))
    (found,) = check([seen])
    assert found.name == "separate_worlds"
    assert "allgrad run -n 2 script.py" in found.fix


def test_facts_travel_as_json():
    seen = replace(HEALTHY, environ={"A": "b"}, world=World(1, 2, clock_s=0.5), gpus=A100)
    assert Facts.from_json(seen.to_json()) == seen
    # Another version may know more, or less.
    assert Facts.from_json('{"ranks": 3, "unheard_of": {"x": 1}}') == Facts(ranks=3)


def test_merged_findings():
    a, b = warning("a", "cause", "fix"), broken("b", "cause", "fix")
    found = merged([(0, "n1", a), (1, "n2", a), (1, "n2", b)], 2)
    assert found == [replace(b, where="rank 1 on n2"), a]


def test_every_finding_has_a_test_and_a_row_in_the_documentation():
    folder = Path(checks.__file__).parent
    text = "".join(path.read_text() for path in sorted(folder.glob("*.py")))
    calls = re.findall(r'(?:broken|warning|make|Finding)\(\s*"(\w+)"', text)
    calls += re.findall(r'"(\w+)" if _by_srun\(facts\) else "(\w+)"', text)[0]
    tested = {*ONE, *JOBS, "clock_skew", "slow_network"}
    assert set(calls) == tested
    assert len(tested) >= 15
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows == tested | {"self_test_failed"}


def test_findings_compare_by_value():
    assert Finding("a", WARNING, "c", "f") == warning("a", "c", "f")
