"""Timelines of all ranks: files, clocks, JSON, what a step waits for, the picture, the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim, timeline
from allgrad.ddp import run_ranks
from allgrad.ddp.process_group import default_group
from allgrad.ddp.tracing import chrome, command, files, picture
from allgrad.ddp.tracing.analysis import analyse
from allgrad.ddp.tracing.clock import align
from allgrad.ddp.tracing.layers import top_layers, watch
from allgrad.ddp.tracing.model import Event, RankStep, RankTrace, Trace
from allgrad.errors import OptionError
from allgrad.launch.cli import main
from allgrad.timeline import Step
from allgrad.utils.data import DataLoader, TensorDataset

STEPS = 4


def train(steps: int = STEPS, sleep_s: float = 0.0, fail_at: int | None = None) -> None:
    """A small network; rank 1 sleeps in its augmentation."""
    ag.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 3))
    model = ddp.DistributedDataParallel(net, bucket_cap_mb=0.01)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(ag.tensor(np.ones((4 * steps, 8), np.float32)))
    for step, (x,) in enumerate(DataLoader(data, batch_size=4)):
        with timeline.span("augment", flips=1):
            if ddp.get_rank() == 1:
                time.sleep(sleep_s)
        if step == fail_at and ddp.get_rank() == 1:
            raise KeyError("boom")
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()


def traced(target: Path, ranks: int = 2, **options: Any) -> Trace:
    """The trace of a training on threads."""

    def rank() -> None:
        ddp.init_process_group(timeout=20)
        with ddp.trace(target):
            train(**options)
        ddp.destroy_process_group()

    run_ranks(rank, ranks)
    return chrome.load(files.merged_of(target))


# ---- recording -------------------------------------------------------------------------------


def test_all_that_happens_in_a_step_is_there(tmp_path: Path) -> None:
    trace = traced(tmp_path / "t")
    assert [r.rank for r in trace.ranks] == [0, 1]
    assert trace.common_steps()[:STEPS] == list(range(STEPS))
    for step in trace.step(2).values():
        names = {category: [e.name for e in step.of(category)] for category in (
            "data", "user", "forward", "layer", "backward", "node", "bucket", "wait", "optimizer"
        )}  # fmt: skip
        assert names["data"] == ["batch"]
        assert names["user"] == ["augment"]
        assert names["forward"] == ["forward"]
        assert names["layer"] == ["0 (Linear)", "1 (ReLU)", "2 (Linear)", "3 (Linear)"]
        assert names["backward"] == ["backward"]
        assert any(name.endswith(" 0.weight") for name in names["node"])
        assert names["wait"] == ["exposed"]
        assert names["optimizer"] == ["SGD.step"]
        buckets = step.of("bucket")
        assert len(buckets) >= 2
        backward = step.of("backward")[0]
        for number, bucket in enumerate(buckets, 1):
            assert bucket.details["bucket"] == number
            assert bucket.details["bytes"] > 0
            assert bucket.details["queued_s"] >= 0
            assert bucket.name.startswith(f"bucket {number} of {len(buckets)} (")
            assert set(bucket.details["names"]) <= {f"{i}.{n}" for i in (0, 2, 3)
                                                    for n in ("weight", "bias")}  # fmt: skip
            assert backward.begin_s <= bucket.begin_s <= bucket.end_s <= backward.end_s


def test_steps_asked_for_and_a_single_file(tmp_path: Path) -> None:
    target = tmp_path / "run.json"

    def rank() -> None:
        ddp.init_process_group()
        with ddp.trace(target, steps="1:3"):
            train()
        ddp.destroy_process_group()

    run_ranks(rank, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert chrome.load(target).common_steps() == [1, 2]


def test_the_variables_record_a_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLGRAD_TRACE", str(tmp_path))
    monkeypatch.setenv("ALLGRAD_TRACE_STEPS", ":2")

    def rank() -> None:
        ddp.init_process_group()
        train()
        ddp.destroy_process_group()
        assert timeline.active() is None

    run_ranks(rank, 2)
    assert chrome.load(tmp_path / "trace.json").common_steps() == [0, 1]


def test_without_the_variables_nothing_is_recorded() -> None:
    def rank() -> None:
        ddp.init_process_group()
        assert timeline.active() is None
        assert default_group().recorder is None

    run_ranks(rank, 2)


def test_a_rank_that_fails_leaves_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="boom"):
        traced(tmp_path, fail_at=2)
    trace = chrome.load(tmp_path)  # the ranks' files: nobody merged them
    assert len(trace.ranks) == 2
    failed = trace.ranks[1].steps
    assert [step.index for step in failed] == [0, 1, 2]
    assert [e.name for e in failed[2].of("data", "user")] == ["batch", "augment"]


def test_results_are_the_same_bits_with_and_without(tmp_path: Path) -> None:
    def bits(traced: bool) -> bytes:
        ddp.init_process_group()
        ag.manual_seed(3)
        model = ddp.DistributedDataParallel(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2)))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        with ddp.trace(tmp_path) if traced else timeline.span("nothing"):
            for _ in range(3):
                optimizer.zero_grad()
                model(ag.ones(3, 5) * (1 + ddp.get_rank())).sum().backward()
                optimizer.step()
        ddp.destroy_process_group()
        return b"".join(p._array.tobytes() for p in model.parameters())

    results = run_ranks(lambda: bits(False), 2) + run_ranks(lambda: bits(True), 2)
    assert len(set(results)) == 1


def test_layers_are_watched_once() -> None:
    steps: list[Step] = []
    line = timeline.Timeline(steps.append)
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for _ in range(3):
        watch(net, line)
    timeline.activate(line)
    net(ag.ones(1, 2))
    timeline.activate(None)
    net(ag.ones(1, 2))
    line.flush()
    assert [event[0] for event in steps[0].events] == ["0 (Linear)", "1 (ReLU)"]
    assert [name for name, _ in top_layers(nn.Linear(2, 2))] == []


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (0, None)), ("", (0, None)), ("10:20", (10, 20)), (":5", (0, 5)), ("3:", (3, None)),
     ("7", (7, 8))],
)  # fmt: skip
def test_ranges_of_steps(text: str | None, expected: tuple[int, int | None]) -> None:
    assert files.parse_steps(text) == expected


@pytest.mark.parametrize("text", ["a", "5:5", "-3:", "1:2:3", "1.5"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="FIRST:LAST"):
        files.parse_steps(text)


def test_a_file_keeps_the_last_steps_only(tmp_path: Path) -> None:
    file = files.RankFile(tmp_path, 0, 1, "host", kept=10)
    for index in range(47):
        file.write(Step(index, index, index + 0.5, [("x", "user", index, index + 0.1, {})], 0))
    file.close()
    steps = [step.index for step in files.read_folder(tmp_path).ranks[0].steps]
    assert steps == list(range(30, 47))


def test_a_record_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    file = files.RankFile(tmp_path, 0, 1, "host", offset_s=1.0)
    for index in range(3):
        file.write(Step(index, 0.0, 1.0, [("x", "user", 0.0, 0.5, {"n": np.int64(3)})], 0))
    file.close()
    path = tmp_path / "rank-00000.steps"
    path.write_bytes(path.read_bytes()[:-7])
    (rank,) = files.read_folder(tmp_path).ranks
    assert [step.index for step in rank.steps] == [0, 1]
    assert rank.steps[0].events == [Event("x", "user", 1.0, 1.5, {"n": 3})]


def test_an_empty_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no trace in"):
        chrome.load(tmp_path)
    with pytest.raises(OptionError, match="cannot read"):
        chrome.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"traceEvents": []}')
    with pytest.raises(OptionError, match="not a trace of allgrad"):
        chrome.load(tmp_path / "other.json")


# ---- clocks ----------------------------------------------------------------------------------


def test_clocks_of_other_hosts_are_aligned() -> None:
    wrong = (0.0, 5.0, -3.0, 5.0)

    def rank() -> Any:
        ddp.init_process_group()
        c = default_group().communicator
        skew = wrong[c.rank]
        offset = align(c, identity=f"clock {skew}", now=lambda: perf_counter() + skew)
        assert align(c) == (0.0, 0.0)  # really one clock
        return offset

    offsets = run_ranks(rank, 4)
    for offset, skew in zip(offsets, wrong, strict=True):
        assert abs(offset.seconds + skew) <= offset.error_s + 1e-9
        assert offset.error_s < 0.2
    assert offsets[0] == (0.0, 0.0)
    assert offsets[1] == offsets[3]  # one host's ranks share its clock


# ---- JSON ------------------------------------------------------------------------------------


def example(late_s: float = 0.0, wire_s: float = 0.004, data_s: float = 0.001) -> Trace:
    """Two ranks, one bucket; rank 1's forward takes `late_s` longer."""

    def step(rank: int) -> RankStep:
        late = late_s if rank == 1 else 0.0
        launched = data_s + 0.010 + late  # forward 5 ms, backward 5 ms
        backward_end = launched + 0.001
        last = data_s + 0.010 + late_s
        done = max(last + wire_s, backward_end)
        return RankStep(7, 0.0, done + 0.001, [
            Event("batch", "data", 0.0, data_s),
            Event("forward", "forward", data_s, data_s + 0.005 + late),
            Event("backward", "backward", data_s + 0.005 + late, done),
            Event("bucket 1 of 1 (a)", "bucket", launched, done, {"bucket": 1, "bytes": 1000}),
            Event("exposed", "wait", backward_end, done, {"in_backward_s": 0.0}),
            Event("SGD.step", "optimizer", done, done + 0.001),
        ])  # fmt: skip

    ranks = [RankTrace(r, f"node{r}", 1e-5 * r, [step(r)]) for r in range(2)]
    return Trace(2, ranks)


