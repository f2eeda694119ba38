"""`allgrad run --debug`: ranks as threads of one process behave as ranks that are processes."""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from allgrad.launch import cli

DEBUG = ("--debug", "-n", "2")

PROGRAM = """
from __future__ import annotations
import argparse, atexit, dataclasses, logging, os, pickle, random, signal, sys, threading
import numpy as np
from allgrad import ddp
import neighbour

class Thing:
    pass

@dataclasses.dataclass
class Point:
    x: int = 3

def in_a_thread():
    print("thread", os.environ["RANK"], ddp.get_rank())

if __name__ == "__main__":
    import __main__
    ddp.init_process_group()
    rank, size = ddp.get_rank(), ddp.get_world_size()
    assert __main__.Thing is Thing and sys.modules["__main__"].__dict__ is globals()
    assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
    gathered = [None] * size
    ddp.all_gather_object(gathered, Thing())
    assert [type(thing) for thing in gathered] == [Thing] * size
    assert [os.environ[n] for n in ("RANK", "LOCAL_RANK", "ALLGRAD_RANK")] == [str(rank)] * 3
    assert os.getenv("WORLD_SIZE") == str(size)
    os.environ["MINE"] = str(rank)
    assert neighbour.counted == 1  # imported once, shared by all
    assert os.environ["OF_NEIGHBOUR"] == "set"
    random.seed(rank), np.random.seed(rank)
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(message)s")
    ddp.barrier()
    assert os.environ["MINE"] == str(rank) and dict(os.environ)["MINE"] == str(rank)
    assert random.random() == random.Random(rank).random()
    assert np.random.rand() == np.random.RandomState(rank).rand()
    logging.info("info of %d", rank)
    thread = threading.Thread(target=in_a_thread)
    thread.start(), thread.join()
    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    sys.stderr.write(f"10%\\r20%\\r{Point()}")
    print(sys.argv[1:], __file__, __name__, __spec__ is None)
    ddp.destroy_process_group()
"""
NEIGHBOUR = (
    "import os\ncounted = globals().get('counted', 0) + 1\nos.environ['OF_NEIGHBOUR'] = 'set'"
)


def test_a_script_finds_what_it_finds_in_a_process(scene):
    path = scene.script(PROGRAM)
    scene.script(NEIGHBOUR, "neighbour.py")
    job = scene.allgrad(*DEBUG, path, "a", "--debug")
    assert job.code == 0, job.err
    expected = [f"[{rank}] thread {rank} {rank}" for rank in (0, 1)]
    expected += [f"[{rank}] ['a', '--debug'] {path} __main__ True" for rank in (0, 1)]
    assert sorted(job.out.splitlines()) == sorted(expected)
    assert sorted(job.err.splitlines()) == ["[0] Point(x=3)", "[0] info of 0", "[1] Point(x=3)"]


def test_modules_packages_and_one_rank(scene):
    (scene.folder / "package").mkdir()
    scene.script("print(__name__, __package__, __spec__.name)", "package/__main__.py")
    scene.script("", "package/__init__.py")
    job = scene.allgrad("--debug", "-m", "package", "x")
    assert (job.out, job.err, job.code) == ("__main__ package package.__main__\n", "", 0)
    path = scene.script(
        "from allgrad import ddp\nddp.init_process_group()\nddp.barrier()\n"
        "print(input('name? '), ddp.get_world_size(), ddp.get_backend())"
    )
    assert scene.talk("Ada\n", "--debug", path).out == "name? Ada 1 thread\n"


FAILURES = {
    "raise ValueError('bad')": (1, "allgrad: rank 1 failed: ValueError: bad (exit code 1)"),
    "sys.exit(3)": (3, "allgrad: rank 1 failed: sys.exit(3) (exit code 3)"),
    "os._exit(5)": (5, "allgrad: rank 1 failed: exit code 5"),
    "threading.Thread(target=lambda: 1 / 0).start()": (
        1,
        "allgrad: rank 1 failed: ZeroDivisionError: division by zero (exit code 1)",
    ),
}


