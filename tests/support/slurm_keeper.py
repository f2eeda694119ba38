"""Runs a real Slurm of two nodes on this host and leaves nothing of it: ``slurm_keeper.py FOLDER``.

Starts munged, slurmctld and two slurmd in FOLDER, with ports, keys and sockets of their own; says
"ready" on stdout, or why not; ends everything and removes FOLDER when its stdin is closed. So
whatever happens to the process that holds the other end, the cluster ends with it.

All that daemons and jobs leave behind becomes a child of this process (``PR_SET_CHILD_SUBREAPER``)
and is killed by its number; the daemons die with this process (``PR_SET_PDEATHSIG``). Only standard
library, so that nothing else has to work. Must be root, as slurmd must.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("n1", "n2")
CORES = 4  # of a node, as Slurm believes
GPUS = ("/dev/null", "/dev/zero")  # of a node, as Slurm believes
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "scancel")
_START_S = 60.0  # for all nodes to become idle
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)

# No systemd, no cgroups, no accounting. A job that is put back into the queue may start after
# cred_expire seconds; a preempted one gets its --signal, then SIGTERM, and GraceTime to use it.
_SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=100000
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=300
MessageTimeout=60
KillWait=5
MinJobAge=300
Waittime=0
JobRequeue=1
PropagateResourceLimits=NONE
CommunicationParameters=NoAddrCache
{nodes}
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=urgent Nodes=ALL PriorityTier=10
"""
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} "
    "RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN"
)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def write_configuration(folder: Path) -> None:
    """Make the folders, keys and files that the daemons want to see."""
    # Where no cgroups are mounted, slurmd wants at least to see a folder for them.
    for name in ("cg/systemd", "munge", "state"):
        (folder / name).mkdir(parents=True)
    for node in NODES:
        for kind in ("spool", "tmp"):
            (folder / f"{kind}-{node}").mkdir()
    (folder / "munge").chmod(0o755)
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    host = socket.gethostname().partition(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = [
        _NODE.format(name=name, host=host, port=port, cores=CORES, gpus=len(GPUS))
        for name, port in zip(NODES, ports, strict=True)
    ]
    text = _SLURM_CONF.format(
        folder=folder, host=host, controller=controller, nodes="\n".join(nodes)
    )
    (folder / "slurm.conf").write_text(text)
    # Slurm wants to see the devices; no task looks into them.
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={path}\n" for path in GPUS))
    cgroups = f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cg\n"
    (folder / "cgroup.conf").write_text(cgroups)


def _daemon(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("wb") as out:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
            start_new_session=True,
            cwd=log.parent,
        )


def start_daemons(folder: Path) -> None:
    """Start them and wait until both nodes are idle.

    Raises:
        RuntimeError: one has ended, or they do not come up.
    """
    munge = folder / "munge"
    options = ("key-file", "pid-file", "log-file", "seed-file", "socket")
    # --force: the folder for temporary files may be one that only its owner may enter.
    munged = [
        "munged",
        "--foreground",
        "--force",
        *(f"--{o}={munge / o.split('-')[0]}" for o in options),
    ]
    daemons = {"munged": _daemon(munged, folder / "munged.log")}
    _wait(lambda: (munge / "socket").exists(), daemons, folder)
    conf = str(folder / "slurm.conf")
    daemons["slurmctld"] = _daemon(["slurmctld", "-D", "-f", conf], folder / "slurmctld.out")
    for node in NODES:
        daemons[f"slurmd {node}"] = _daemon(
            ["slurmd", "-D", "-f", conf, "-N", node], folder / f"slurmd-{node}.out"
        )
    _wait(_all_idle, daemons, folder)


def _all_idle() -> bool:
    command = ["sinfo", "-h", "-p", "normal", "-t", "idle", "-o", "%D"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() == str(len(NODES))


def _wait(ready, daemons: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + _START_S
    while not ready():
        ended = [name for name, process in daemons.items() if process.poll() is not None]
        if ended or time.monotonic() > end:
            what = f"{ended[0]} has ended" if ended else f"not ready within {_START_S:g} s"
            raise RuntimeError(f"{what}; last lines of the logs: {' | '.join(_last_lines(folder))}")
        time.sleep(0.05)


def _last_lines(folder: Path) -> Iterator[str]:
    for log in sorted([*folder.glob("*.log"), *folder.glob("*.out")]):
        lines = log.read_text(errors="replace").splitlines()
        yield from (f"{log.name}: {line}" for line in lines[-2:])


def end_all() -> None:
    """Kill every descendant, by number, until there is none; orphans come to us."""
    while True:
        for pid in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(entry.name)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(folder: Path) -> int:
    """Keep a cluster until stdin is closed."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.environ["PATH"] += os.pathsep + "/usr/sbin:/sbin"
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    code = 0
    try:
        write_configuration(folder)
        try:
            start_daemons(folder)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            _say(f"{type(error).__name__}: {error}")
            code = 1
        else:
            _say("ready")
            sys.stdin.buffer.read()
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