def test_json_is_what_perfetto_reads_and_can_be_read_back() -> None:
    trace = example()
    data = json.loads(json.dumps(chrome.to_json(trace)))
    for bar in data["traceEvents"]:
        assert bar["ph"] in "XM"
        if bar["ph"] == "X":
            assert bar["ts"] >= 0
            assert bar["dur"] >= 0
            assert bar["args"]["step"] == 7
    threads = [bar for bar in data["traceEvents"] if bar["ph"] == "M"]
    assert {bar["args"]["name"] for bar in threads} >= {"rank 1 (node1)", "steps", "bucket 1"}
    back = chrome.from_json(data)
    assert back.size == 2
    for before, after in zip(trace.ranks, back.ranks, strict=True):
        assert (before.rank, before.host) == (after.rank, after.host)
        assert len(before.steps[0].events) == len(after.steps[0].events)
        for a, b in zip(before.steps[0].events, after.steps[0].events, strict=True):
            assert (a.name, a.category, a.details) == (b.name, b.category, b.details)
            assert a.begin_s == pytest.approx(b.begin_s, abs=1e-9)
            assert a.end_s == pytest.approx(b.end_s, abs=1e-8)


# ---- what a step waits for -------------------------------------------------------------------


def test_the_wire_is_named() -> None:
    figures = analyse(7, example().step(7))
    assert figures.exposed_s == pytest.approx(0.003)
    assert figures.hidden_share == pytest.approx(0.25)
    assert figures.waits_for == "the wire (3.0 ms after backward)"
    assert figures.ranks[0].wire_s == pytest.approx(0.003)
    assert figures.ranks[0].late_s == pytest.approx(0.0)


