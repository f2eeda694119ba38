"""The worker runs a script as `python` would; compared with `python` itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from allgrad.launch import worker
from allgrad.launch.mpi_runtime import identify

PROGRAM = """
from __future__ import annotations
import atexit, multiprocessing, pickle, sys, threading
import neighbour
class Thing:
    pass
def work(number):
    return number + 1
if __name__ == "__main__":
    print(__name__, __file__, __spec__ is None, __builtins__.__name__)
    print(sys.argv, sys.path[0], neighbour.__name__)
    print(sys.modules["__main__"].Thing is Thing)
    print(type(pickle.loads(pickle.dumps(Thing()))).__module__)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [1, 2]))
    atexit.register(print, "exit")
    threading.Thread(target=lambda: print(work(1))).start()
"""


def test_frames_survive_any_cutting():
    messages = [(worker.STDOUT, b"x" * 300), (worker.HELLO, b""), (worker.ENDED, b'{"status": 0}')]
    stream = b"".join(worker.frame(kind, payload) for kind, payload in messages)
    for size in (1, 4, 7, 1000):
        frames = worker.Frames()
        parts = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert [m for part in parts for m in frames.feed(part)] == messages


def test_frame_of_a_dict_is_json():
    ((_, payload),) = worker.Frames().feed(worker.frame(worker.SIGNAL, {"signal": 15}))
    assert json.loads(payload) == {"signal": 15}


def test_script_runs_as_under_python(scene):
    path = scene.script(PROGRAM)
    scene.script("", "neighbour.py")
    expected = scene.run(sys.executable, path, "a", "-b")
    assert expected.code == 0, expected.err
    job = scene.allgrad(path, "a", "-b")
    assert (job.out, job.err, job.code) == (expected.out, expected.err, 0)


def test_relative_path_and_link(scene):
    scene.script(PROGRAM, "real.py")
    scene.script("", "neighbour.py")
    (scene.folder / "sub").mkdir()
    (scene.folder / "sub" / "link.py").symlink_to("../real.py")
    expected = scene.run(sys.executable, "sub/link.py")
    assert scene.allgrad("sub/link.py").out == expected.out


def test_module_runs_as_under_python(scene):
    (scene.folder / "pkg").mkdir()
    scene.script("", "pkg/__init__.py")
    scene.script(
        "import sys\nfrom . import __name__ as up\nprint(__name__, up, sys.argv, sys.path[0])",
        "pkg/train.py",
    )
    expected = scene.run(sys.executable, "-m", "pkg.train", "x")
    assert expected.code == 0
    assert scene.allgrad("-m", "pkg.train", "x").out == expected.out


@pytest.mark.parametrize(
    "text",
    [
        "raise ValueError('boom')",
        "def f():\n    1 / 0\ntry:\n    f()\nexcept OSError as e:\n    raise KeyError('k') from e",
        "try:\n    1 / 0\nexcept ArithmeticError as e:\n    raise KeyError('k') from e",
        "x = (",
        "import sys; sys.exit('words')",
        "import sys; sys.exit(300)",
        "import sys; sys.exit(None)",
        "import os; os._exit(7)",
    ],
)
def test_ends_like_python(scene, text):
    path = scene.script(text)
    expected = scene.run(sys.executable, path)
    job = scene.allgrad(path)
    assert job.code == expected.code
    lines = [line.removeprefix("[0] ") for line in job.err.splitlines()]
    assert [line for line in lines if not line.startswith("allgrad: ")] == expected.err.splitlines()


def test_hook_of_the_script_is_called_too(scene):
    text = "import sys\nsys.excepthook = lambda *a: print('mine', a[1])\nraise ValueError('boom')"
    job = scene.allgrad(scene.script(text))
    assert job.out == "mine boom\n"
    assert job.last == "allgrad: rank 0 failed: ValueError: boom (exit code 1)"


def test_exception_in_a_thread_alone_does_not_end_the_rank(scene):
    text = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\n"
    text += "t.start(); t.join()\nprint('on')"
    job = scene.allgrad(scene.script(text))
    assert (job.code, job.out) == (0, "on\n")
    assert "ZeroDivisionError" in job.err


def test_exception_in_a_forked_child_is_printed_there(scene):
    text = "import os\npid = os.fork()\nif pid == 0:\n    raise ValueError('child')\n"
    text += "os.waitpid(pid, 0)"
    job = scene.allgrad(scene.script(text))
    assert job.code == 0
    assert "ValueError: child" in job.err


def test_exit_handlers_of_a_single_rank_have_their_time(scene):
    text = "import atexit, time\natexit.register(lambda: (time.sleep(3), print('saved')))\n1 / 0"
    job = scene.allgrad(scene.script(text))
    assert (job.code, job.out) == (1, "saved\n")


def test_output_arrives_line_by_line(scene):
    text = "import pathlib, time\nprint('first')\n"
    text += "while not pathlib.Path('go').exists():\n    time.sleep(0.02)\nprint('second')"
    process = scene.start(sys.executable, "-m", "allgrad.launch.cli", "run", scene.script(text))
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    (scene.folder / "go").touch()
    assert scene.finish(process).out == "second\n"


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_much_output_arrives_whole(scene, request, nproc):
    if nproc > 1:
        request.getfixturevalue("mpiexec")
    text = "import sys\nfor i in range(20000):\n    print(i, 'x' * 80)\nsys.stderr.write('end')"
    job = scene.allgrad("-n", str(nproc), "--no-prefix", scene.script(text))
    counts = [line.split()[0] for line in job.out.splitlines()]
    assert len(counts) == 20000 * nproc
    assert sorted(set(counts), key=int) == [str(i) for i in range(20000)]
    assert job.err.split() == ["end"] * nproc


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_stdin_goes_to_rank_0(scene, request, nproc):
    if nproc > 1 and identify(request.getfixturevalue("mpiexec")).flavour == "openmpi":
        pytest.skip("Open MPI's mpiexec passes input on, but not its end")
    command = (sys.executable, "-m", "allgrad.launch.cli", "run", "--no-prefix", "-n", str(nproc))
    done = subprocess.run(
        [*command, scene.script("import sys; print(repr(sys.stdin.read()))")],
        input="hello",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(done.stdout.split()) == ["''"] * (nproc - 1) + ["'hello'"]


def test_closed_reader_ends_the_job_quietly(scene):
    path = scene.script("while True:\n    print('x' * 99)")
    line = f"{sys.executable} -m allgrad.launch.cli run {path} | head -1; echo ${{PIPESTATUS[0]}}"
    job = scene.run("bash", "-c", line)
    assert job.out.split() == ["x" * 99, "141"]
    assert job.err == ""