@pytest.mark.parametrize("others", ["ddp.barrier()", "while True: pass"])
@pytest.mark.parametrize("how", FAILURES)
def test_the_first_failure_ends_the_job(scene, leaves_nothing, how, others):
    path = scene.script(
        "import os, sys, threading\nfrom allgrad import ddp\nddp.init_process_group()\n"
        f"if ddp.get_rank() == 1: {how}\n{others}"
    )
    begin = time.monotonic()
    job = scene.allgrad("--debug", "-n", "3", path)
    code, last = FAILURES[how]
    assert (job.code, job.last) == (code, last), job.err
    assert time.monotonic() - begin < 30
    if code == 1:
        assert f'  File "{path}", line 4, in ' in job.err
        assert "debug_host" not in job.err
    leaves_nothing()


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_signals_end_the_job(scene, number, code, name):
    path = scene.script(
        "import pathlib, time\nfrom allgrad import ddp\nddp.init_process_group()\n"
        "rank = ddp.get_rank()\npathlib.Path(f'ready-{rank}').touch()\n"
        "if rank == 0: time.sleep(1000)\nddp.barrier()"
    )
    process = scene.start(*scene.command(*DEBUG, path))
    scene.wait_for("ready-0", "ready-1", process=process)
    process.send_signal(number)
    job = scene.finish(process)
    assert (job.code, job.last) == (code, f"allgrad: ended by {name} (exit code {code})"), job.err


def test_handlers_of_a_rank_run_for_that_rank(scene):
    path = scene.script(
        """
import pathlib, signal, sys, time
from allgrad import ddp
ddp.init_process_group()
rank = ddp.get_rank()
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(ddp.get_rank()))
pathlib.Path(f"ready-{rank}").touch()
while not asked:
    time.sleep(0.01)
assert asked == [rank]
ddp.barrier()
print("saved")
"""
    )
    process = scene.start(*scene.command(*DEBUG, path))
    scene.wait_for("ready-0", "ready-1", process=process)
    process.send_signal(signal.SIGTERM)
    job = scene.finish(process)
    assert (job.code, sorted(job.out.splitlines())) == (0, ["[0] saved", "[1] saved"]), job.err


def test_time_limit_and_logs(scene):
    path = scene.script(
        "import time\nfrom allgrad import ddp\nddp.init_process_group()\n"
        "print('rank', ddp.get_rank(), flush=True)\ntime.sleep(1000)"
    )
    job = scene.allgrad(*DEBUG, "--timeout", "1", "--log-dir", "logs", path)
    assert job.code == 124
    assert job.last == "allgrad: the job failed: time limit of 1 s reached (exit code 124)"
    assert job.out == "[0] rank 0\n"
    assert (scene.folder / "logs/rank-1.log").read_text() == "rank 1\n"


LOADERS = """
import hashlib, random, sys
import numpy as np
import allgrad as ag
from allgrad import ddp
from allgrad.utils.data import DataLoader, Dataset

class Noisy(Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, i):
        return np.array([i, random.random(), np.random.rand(), ag.rand(1).item()])

def digest(**options):
    ag.manual_seed(3)
    data, found = Noisy(), hashlib.sha256()
    loader = DataLoader(data, 4, sampler=ddp.DistributedSampler(data, seed=1), **options)
    for epoch in range(2):
        for batch in loader:
            found.update(batch.numpy().tobytes())
    return found.hexdigest()

if __name__ == "__main__":
    ddp.init_process_group()
    here = digest()
    assert digest(num_workers=2, multiprocessing_context="fork") == here
    if "spawn" in sys.argv:
        assert digest(num_workers=1, multiprocessing_context="spawn") == here
    print(here)
"""


def test_data_loaders_deliver_the_same_samples(scene, leaves_nothing):
    path = scene.script(LOADERS)
    job = scene.allgrad("--debug", "-n", "2", path, "spawn")
    assert job.code == 0, job.err
    scheduled = scene.allgrad("--debug", "-n", "2", "--schedule", "4", path)
    assert sorted(scheduled.out.splitlines()) == sorted(job.out.splitlines()), scheduled.err
    zero, one = (line[4:] for line in sorted(job.out.splitlines()))
    assert zero != one
    leaves_nothing()