def test_a_late_rank_is_named_with_its_cause() -> None:
    figures = analyse(7, example(late_s=0.020, wire_s=0.001).step(7))
    assert figures.waits_for.startswith("rank 1, which arrives 19.0 ms late in bucket 1: forward")
    assert figures.waits_s == pytest.approx(0.019)
    assert figures.ranks[0].late_s == pytest.approx(0.019)
    assert figures.ranks[1].late_s == pytest.approx(0.0)


def test_a_slow_data_loader_is_named() -> None:
    figures = analyse(7, example(data_s=0.050).step(7))
    assert figures.waits_for == "the data loader (50.0 ms)"


def test_a_step_without_waits_waits_for_nothing() -> None:
    figures = analyse(7, example(wire_s=0.001, data_s=0.0).step(7))
    assert figures.hidden_share == pytest.approx(1.0)
    assert figures.waits_for.startswith("nothing")
    alone = {0: RankStep(0, 0.0, 1.0, [Event("backward", "backward", 0.2, 0.9)])}
    assert analyse(0, alone).waits_for.startswith("nothing")


def test_a_span_of_the_users_is_found_in_a_real_run(tmp_path: Path) -> None:
    trace = traced(tmp_path, sleep_s=0.1)
    figures = analyse(2, trace.step(2))
    assert "rank 1, which arrives" in figures.waits_for
    assert figures.waits_for.endswith("span 'augment'")
    assert figures.waits_s == pytest.approx(0.1, abs=0.05)


# ---- the picture and the command ---------------------------------------------------------------


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = example(late_s=0.004)
    path = tmp_path / "step.png"
    picture.draw(trace.step(7), analyse(7, trace.step(7)), path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") > 1000  # pixels wide


def test_without_matplotlib_the_picture_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trace = example()
    with pytest.raises(OptionError, match=r"allgrad\[demo\]"):
        picture.draw(trace.step(7), analyse(7, trace.step(7)), tmp_path / "step.png")


@contextmanager
def written(trace: Trace, folder: Path) -> Iterator[Path]:
    path = folder / "trace.json"
    path.write_text(json.dumps(chrome.to_json(trace)))
    yield path


def test_the_command_says_the_three_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with written(example(late_s=0.02), tmp_path) as path:
        assert main(["trace", str(path), "--step", "7"]) == 0
        out = capsys.readouterr().out
        assert "of communication hidden" in out
        assert "ms exposed; waits for rank 1, which arrives" in out
        assert "clocks of the hosts are aligned to 10 us" in out
        assert main(["trace", str(path), "--step", "8"]) == 2
        assert "step 8 is not in the trace; it has 7 to 7" in capsys.readouterr().err


def test_a_job_whose_ranks_left_nothing_is_told(tmp_path: Path) -> None:
    (line,) = command.finish(tmp_path)
    assert "was init_process_group called?" in line


@pytest.mark.mpi
def test_a_job_that_fails_is_traced_by_the_launcher(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    script = tmp_path / "job.py"
    source = Path(__file__).read_text()
    begin, end = source.index("def train("), source.index("def traced(")
    script.write_text(
        "import time\nimport numpy as np\nimport allgrad as ag\n"
        "from allgrad import ddp, nn, optim, timeline\n"
        "from allgrad.utils.data import DataLoader, TensorDataset\nSTEPS = 8\n"
        + source[begin:end]
        + "ddp.init_process_group()\ntrain(fail_at=5)\n"
    )
    target = tmp_path / "t.json"
    argv = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2", "--trace", str(target)]
    done = subprocess.run(
        [*argv, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "allgrad: trace: typical step" in done.stderr
    trace = chrome.load(target)
    assert [r.rank for r in trace.ranks] == [0, 1]
    assert [s.index for s in trace.ranks[1].steps] == list(range(6))
