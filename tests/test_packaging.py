"""The wheel is whole, and a network can be trained from it where there is no checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import allgrad

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"core": "allgrad", "ddp": "allgrad/ddp", "launch": "allgrad/launch"}
BUILD_TIMEOUT_S, INSTALL_TIMEOUT_S, TRAIN_TIMEOUT_S = 300, 600, 120


def sources():
    """Every file of the three folders, as its path in the wheel."""
    for folder, target in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield f"{target}/{path.relative_to(ROOT / folder)}"


def call(*argv, timeout, **options):
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools would take stale files of build/ along."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    target = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir")
    call(*command, str(target), str(copy), timeout=BUILD_TIMEOUT_S)
    (path,) = target.glob("allgrad-*.whl")
    return path


def test_pyproject_lists_every_package():
    packages = {
        str(Path(path).parent).replace("/", ".")
        for path in sources()
        if path.endswith("__init__.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)


def test_every_folder_of_modules_is_a_package():
    folders = {Path(path).parent for path in sources() if path.endswith(".py")}
    packages = {Path(path).parent for path in sources() if path.endswith("__init__.py")}
    assert folders == packages


def test_one_version():
    assert allgrad.__version__ == PROJECT["project"]["version"]


def test_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"## \[({re.escape(allgrad.__version__)}|Unreleased)\]", text)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_wheel_contains_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        names = archive.namelist()
    assert inside == set(sources())
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(BUILD_TIMEOUT_S + INSTALL_TIMEOUT_S + 2 * TRAIN_TIMEOUT_S)
def test_demo_trains_from_the_installed_wheel(wheel, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    # Without a pip of its own, and without byte code of what is not imported: half of the time.
    empty = (sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    call(*empty, timeout=BUILD_TIMEOUT_S)
    requirement = f"allgrad[cpu,mpi] @ {wheel.as_uri()}"
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    call(*pip, "install", "--quiet", "--no-compile", requirement, timeout=INSTALL_TIMEOUT_S)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    print_file = "import allgrad; print(allgrad.__file__)"
    where = call(str(python), "-c", print_file, timeout=60, cwd=tmp_path, env=kept)
    assert str(tmp_path) in where
    options = ("--synthetic", "--epochs", "2", "--no-plot", "--no-progress")
    command = (
        str(python.parent / "allgrad"),
        "run",
        "-n",
        "2",
        "examples/digits/train.py",
        *options,
    )
    out = call(*command, timeout=TRAIN_TIMEOUT_S, cwd=tmp_path, env=kept)
    assert "2 rank(s), 2 epochs" in out
    assert (tmp_path / "runs" / "digits").is_dir()
