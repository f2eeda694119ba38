"""Completion scripts are written from the parsers; bash's is tried, the others are read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from allgrad.launch import cli, completion
from allgrad.launch.commands.completion import SHELLS


@pytest.fixture(scope="module")
def parser():
    return cli.build_parser()


def complete(parser, folder, line):
    """What bash offers behind a line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    words = line.split(" ")
    program = (
        f"{completion.script('bash', parser)}\n"
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n"
        '_allgrad; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-u", "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("allgrad ru", ["run"]),
        ("allgrad --v", ["--version"]),
        ("allgrad run --laun", ["--launcher", "--launcher-exec"]),
        ("allgrad run --launcher m", ["mpiexec"]),
        ("allgrad run -n 2 --bind ", ["core", "none"]),
        ("allgrad run -n ", []),
        ("allgrad run --hostfile h", ["hosts"]),
        ("allgrad run -n 2 tr", ["train.py", "tree"]),
        ("allgrad run -n 2 train.py --la", []),
        ("allgrad run -n 2 train.py h", ["hosts"]),
        ("allgrad run --debug train.py t", ["train.py", "tree"]),
        ("allgrad completion ", ["bash", "fish", "zsh"]),
        ("allgrad nonsense ", []),
    ],
)
def test_bash(parser, tmp_path, line, offers):
    (tmp_path / "train.py").touch()
    (tmp_path / "hosts").touch()
    (tmp_path / "tree").mkdir()
    assert complete(parser, tmp_path, line) == offers


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_of_every_command_is_there(parser, shell):
    text = completion.script(shell, parser)
    for command in completion.commands_of(parser):
        assert re.search(rf"\b{command.name}\b", text)
        for option in command.options:
            for name in option.names:
                spelled = name if shell != "fish" else f"-{'l' if name[1] == '-' else 's'} "
                spelled += name.lstrip("-") if shell == "fish" else ""
                assert spelled in text, (command.name, name)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(parser, shell, tmp_path):
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell}")
    file = tmp_path / "completion"
    file.write_text(completion.script(shell, parser))
    subprocess.run([path, "-n", str(file)], timeout=60, check=True)


def test_bash_scripts_pass_shellcheck(parser, tmp_path):
    places = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    path = shutil.which("shellcheck", path=places)
    if path is None:
        pytest.skip("no shellcheck")
    file = tmp_path / "completion.bash"
    file.write_text(completion.script("bash", parser))
    check = [path, "-s", "bash", str(file)]
    done = subprocess.run(check, capture_output=True, timeout=60, check=False)
    assert done.stdout.decode() == ""


def test_the_command_prints_it(parser, capsys):
    assert cli.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == completion.script("bash", parser)


def test_shells_are_the_same_everywhere():
    assert completion.SHELLS == SHELLS
