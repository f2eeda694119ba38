"""The doctor on real misconfigurations: provoked here, found, explained."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import emulated_hosts, openmpi

from allgrad.launch.doctor import gather_host, gather_links, gather_software, nvml
from allgrad.launch.doctor.checks import check
from allgrad.launch.doctor.facts import Gpus
from allgrad.launch.doctor.gather import gather

DOCTOR = (sys.executable, "-m", "allgrad.launch.cli", "doctor")
QUICK = (*DOCTOR, "--json", "--no-self-test")
TIMEOUT_S = 100  # a busy machine takes its time
# What the machine that runs the tests may have as well.
OF_THE_MACHINE = {
    "busy_machine",
    "leftover_shared_memory",
    "more_ranks_than_cores",
    "folder_full",
    "tmpdir_full",
}


def clean(**more):
    """An environment without a launcher's variables."""
    prefixes = ("OMP_", "ALLGRAD_", "PMI", "OMPI_", "SLURM_", "UCX_", "MPI")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def names(environ=None, **options):
    """The findings about this process, were its environment like this."""
    found = check([gather(clean(**(environ or {})), **options)])
    return {finding.name: finding for finding in found if finding.name not in OF_THE_MACHINE}


def run(*command, environ=None, **options):
    """Run a doctor, or several; its report and exit code."""
    done = subprocess.run(
        command,
        env=clean(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )
    begin = done.stdout.find("{")
    assert begin >= 0, (done.returncode, done.stdout, done.stderr)
    report, _ = json.JSONDecoder().raw_decode(done.stdout[begin:])
    report["found"] = {finding["name"]: finding for finding in report["findings"]}
    return report, done


def test_this_machine_is_looked_at_in_two_seconds():
    seconds = []
    for _ in range(3):  # the first may have to read files from the disk
        begin = time.perf_counter()
        found = names(ranks=1)
        seconds.append(time.perf_counter() - begin)
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2
    pytest.importorskip("mpi4py")
    assert not {name for name, f in found.items() if f.severity == "broken"}


def test_stale_connections():
    read, write = os.pipe()
    try:
        found = names({"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": str(read)})
    finally:
        os.close(read)
        os.close(write)
    assert "is no open connection of this process" in found["stale_environment"].cause
    stale = gather_links.stale_variables
    uri = {"OMPI_COMM_WORLD_RANK": "0", "PMIX_SERVER_URI41": "prte;tcp4://127.0.0.1:1"}
    assert "nobody listens at 127.0.0.1:1" in stale(uri)["PMIX_SERVER_URI41"]
    assert "no connection" in stale({"OMPI_COMM_WORLD_RANK": "0"})["OMPI_COMM_WORLD_RANK"]
    assert "has ended" in stale({"ALLGRAD_SUPERVISOR": "/nowhere/socket"})["ALLGRAD_SUPERVISOR"]
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert "has ended" in stale({"SLURM_TASK_PID": str(ended.pid)})["SLURM_TASK_PID"]
    assert stale({"SLURM_TASK_PID": str(os.getpid())}) == {}


def test_contradicting_variables():
    environ = {"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    assert "OMPI_COMM_WORLD_SIZE is not" in names(environ)["contradicting_variables"].cause


def test_no_mpi4py_and_no_library(tmp_path):
    pytest.importorskip("mpi4py")
    found = names({"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert "cannot load MPI library" in found["mpi4py_libmpi_wrong"].cause
    # An installed mpi4py whose library is not there: a package that fails as mpi4py does then.
    (tmp_path / "mpi4py.py").write_text("raise RuntimeError('cannot load MPI library')")
    found = names({"PYTHONPATH": str(tmp_path)})
    assert "it loads no MPI library: cannot load MPI library" in found["mpi_library_missing"].cause
    # One that ends the process.
    (tmp_path / "mpi4py.py").write_text("import os; os.abort()")
    found = names({"PYTHONPATH": str(tmp_path)})
    assert "ended with -6" in found["mpi_library_missing"].cause


def test_no_mpiexec():
    found = names(mpiexec="/nowhere/mpiexec")
    assert "--mpiexec /nowhere/mpiexec: no such program" in found["mpiexec_missing"].cause


def test_an_mpi_that_hangs_is_a_finding(tmp_path, monkeypatch):
    (tmp_path / "mpi4py.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr("allgrad.launch.doctor.gather.LIBRARY_S", 0.8)
    found = names({"PYTHONPATH": str(tmp_path)})
    cause = found["mpi_library_missing"].cause
    assert "took longer than 0.8 s" in cause or "no answer in time" in cause


def test_mpi_of_another_kind():
    other = openmpi.need()
    found = names(mpiexec=other.mpiexec)
    assert "mpi4py loads MPICH" in found["wrong_mpi_for_mpi4py"].cause
    assert f"started by Open MPI ({other.mpiexec})" in found["wrong_mpi_for_mpi4py"].cause
    assert names(other.environ, mpiexec=other.mpiexec) == {}


def test_folders_that_cannot_be_written(monkeypatch):
    monkeypatch.chdir("/proc/self")  # root can write anywhere else
    found = names({"TMPDIR": "/proc/nowhere"})
    assert "/proc/nowhere cannot be used" in found["tmpdir_unusable"].cause
    assert "/proc/" in found["folder_not_writable"].cause


def test_folder_that_was_removed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert gather_host.current_folder().problem


def test_segments_that_nobody_maps(tmp_path):
    (tmp_path / "mpich_shm_1_0").write_bytes(b"x")
    assert gather_host.leftover_segments(tmp_path, 0.0) == (str(tmp_path / "mpich_shm_1_0"),)
    assert gather_host.leftover_segments(tmp_path) == ()  # its job may just be starting


def test_interfaces_and_threads():
    environ = {"UCX_NET_DEVICES": "eth77", "OMP_NUM_THREADS": "64"}
    found = names(environ, ranks=2)
    assert "UCX_NET_DEVICES names eth77" in found["interface_missing"].cause
    assert "2 ranks" in found["too_many_threads"].cause
    assert "128 threads (64 each)" in found["too_many_threads"].cause


def test_onednn_from_nowhere():
    command = [sys.executable, "-c", "from allgrad.launch.doctor.gather_software import *; "
               "print(software().onednn_problem)"]  # fmt: skip
    done = subprocess.run(
        command, env=clean(ALLGRAD_ONEDNN="/nowhere.so"), capture_output=True, text=True,
        timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert "/nowhere.so" in done.stdout


def test_gpus_of_a_driver_that_answers(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "nvml.c"
    source.write_text("""
        #include <string.h>
        int nvmlInit_v2() { return 0; }
        int nvmlShutdown() { return 0; }
        const char *nvmlErrorString(int status) { return "Driver/library version mismatch"; }
        int nvmlSystemGetDriverVersion(char *t, unsigned n) { strcpy(t, "570.1"); return FAIL; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)1; return 0; }
        int nvmlDeviceGetName(void *h, char *t, unsigned n) { strcpy(t, "H100"); return 0; }
    """)
    answers = []
    for status in (0, 18):
        library = tmp_path / f"libnvml{status}.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-DFAIL={status}", "-o", library, source],
            check=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        answers.append(nvml.gpus(str(library), tmp_path))
    assert answers[0] == Gpus("570.1", ("H100", "H100"), present=True)
    assert "Driver/library version mismatch" in answers[1].problem


def test_a_gpu_without_a_driver(tmp_path):
    device = tmp_path / "0000:00:01.0"
    device.mkdir()
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    found = nvml.gpus("libno-such-nvml.so", tmp_path)
    assert found.present
    assert "libno-such-nvml.so" in found.problem


def test_a_slurm_without_the_plugin(tmp_path):
    for name, text in {
        "srun": 'case "$1" in --version) echo slurm 22.05.8;; *) '
        'printf "MPI plugin types are...\\n\\tnone\\n\\tcray_shasta\\n" >&2;; esac',
        "scontrol": 'echo "MpiDefault              = none"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    found = names({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "this Slurm offers cray_shasta, none" in found["slurm_plugin_missing"].cause
    slow = tmp_path / "srun"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    begin = time.monotonic()
    answer = gather_software.slurm({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, 0.3)
    assert time.monotonic() - begin < 10
    assert (answer.version, answer.plugins) == ("unknown", ())


def test_limits_of_a_container(tmp_path):
    inner = tmp_path / "pod" / "me"
    inner.mkdir(parents=True)
    (tmp_path / "pod" / "cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("max 100000\n")
    assert gather_host.cpu_quota(tmp_path, "0::/pod/me\n") == 1.5
    old = tmp_path / "cpu,cpuacct"
    old.mkdir()
    (old / "cpu.cfs_quota_us").write_text("200000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert gather_host.cpu_quota(tmp_path, "3:cpu,cpuacct:/elsewhere\n") == 2.0
    assert gather_host.cpu_quota(tmp_path, "0::/\n") == 0.0


def test_few_files_and_one_core():
    cores = sorted(os.sched_getaffinity(0))

    def narrow():
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        os.sched_setaffinity(0, cores[:1])

    report, done = run(*QUICK, "-n", "2", preexec_fn=narrow)
    assert "48 files at once" in report["found"]["few_open_files"]["cause"]
    assert done.returncode == 2
    if os.cpu_count() > 1:
        assert f"use core {cores[0]} only" in report["found"]["one_core_for_all"]["cause"]


def test_copies_side_by_side(tmp_path):
    pair = " ".join(QUICK)
    script = f"{pair} > a & {pair} > b; wait"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=clean(), timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0
    found = [json.loads((tmp_path / name).read_text())["findings"] for name in "ab"]
    # The one that looks while the other is there sees it; both do unless one started much later.
    assert "all_are_rank_0" in {each["name"] for findings in found for each in findings}


@pytest.fixture
def cramped(tmp_path):
    """A command before a command: without a network, with little room, with an unknown name."""
    setup = (
        "mount -t tmpfs -o size=20m shm /dev/shm && mkdir tiny "
        "&& mount -t tmpfs -o size=200k t tiny && ip link add eth0 type veth peer name other0 "
        "&& ip addr add 10.9.9.9/24 dev eth0 && ip link set eth0 up && hostname nowhere-at-all "
        "&& ip link add docker0 type bridge "
        '&& ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up && exec "$@"'
    )
    command = ("unshare", "-m", "-u", "-n", "-i", "sh", "-c", setup, "sh")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    trial = subprocess.run(
        [*command, "true"], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    if trial.returncode != 0:
        pytest.skip(f"namespaces cannot be made here: {trial.stderr.strip()}")
    (tmp_path / "tiny").rmdir()
    return command


def test_little_room_and_no_network(cramped, tmp_path):
    environ = {"TMPDIR": str(tmp_path / "tiny"), "SLURM_NNODES": "2"}
    report, done = run(*cramped, *QUICK, "-n", "2", environ=environ, cwd=tmp_path)
    found = report["found"]
    assert "20 MiB free: room for the gradients of 1 million" in found["shm_too_small"]["cause"]
    assert "MiB free" in found["tmpdir_full"]["cause"]
    assert "nowhere-at-all" in found["hostname_unknown"]["cause"]
    assert "nowhere-at-all has docker0 beside eth0" in found["virtual_interface"]["cause"]
    assert done.returncode == 2
    lo = next(each for each in report["ranks"][0]["interfaces"] if each["name"] == "lo")
    assert not lo["up"]  # nobody has set it up here: what `interface_down` goes by


@pytest.mark.mpi
def test_self_test(scene, leaves_nothing, mpiexec):
    job = scene.run(*DOCTOR, "-n", "2", "--seconds", "0.4")
    assert job.code == 0, job.err
    lines = job.out.splitlines()
    assert lines[-1].startswith(("verdict: everything is fine", "verdict: works, with"))
    rows = [line for line in lines if line.startswith("self test")]
    assert len(rows) == 4
    assert all("2 ranks (shm), all-reduce of" in row for row in rows)
    assert "GB/s" in rows[-1]
    leaves_nothing()


@pytest.mark.mpi
def test_interrupted(scene, leaves_nothing, mpiexec):
    process = scene.start(*DOCTOR, "-n", "2", "--seconds", "60")
    end = time.monotonic() + TIMEOUT_S
    while not any("allgrad.launch.doctor.self_test" in line for line in children(process.pid)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    job = scene.finish(process)
    assert (job.code, job.err) == (130, "allgrad doctor: interrupted\n")
    leaves_nothing()


def children(pid):
    """Command lines of the children of a process."""
    entries = [e for e in Path("/proc").glob("[0-9]*") if gather_links._parent(e) == pid]
    return [gather_links._command(int(e.name)).decode() for e in entries]


@pytest.mark.mpi
def test_an_mpiexec_that_fails(tmp_path, mpiexec):
    fake = tmp_path / "mpiexec"
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo HYDRA; else echo no >&2; exit 7; fi\n'
    )
    fake.chmod(0o755)
    report, done = run(*DOCTOR, "--json", "-n", "2", "--mpiexec", str(fake))
    assert (
        "2 ranks could not average an array: exit code"
        in report["found"]["self_test_failed"]["cause"]
    )
    assert done.returncode == 2


@pytest.mark.mpi
def test_ranks_that_differ(tmp_path, mpiexec):
    older = tmp_path / "numpy-1.99.0.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.99.0\n")
    differing = ("-env", "PYTHONPATH", str(tmp_path))
    report, done = run(mpiexec, "-n", "1", *QUICK, ":", "-n", "1", *differing, *QUICK)
    assert done.returncode == 0, done.stderr
    found = report["found"]["versions_differ"]
    assert "numpy differs between ranks" in found["cause"]
    assert "1.99.0 in rank 1" in found["cause"]
    assert [facts["world"]["rank"] for facts in report["ranks"]] == [0, 1]


@pytest.mark.mpi
def test_launcher_of_another_mpi(mpiexec):
    other = openmpi.need()
    report, done = run(mpiexec, "-n", "2", *DOCTOR, "--json", environ=other.environ)
    assert "started for PMI, but" in report["found"]["launcher_of_another_mpi"]["cause"]
    assert done.returncode != 0


@pytest.mark.mpi
def test_torchrun_without_mpi(mpiexec):
    report, done = run(*QUICK, environ={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    found = report["found"]["separate_worlds"]
    assert "started rank 0 of 2, but MPI sees rank 0 of 1" in found["cause"]
    assert "allgrad run -n 2" in found["fix"]
    assert "set MASTER_ADDR and MASTER_PORT" in found["fix"]
    assert done.returncode == 2


@pytest.mark.mpi
def test_torchrun_that_meets(mpiexec, tmp_path):
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = str(trial.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    other = subprocess.Popen(
        QUICK, env=clean(**common, RANK="1", LOCAL_RANK="1"), stdin=subprocess.DEVNULL
    )
    try:
        report, done = run(*QUICK, environ=common | {"RANK": "0", "LOCAL_RANK": "0"})
        assert other.wait(TIMEOUT_S) == done.returncode == 0
    finally:
        other.kill()
        other.wait()
    assert [facts["world"]["size"] for facts in report["ranks"]] == [2, 2]


@pytest.mark.mpi
def test_two_hosts_with_one_address_and_a_slow_network(mpiexec):
    with emulated_hosts.emulated_hosts(2) as hosts:
        hosts.shape("200mbit")
        for host in range(2):
            inside = ("ip", "-n", hosts._namespace(host))
            for command in ("link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0",
                            "link set docker0 up"):  # fmt: skip
                subprocess.run([*inside, *command.split()], check=True)
        report, done = run(
            *hosts.command(0, [*DOCTOR, "--json", "--seconds", "0.4", "-H", "node0:1,node1:1"]),
            "--remote-shell",
            emulated_hosts.remote_shell(hosts),
            environ=emulated_hosts.netns.TCP_ONLY,
        )
    assert done.returncode == 0, done.stderr
    assert "both have the address 172.17.0.1" in report["found"]["clashing_interfaces"]["cause"]
    assert {facts["host"]["name"] for facts in report["ranks"]} == {"node0", "node1"}
    sizes = [row["size_bytes"] for row in report["self_test"]["all_reduce"]]
    assert sizes == [4, 1 << 16, 1 << 20]  # 25 MiB would take seconds
    assert "less than a network of 1 Gbit/s gives" in report["found"]["slow_network"]["cause"]
