"""What is written is what TensorBoard reads."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import allgrad as ag

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from allgrad.utils.tensorboard import SummaryWriter


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def test_scalars_of_all_kinds(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", ag.tensor(0.5, requires_grad=True), 1)
        writer.add_scalar("loss", np.float32(0.25), ag.tensor(2), walltime=5.0)
        writer.add_scalar("loss", 3, 4)
        writer.add_scalar("half", ag.tensor([1.5], dtype=ag.bfloat16))
        writer.add_scalar("new", 0.1, 7, new_style=True, double_precision=True)
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (2, 0.25), (4, 3)]
    assert found.Scalars("loss")[1].wall_time == 5.0
    assert found.Scalars("half")[0].value == 1.5
    (event,) = found.Tensors("new")
    assert (event.step, tensor_util.make_ndarray(event.tensor_proto).item()) == (7, 0.1)
    with pytest.raises(ValueError, match=r"'loss': expected one number, came float32 of shape \(2"):
        writer.add_scalar("loss", ag.zeros(2))


def test_several_curves_in_one_chart(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalars("loss/both", {"train": 1.0, "test": ag.tensor(2.0)}, 3)
    for name, value in (("train", 1.0), ("test", 2.0)):
        (event,) = read(tmp_path / f"loss_both_{name}").Scalars("loss/both")
        assert (event.step, event.value) == (3, value)


@pytest.mark.parametrize("bins", ["tensorflow", "auto", 7, (-4.0, 0.0, 4.0)])
@pytest.mark.parametrize("max_bins", [None, 2])
def test_histogram(tmp_path, bins, max_bins):
    values = ag.tensor([-2.0, -1.0, 0.5, 0.5, 3.0])
    with SummaryWriter(tmp_path) as writer:
        writer.add_histogram("w", values, 2, bins=bins, max_bins=max_bins)
    (event,) = read(tmp_path).Histograms("w")
    found = event.histogram_value
    assert (found.min, found.max, found.num, found.sum) == (-2.0, 3.0, 5, 1.0)
    assert found.sum_squares == 4 + 1 + 0.25 + 0.25 + 9
    assert sum(found.bucket) == 5
    assert len(found.bucket) == len(found.bucket_limit)
    assert found.bucket_limit[0] <= -2 <= 3 <= found.bucket_limit[-1]
    for limit, before in zip(found.bucket_limit, np.cumsum(found.bucket), strict=True):
        assert before in ((values <= limit).sum().item(), (values < limit).sum().item())
    if max_bins:
        assert len(found.bucket) <= max_bins + 1


@pytest.mark.torch
def test_histogram_equals_pytorchs(tmp_path, rng):
    pytest.importorskip("torch")
    from torch.utils.tensorboard.summary import make_histogram

    from allgrad.utils.tensorboard import summaries

    values = rng.standard_normal(1000)
    ours = summaries.histogram("w", values, "auto", None).value[0].histo
    theirs = make_histogram(values, "auto")
    assert list(ours.bucket) == list(theirs.bucket)
    np.testing.assert_allclose(ours.bucket_limit, theirs.bucket_limit)


def test_histogram_refuses_what_it_cannot_count(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="came 2 of which 1 are not"):
            writer.add_histogram("w", ag.tensor([1.0, float("nan")]))
        with pytest.raises(ValueError, match="came 0"):
            writer.add_histogram("w", ag.zeros(0))


def pixels(event):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


def test_images(tmp_path):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    many = rng.integers(0, 256, (10, 1, 4, 5), dtype=np.uint8)
    with SummaryWriter(tmp_path) as writer:
        writer.add_image("chw", ag.from_numpy(colour.transpose(2, 0, 1).copy()), 1)
        writer.add_image("hwc", colour, 1, dataformats="HWC")
        writer.add_image("floats", ag.from_numpy(colour[..., 0].copy()) / 255, dataformats="HW")
        writer.add_images("many", many)
        with pytest.raises(ValueError, match="unknown dataformats 'WH'"):
            writer.add_image("x", colour, dataformats="WH")
        with pytest.raises(ValueError, match=r"expected 3 axes for 'CHW', came shape \(4, 5\)"):
            writer.add_image("x", colour[..., 0])
        with pytest.raises(ValueError, match="1, 3 or 4 channels"):
            writer.add_image("x", np.zeros((2, 4, 5)))
    found = read(tmp_path)
    assert (pixels(found.Images("chw")[0]) == colour).all()
    assert (pixels(found.Images("hwc")[0]) == colour).all()
    grey = pixels(found.Images("floats")[0]).astype(int)
    assert grey.shape == (4, 5, 3)
    assert np.abs(grey - colour[..., :1]).max() <= 1
    grid = pixels(found.Images("many")[0])
    assert grid.shape == (8, 40, 3)
    assert (grid[4:, 5:10, 0] == many[9, 0]).all()
    assert (grid[4:, 10:] == 0).all()


def test_figures(tmp_path):
    pytest.importorskip("PIL")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figures = [pyplot.figure(figsize=(1, 1), dpi=20, facecolor=c) for c in ("red", "blue")]
    with SummaryWriter(tmp_path) as writer:
        writer.add_figure("one", figures[0], close=False)
        assert pyplot.fignum_exists(figures[0].number)
        writer.add_figure("two", figures)
    assert not pyplot.fignum_exists(figures[0].number)
    found = read(tmp_path)
    assert pixels(found.Images("one")[0])[0, 0].tolist() == [255, 0, 0, 255]
    assert pixels(found.Images("two")[0])[0, -1].tolist() == [0, 0, 255, 255]


def test_text(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_text("notes", "**größer**", 3)
        with pytest.raises(TypeError, match="expected a str, came int"):
            writer.add_text("notes", 3)
    (event,) = read(tmp_path).Tensors("notes/text_summary")
    assert event.step == 3
    assert tensor_util.make_ndarray(event.tensor_proto)[0].decode() == "**größer**"


def test_hparams(tmp_path):
    settings = {"lr": 0.1, "optimizer": "SGD", "nesterov": True, "layers": ag.tensor(3), "no": None}
    with SummaryWriter(tmp_path) as writer:
        writer.add_hparams(
            settings, {"hparam/accuracy": 0.9}, {"lr": [0.1, 0.2]}, run_name="a", global_step=5
        )
        with pytest.raises(ValueError, match="'lr': expected a bool, str, int, float or None"):
            writer.add_hparams({"lr": [1, 2]}, {})
    found = read(tmp_path / "a")
    assert [(e.step, e.value) for e in found.Scalars("hparam/accuracy")] == [
        (5, pytest.approx(0.9))
    ]
    content = found.summary_metadata[hparams_metadata.SESSION_START_INFO_TAG].plugin_data.content
    start = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert dict(start.hparams).keys() == {"lr", "optimizer", "nesterov", "layers"}
    assert start.hparams["nesterov"].bool_value is True
    assert start.hparams["optimizer"].string_value == "SGD"
    assert start.hparams["layers"].number_value == 3
    content = found.summary_metadata[hparams_metadata.EXPERIMENT_TAG].plugin_data.content
    experiment = hparams_metadata.parse_experiment_plugin_data(content)
    assert [m.name.tag for m in experiment.metric_infos] == ["hparam/accuracy"]
    (lr,) = [i for i in experiment.hparam_infos if i.name == "lr"]
    assert [v.number_value for v in lr.domain_discrete.values] == [0.1, 0.2]


def test_purge_step_after_a_crash(tmp_path):
    with SummaryWriter(tmp_path, filename_suffix=".a") as writer:
        for step in range(6):
            writer.add_scalar("loss", step, step, walltime=1.0)
    with SummaryWriter(tmp_path, purge_step=4, filename_suffix=".b") as writer:
        writer.add_scalar("loss", 40, 4, walltime=2.0)
    files = sorted(f.name for f in tmp_path.iterdir())
    assert [f[-2:] for f in files] == [".a", ".b"]
    assert [e.value for e in read(tmp_path).Scalars("loss")] == [0, 1, 2, 3, 40]


def test_default_folder_flush_and_a_new_file_after_close(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = SummaryWriter(comment="_first")
    assert writer.get_logdir().startswith("runs")
    assert writer.get_logdir().endswith("_first")
    writer.add_scalar("a", 1.0, 1)
    writer.flush()
    assert len(read(writer.log_dir).Scalars("a")) == 1
    writer.close()
    writer.filename_suffix = ".later"
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    assert len(read(writer.log_dir).Scalars("a")) == 2


def test_a_graph_is_refused_with_advice(tmp_path):
    with (
        SummaryWriter(tmp_path) as writer,
        pytest.raises(NotImplementedError, match=r"onnx\.export"),
    ):
        writer.add_graph(None)


def test_without_the_package_the_message_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from allgrad.utils.tensorboard import SummaryWriter\n"
        "try:\n    SummaryWriter('x')\n"
        "except ImportError as err:\n    print(err)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
    )
    assert "pip install allgrad[tensorboard]" in done.stdout
