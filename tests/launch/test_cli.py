"""The command line: what it prints and refuses. Every refusal is one clear sentence and code 2."""

from __future__ import annotations

import os
import shlex

import pytest

from allgrad.launch import cli, mpi_runtime


def call(capsys, *argv):
    try:
        code = cli.main(argv)
    except SystemExit as leaving:
        code = leaving.code
    out, err = capsys.readouterr()
    return code, out, err


def test_help_and_version(capsys):
    assert call(capsys)[0] == 2
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "start a script as several ranks" in out
    code, out, _ = call(capsys, "run", "--help")
    assert code == 0
    assert "examples:" in out
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert out.startswith("allgrad 0.")
    assert max(len(line) for line in out.splitlines()) <= 100


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("rum x.py", "unknown command rum; did you mean run?"),
        ("--verion", "unknown option --verion; did you mean --version?"),
        ("run --nprocs 2 x.py", "unknown option --nprocs; did you mean --nproc"),
        ("run --thread=2 x.py", "unknown option --thread"),
        ("run", "required: script"),
        ("run -n 0 x.py", "-n/--nproc: expected a whole number of at least 1, got 0"),
        ("run -n -3 x.py", "-n/--nproc: expected a whole number of at least 1, got -3"),
        ("run -n two x.py", "expected a whole number of at least 1, got two"),
        ("run --timeout soon x.py", "expected a number of seconds >= 0, got soon"),
        ("run --env FOO x.py", "expected NAME=VALUE, got FOO"),
        ("run --bind socket x.py", "invalid choice: 'socket'"),
        ("run missing.py", "script missing.py does not exist"),
        ("run -n 2 trian.py", "script trian.py does not exist (looked in"),
        ("run -n 2 trian.py", "; similar: train.py"),
        ("run nowhere/x.py", "the folder nowhere does not exist either"),
        ("run .", "script . is a folder, not a script"),
        ("run -m no_such_module.train", "module no_such_module.train does not exist"),
        ("run --log-dir train.py/logs train.py", "--log-dir train.py/logs: "),
    ],
)
def test_refusals(capsys, monkeypatch, tmp_path, argv, words):
    (tmp_path / "train.py").write_text("raise SystemExit('never started')")
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv.split())
    assert code == 2
    assert out == ""
    assert words in err
    assert err.startswith("allgrad")
    assert "Traceback" not in err


def test_unknown_option_lists_the_known_ones(capsys):
    _, _, err = call(capsys, "run", "--foo", "x.py")
    assert "Known: --bind --debug --debug-post-mortem --dry-run --env" in err


def test_mpi4py_missing(capsys, monkeypatch, tmp_path):
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpi_runtime.importlib.util, "find_spec", lambda name: None)
    code, _, err = call(capsys, "run", "-n", "2", "train.py")
    assert code == 2
    assert "need mpi4py" in err
    assert "-m pip install mpi4py mpich" in err


@pytest.mark.mpi
def test_dry_run_prints_a_command_that_works(scene, mpiexec):
    path = scene.script(
        "import os, sys\n"
        "supervised = 'ALLGRAD_SUPERVISED' in os.environ\n"
        "sys.stdout.write(f'{sys.argv[1:]} {supervised}\\n')  # one write: lines must not mix"
    )
    job = scene.allgrad("-n", "2", "--dry-run", path, "--lr", "a b")
    assert job.code == 0
    assert mpiexec in job.out
    done = scene.run(*shlex.split(job.out))
    assert done.out.splitlines() == ["['--lr', 'a b'] False"] * 2, done


def test_options_after_the_script_are_the_scripts(scene):
    path = scene.script("import sys; print(sys.argv)")
    job = scene.allgrad("-n", "1", path, "-n", "3", "--help", "--", "-m")
    assert job.out == f"{[path, '-n', '3', '--help', '--', '-m']}\n"


def test_environment_of_the_ranks(scene):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "A", "TMPDIR")
    path = scene.script(f"import os; print([os.environ.get(n) for n in {names}])")
    threads = str(len(os.sched_getaffinity(0)))
    tmpdir = os.environ.get("TMPDIR")
    assert scene.allgrad("--env", "A=b", path).out == f"{[*[threads] * 3, 'b', tmpdir]}\n"
    assert scene.allgrad("--threads-per-rank", "5", path).out == f"{[*['5'] * 3, None, tmpdir]}\n"


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
def test_bind_gives_each_rank_its_cores(scene):
    text = "import os, sys; sys.stdout.write(f'{sorted(os.sched_getaffinity(0))}\\n')"
    job = scene.allgrad("-n", "2", "--bind", "core", "--threads-per-rank", "1", scene.script(text))
    cores = sorted(os.sched_getaffinity(0))
    expected = [f"[{rank}] [{cores[rank % len(cores)]}]" for rank in range(2)]
    assert sorted(job.out.splitlines()) == expected


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
def test_logs(scene):
    path = scene.script(
        "import os; print('rank', os.environ[os.environ['ALLGRAD_RANK_VARIABLE']])\n1/0"
    )
    job = scene.allgrad("-n", "2", "--log-dir", "logs/run", path)
    assert job.code == 1
    assert job.out == "[0] rank 0\n"
    for rank in range(2):
        text = (scene.folder / f"logs/run/rank-{rank}.log").read_text()
        assert text.startswith(f"rank {rank}\n")
        assert "ZeroDivisionError" in text
    job = scene.allgrad("-n", "2", "--log-dir", "logs/run", "--tee", path)
    assert sorted(job.out.splitlines()) == ["[0] rank 0", "[1] rank 1"]


def test_verbose_says_what_is_used(scene):
    job = scene.allgrad("-v", scene.script(""))
    assert "ranks 1, " in job.err
    assert "no MPI" in job.err


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
def test_more_ranks_than_cores_is_said(scene):
    count = len(os.sched_getaffinity(0)) + 1
    job = scene.allgrad("-n", str(count), scene.script(""))
    assert job.code == 0
    assert f"{count} ranks share {count - 1} cores" in job.err
