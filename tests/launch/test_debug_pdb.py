"""The debugger in one of many rank threads: one prompt at a time, and the other ranks hold."""

from __future__ import annotations

import re

import pytest

STEPS = """
import time
import allgrad as ag
from allgrad import ddp
ddp.init_process_group(timeout=TIMEOUT_S)
rank = ddp.get_rank()
def step(x):
    y = 10 * x
    if rank in STOPS:
        breakpoint()
    t = ag.tensor([float(y)])
    ddp.all_reduce(t)
    return t
print("result", step(rank + 1).item())
"""


def steps(stops, timeout_s=100.0):
    """The script in which these ranks stop."""
    return STEPS.replace("STOPS", repr(stops)).replace("TIMEOUT_S", repr(timeout_s))


def test_others_hold_and_their_time_outs_stand_still(scene):
    path = scene.script(steps((1,), timeout_s=2.5))
    job = scene.talk(
        "p y\nimport time; time.sleep(3.5)\nw\nn\nn\np t.item()\nc\n", "--debug", "-n", "3", path
    )
    assert job.code == 0, job.err
    assert "(Pdb rank 1) 20\n" in job.out
    assert "(Pdb rank 1) 60.0\n" in job.out  # stepped over a collective: the others ran for it
    assert sorted(re.findall(r"\[\d\] result .*", job.out)) == [
        f"[{rank}] result 60.0" for rank in range(3)
    ]
    assert "debug_host" not in job.out  # where (w) shows the script alone


def test_ranks_take_turns(scene):
    """One rank steps into a collective that needs the other, which is at its own breakpoint."""
    path = scene.script(steps((0, 1)))
    job = scene.talk(
        "p rank\nn\nn\np 7 * rank + 7\nc\np 100 + rank\nc\n", "--debug", "-n", "2", path
    )
    assert job.code == 0, job.err
    first, second = (int(rank) for rank in _ranks_in_order(job.out))
    assert {first, second} == {0, 1}
    assert f"(Pdb rank {first}) {first}\n" in job.out
    assert f"(Pdb rank {second}) {7 * second + 7}\n" in job.out
    assert f"(Pdb rank {first}) {100 + first}\n" in job.out
    assert job.out.count("result 30.0") == 2


def _ranks_in_order(out: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\(Pdb rank (\d)\)", out)))


@pytest.mark.parametrize("words", ["q\n", ""], ids=["quit", "end of input"])
def test_quitting_ends_the_job(scene, leaves_nothing, words):
    path = scene.script(steps((0, 2)))
    job = scene.talk(words, "--debug", "-n", "3", path)
    assert job.code == 1
    assert re.fullmatch(
        r"allgrad: rank [02] failed: quit in the debugger \(exit code 1\)", job.last
    ), job.err
    assert "Traceback" not in job.err
    assert "result" not in job.out
    leaves_nothing()


def test_a_schedule_stops_where_its_rank_stops(scene):
    path = scene.script(steps((0, 1)))
    jobs = [
        scene.talk("n\nn\np t.item()\nc\nc\nc\n", "--debug", "-n", "2", "--schedule", "3", path)
        for _ in range(2)
    ]
    assert [job.code for job in jobs] == [0, 0], jobs
    assert jobs[0].out == jobs[1].out


def test_post_mortem(scene):
    path = scene.script(
        "from allgrad import ddp\nddp.init_process_group()\nrank = ddp.get_rank()\n"
        "def fails(x):\n    return x // (rank - 1)\nprint(fails(8 + rank))\nddp.barrier()"
    )
    job = scene.talk("p x\nu\np rank\nq\n", "--debug", "--pdb", "-n", "3", path)
    assert job.code == 1
    assert "(Pdb rank 1) 9\n" in job.out
    assert f"(Pdb rank 1) > {path}(6)<module>()\n" in job.out
    assert job.last == (
        "allgrad: rank 1 failed: ZeroDivisionError: integer division or modulo by zero "
        "(exit code 1)"
    )
    assert "allgrad: rank 1 has failed; the others hold" in job.err


def test_pythonbreakpoint_is_respected(scene):
    path = scene.script(steps((0, 1)))
    job = scene.talk("", "--debug", "-n", "2", "--env", "PYTHONBREAKPOINT=0", path)
    assert (job.code, job.out.count("result 30.0")) == (0, 2)