def test_a_dry_run_says_what_would_happen(capsys, monkeypatch, tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('never started')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    argv = ["run", "--debug", "-n", "4", "--schedule", "1:9", "--dry-run", "train.py", "-x"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith("env -u RANK ")
    assert " PYTHONHASHSEED=0 " in out
    assert out.endswith(f"{sys.executable} -m allgrad.launch.cli {' '.join(argv)}\n")
    assert "4 ranks as threads of one process, one at a time by seeds 1 to 9 until one fa" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("run --pdb x.py", "--pdb works with --debug"),
        ("run --schedule 3 x.py", "--schedule works with --debug"),
        ("run --debug --schedule 9:3 x.py", "expected a seed such as 7, or a range such as 1:200"),
        ("run --debug --schedule 3 --link 1gbit x.py", "--schedule does without"),
        ("run --debug --max-restarts 2 x.py", "start processes again, not threads"),
        ("run --debug missing.py", "script missing.py does not exist"),
    ],
)
def test_refusals(capsys, monkeypatch, tmp_path, argv, words):
    (tmp_path / "x.py").touch()
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(argv.split())
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert words in capsys.readouterr().err


# ---- schedules ------------------------------------------------------------------------------

RACE = """
from allgrad import ddp
import shared_module
ddp.init_process_group()
ddp.barrier()
for _ in range(2):
    seen = shared_module.count
    ddp.schedule.yield_point()
    shared_module.count = seen + 1
ddp.barrier()
assert shared_module.count == 4, f"counted {shared_module.count}"
"""


def test_a_range_of_seeds_finds_a_race_and_names_the_seed(scene):
    path = scene.script(RACE)
    scene.script("count = 0", "shared_module.py")
    job = scene.allgrad(*DEBUG, "--schedule", "1:100", path)
    assert job.code == 1
    assert "AssertionError: counted " in job.err
    seed = job.last.split()[2]
    again = f"again: allgrad run --debug -n 2 --schedule {seed} {path}"
    assert job.last.startswith(f"allgrad: seed {seed} failed (exit code 1), the ")
    assert job.last.endswith(again)
    repeated = [scene.allgrad(*DEBUG, "--schedule", seed, path) for _ in range(2)]
    assert [r.err for r in repeated] == ["\n".join(job.err.splitlines()[:-1]) + "\n"] * 2


def test_seeds_that_pass_and_a_deadlock(scene):
    path = scene.script(RACE.replace("seen + 1", "shared_module.count + 1"))
    scene.script("count = 0", "shared_module.py")
    job = scene.allgrad(*DEBUG, "--schedule", "1:20", path)
    assert (job.code, job.out) == (0, "")
    assert job.last.startswith("allgrad: 20 schedules passed, seeds 1 to 20, in ")
    path = scene.script(
        textwrap.dedent("""
        import threading
        from allgrad import ddp
        import numpy as np
        ddp.init_process_group()
        c = ddp.process_group.default_group().communicator
        c.all_reduce(np.zeros(2), async_op=True).wait()
        if ddp.get_rank() == 0:
            c.allocate(64)
        ddp.barrier()
        """)
    )
    job = scene.allgrad(*DEBUG, path)
    assert job.code == 1
    assert "deadlock: every rank waits for another one" in job.err
    assert "rank 0 waits in the allocation of shared memory, for rank 1 at " in job.err
    assert f"rank 1 waits in barrier, which rank 0 have not arrived at at {path}:10" in job.err


# ---- same bits ------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
@pytest.mark.parametrize("nproc", [2, 4])
def test_digits_give_the_same_bits_as_processes(scene, nproc):
    example = str(Path(__file__).parents[2] / "examples/digits/train.py")
    options = ("--synthetic", "--epochs", "1", "--no-plot", "--no-progress")
    found = []
    for kind in (["--debug"], []):
        folder = f"checkpoints{len(kind)}"
        job = scene.allgrad(*kind, "-n", str(nproc), example, *options, "--checkpoint-dir", folder)
        assert job.code == 0, job.err
        epoch = next(line for line in job.out.splitlines() if "epoch  1/1" in line)
        tensors = sorted((scene.folder / folder).rglob("*.safetensors"))
        assert tensors
        found.append((epoch.rpartition("%")[0], [path.read_bytes() for path in tensors]))
    assert found[0] == found[1]
