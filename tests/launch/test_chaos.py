"""The chaos kit: damages that are damages, checks that find what is wrong, and a small campaign."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from allgrad import nn
from allgrad.checkpoint import CheckpointManager, load_latest
from allgrad.launch import cli
from allgrad.launch.chaos import check, damage
from allgrad.launch.chaos.campaign import Report
from allgrad.launch.chaos.command import summary

CHAOS = (sys.executable, "-m", "allgrad.launch.cli", "chaos")
TRAINING = str(Path(__file__).parents[2] / "benchmarks" / "chaos_train.py")


def write(folder, steps=(0, 1, 2, 3)):
    manager = CheckpointManager(folder, keep=len(steps))
    for step in steps:
        model = nn.Linear(6, 5)
        for parameter in model.parameters():
            parameter.data.fill_(step)
        manager.save(step=step, model=model)


def value(model):
    (found,) = {float(v) for p in model.parameters() for v in p.detach().numpy().ravel()}
    return found


@pytest.mark.parametrize("kind", [*damage.KINDS, *damage.PAIRS])
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_checkpoint_is_never_taken(tmp_path, monkeypatch, kind, seed):
    write(tmp_path)
    rng = random.Random(seed)
    choice = rng.choice
    monkeypatch.setattr(rng, "choice", lambda seq: kind if kind in seq else choice(seq))
    done = damage.spoil(damage.whole_generations(tmp_path), rng)
    assert done.kind == kind
    spoiled = {generation.content.step for generation in done.spoiled}
    model = nn.Linear(6, 5)
    loaded = load_latest(tmp_path, model=model)
    assert value(model) == loaded.step  # what was written as that step
    assert loaded.step >= max({0, 1, 2, 3} - spoiled)
    if kind not in ("flip", "zero"):  # which may hit what does not count
        assert loaded.step not in spoiled


def test_one_whole_checkpoint_is_always_left(tmp_path):
    write(tmp_path)
    rng = random.Random(3)
    for _ in range(30):
        whole = damage.whole_generations(tmp_path)
        assert whole
        assert (damage.spoil(whole, rng) is None) == (len(whole) < 2)
    assert len(damage.whole_generations(tmp_path)) == 1


def test_the_choices_come_from_the_seed(tmp_path):
    found = []
    for name in ("a", "b"):
        write(tmp_path / name)
        rng = random.Random(5)
        done = [damage.spoil(damage.whole_generations(tmp_path / name), rng) for _ in range(2)]
        found.append([(d.kind, d.file.suffix) for d in done])
    assert found[0] == found[1]


def test_a_wrong_load_is_found(tmp_path):
    write(tmp_path)
    whole = damage.whole_generations(tmp_path)

    def loaded(generation, **other):
        serial, step, sha256 = generation.identity
        return {"serial": serial, "step": step, "sha256": sha256} | other

    assert check.wrong_load(loaded(whole[0]), whole, []) == ""
    assert check.wrong_load(loaded(whole[1]), whole, whole[:1]) == ""
    assert "no. 4 is newer and whole" in check.wrong_load(loaded(whole[1]), whole, [])
    assert "never written" in check.wrong_load(loaded(whole[0], sha256="x"), whole, [])
    assert "expected no. 4" in check.wrong_load({"serial": 0, "step": None}, whole, [])
    assert check.wrong_load({"serial": 0, "step": None}, [], []) == ""


def test_another_result_is_found(tmp_path):
    results = []
    for name in ("a", "b", "c"):
        write(tmp_path / name / "deep", (0, 1, 3 if name == "c" else 2))
        (tmp_path / name / "log").write_text(name)
        results.append(check.result_of(tmp_path / name, []))
    del results[0]["random_state"], results[1]["random_state"]
    assert check.differences(results[0], results[1]) == []
    assert check.differences(results[2], results[0])[0] == "step: expected 2, came 3"
    files = [check.result_of(tmp_path / name, ["log", "none"]) for name in ("a", "b")]
    places = [line.partition(":")[0] for line in check.differences(*files)]
    assert places[0] == "file log"
    assert files[0]["file none"] == "missing"


def test_the_last_words():
    report = Report(rounds=2, restart_s=[2.0, 1.0, 3.0])
    report.kills.update({"rank": 3})
    *_, times, last = summary(report)
    assert times.endswith("median 2.00 s, 90 % within 3.00 s, longest 3.00 s, n = 3")
    assert last.startswith("2 trainings: none lost, no bad file taken")
    report.problems.append("round 1: the job was lost, exit code 1")
    assert summary(report)[-1] == "round 1: the job was lost, exit code 1"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["chaos", "none.py", "{dir}"], "script none.py does not exist"),
        (["chaos", TRAINING, "--dir", "x"], "none of the script's arguments is or holds {dir}"),
    ],
)
def test_refusals(capsys, argv, words):
    assert cli.main(argv) == 2
    assert words in capsys.readouterr().err


def test_a_script_that_fails_by_itself_or_leaves_nothing(scene):
    failing = scene.script("import sys; sys.exit(3)", "failing.py")
    job = scene.run(*CHAOS, "-n", "1", failing, "{dir}")
    assert job.code == 2
    assert "the script fails without faults, too (exit code 3)" in job.err
    idle = scene.script("", "idle.py")
    job = scene.run(*CHAOS, "-n", "1", idle, "{dir}")
    assert job.code == 2
    assert "there is nothing to compare" in job.err


# It resumes, but does not restore what it has counted: another result after each fault.
FORGETFUL = """
import sys, time
from allgrad import ddp, nn
ddp.init_process_group()
model = nn.Linear(1, 1)
model.weight.data.fill_(0)
manager = ddp.CheckpointManager(sys.argv[1])
found = manager.load_latest()
for step in range(found.step if found else 0, 40):
    model.weight.data.add_(1)
    manager.save(step=step + 1, model=model)
    time.sleep(0.02)
"""


@pytest.mark.timeout(600)
def test_a_script_that_resumes_wrongly_is_found(scene):
    script = scene.script(FORGETFUL)
    process = scene.start(*CHAOS, "-n", "1", "--kills", "6", "--seed", "4", script, "{dir}")
    out, err = process.communicate(timeout=500)
    assert process.returncode == 1, out + err
    assert "another result: model.weight: expected" in out


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
@pytest.mark.timeout(600)
def test_a_small_campaign(scene, leaves_nothing):
    command = (*CHAOS, "--kills", "6", "--damages", "6", "--every", "0.15", "--json", "out.json")
    training = (TRAINING, "--dir", "{dir}", "--steps", "300")
    process = scene.start(*command, *training)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    figures = json.loads((scene.folder / "out.json").read_text())
    assert figures["killed"] >= 6
    assert figures["damaged"] >= 1
    assert figures["loads_checked"] >= 1
    assert figures["problems"] == []
    assert "none lost, no bad file taken" in out
    leaves_nothing()
