"""Every test starts from the same random state and leaves no engine state to the next one."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# Tests compute little: a team of threads for each op costs more than it saves, and far more on a
# machine that does other things. Libraries read this when they are loaded; programs that tests
# start get what the user has set.
_ONE_THREAD = "OMP_NUM_THREADS" not in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs that tests start, hundreds of them, would compile the package each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import numpy as np  # noqa: E402 - see above
import pytest  # noqa: E402

import allgrad as ag  # noqa: E402
from allgrad import backend  # noqa: E402
from allgrad.backend.cuda import availability  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # for `from support...`, see support/
pytest.register_assert_rewrite("support")


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, though a shell in the background has pytest ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """All libraries are loaded now, and the suite's own objects stay to the end."""
    ag.nn.functional.conv2d(ag.ones(1, 1, 3, 3), ag.ones(1, 1, 3, 3))  # loads oneDNN
    if _ONE_THREAD:
        del os.environ["OMP_NUM_THREADS"]
    gc.collect()
    gc.freeze()  # `gc.collect` need not go through them every time


@pytest.fixture(autouse=True, scope="session")
def _temporary_files_end_with_the_session():
    """Launchers that are killed leave files in TMPDIR: they get one that is removed."""
    folder = tempfile.mkdtemp(prefix="allgrad-tests-")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = folder
    yield
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


NO_GPU = availability._Found(0, "no GPU is here for this test")


@pytest.fixture(autouse=True)
def _same_start():
    availability._found[:] = [NO_GPU]  # wherever this runs; the fixture `gpu` looks again
    ag.random.default_generator().manual_seed(0)  # of the CPU; the fixture `gpu` seeds its own
    np.random.seed(0)
    ag.set_default_dtype(ag.float32)
    yield
    backend._instances.current = None  # back to the default backend, whatever a test chose
    ag.set_grad_enabled(True)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers of NumPy, the same in every run."""
    return np.random.default_rng(0)
