"""From values to the messages of TensorBoard's event files.

Source of the formats: tensorboard's own plugins, https://github.com/tensorflow/tensorboard.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ArgumentError, OptionError
from ...tensors import Tensor

_COLUMNS = 8
_FORMATS = {"CHW": 3, "HWC": 3, "HW": 2, "NCHW": 4, "NHWC": 4}


def array(value: Any) -> np.ndarray:
    """A tensor (also one that requires grad), array or number as a NumPy array."""
    if isinstance(value, Tensor):
        value = value.detach()._array
    found = np.asarray(value)
    return found.astype(np.float32) if found.dtype.kind == "V" else found  # bfloat16


def _messages() -> Any:
    from tensorboard.compat.proto import summary_pb2  # noqa: PLC0415 - optional

    return summary_pb2


def event(summary: Any, step: int, walltime: float) -> Any:
    """An event of the file."""
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - optional

    return Event(summary=summary, step=step, wall_time=walltime)


def session_start(step: int) -> Any:
    """The event that makes TensorBoard forget what came at `step` or later."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - optional

    return Event(step=step, session_log=SessionLog(status=SessionLog.START))


def _number(value: Any, tag: str) -> Any:
    found = array(value)
    if found.size != 1 or found.dtype.kind not in "fiub":
        raise ArgumentError(
            f"add_scalar: {tag!r}: expected one number, came {found.dtype} of shape {found.shape}"
        )
    return found.reshape(())


def scalar(tag: str, value: Any, new_style: bool = False, double: bool = False) -> Any:
    """A point of a curve."""
    pb, number = _messages(), _number(value, tag)
    if not new_style:
        return pb.Summary(value=[pb.Summary.Value(tag=tag, simple_value=float(number))])
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # noqa: PLC0415 - optional
    from tensorboard.plugins.scalar import metadata  # noqa: PLC0415 - optional

    if double:
        proto = TensorProto(double_val=[float(number)], dtype="DT_DOUBLE")
    else:
        proto = TensorProto(float_val=[float(number)], dtype="DT_FLOAT")
    about = metadata.create_summary_metadata("", "")
    return pb.Summary(value=[pb.Summary.Value(tag=tag, tensor=proto, metadata=about)])


def histogram(tag: str, values: Any, bins: Any, max_bins: int | None) -> Any:
    """Counts of values between limits."""
    pb, flat = _messages(), array(values).astype(np.float64).reshape(-1)
    if not flat.size or not np.isfinite(flat).all():
        raise ArgumentError(
            f"add_histogram: {tag!r}: expected finite values, came {flat.size} of which "
            f"{int((~np.isfinite(flat)).sum())} are not"
        )
    counts, limits = np.histogram(
        flat, bins=_growing() if isinstance(bins, str) and bins == "tensorflow" else bins
    )
    if max_bins is not None and len(counts) > max_bins:
        group = -(-len(counts) // max_bins)
        counts = np.add.reduceat(counts, np.arange(0, len(counts), group))
        limits = np.append(limits[:-1:group], limits[-1])
    filled = np.flatnonzero(counts)
    low, high = (filled[0], filled[-1] + 1) if len(filled) else (0, len(counts))
    # The first limit closes an empty bin, so that the second begins where the values do.
    histo = pb.HistogramProto(
        min=flat.min(), max=flat.max(), num=flat.size, sum=flat.sum(), sum_squares=flat @ flat,
        bucket_limit=limits[low : high + 1].tolist(), bucket=[0.0, *counts[low:high].tolist()],
    )  # fmt: skip
    return pb.Summary(value=[pb.Summary.Value(tag=tag, histo=histo)])


def _growing() -> np.ndarray:
    """Limits from 1e-12 to 1e20 that grow by 10 %, the same below zero, and zero."""
    above = 1e-12 * 1.1 ** np.arange(math.ceil(math.log(1e32, 1.1)))
    return np.concatenate([-above[::-1], [0], above])


def image(tag: str, value: Any, dataformats: str) -> Any:
    """An image, or a grid of images, as PNG."""
    pb, pixels = _messages(), _pixels(array(value), dataformats.upper(), tag)
    height, width, channels = pixels.shape
    found = pb.Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=_png(pixels)
    )
    return pb.Summary(value=[pb.Summary.Value(tag=tag, image=found)])


def _pixels(value: np.ndarray, dataformats: str, tag: str) -> np.ndarray:
    """uint8 (H, W, C) with 3 or 4 channels."""
    if dataformats not in _FORMATS:
        raise OptionError.unknown("dataformats", dataformats, _FORMATS)
    if value.ndim != _FORMATS[dataformats]:
        raise ArgumentError(
            f"add_image: {tag!r}: expected {_FORMATS[dataformats]} axes for {dataformats!r}, came "
            f"shape {value.shape}"
        )
    if dataformats == "HW":
        value = value[..., None]
    elif dataformats in ("CHW", "NCHW"):
        value = np.moveaxis(value, -3, -1)
    if value.shape[-1] not in (1, 3, 4):
        raise ArgumentError(
            f"add_image: {tag!r}: expected 1, 3 or 4 channels in {dataformats!r}, came shape "
            f"{value.shape}"
        )
    if value.ndim == 4:
        value = _grid(value)
    if value.dtype != np.uint8:
        value = (value.astype(np.float64) * 255).clip(0, 255).astype(np.uint8)
    return np.repeat(value, 3, axis=-1) if value.shape[-1] == 1 else value


def _grid(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) as one image of rows of eight."""
    count, height, width, channels = images.shape
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width, channels), images.dtype)
    full[:count] = images
    grid = full.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def _png(pixels: np.ndarray) -> bytes:
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ImportError as err:
        raise ImportError(
            "images in TensorBoard need the package Pillow: pip install allgrad[images]"
        ) from err
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return file.getvalue()


def figure_pixels(figure: Any, close: bool) -> np.ndarray:
    """matplotlib figures as uint8 (N, H, W, 4)."""
    from matplotlib import pyplot  # noqa: PLC0415 - optional; whoever has a figure has it
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    pictures = []
    for one in figure if isinstance(figure, list | tuple) else [figure]:
        canvas = FigureCanvasAgg(one)
        canvas.draw()
        pictures.append(np.array(canvas.buffer_rgba()))
        if close:
            pyplot.close(one)
    return np.stack(pictures)


def text(tag: str, value: str) -> Any:
    """A text of TensorBoard's text page."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # noqa: PLC0415 - optional
    from tensorboard.plugins.text import metadata  # noqa: PLC0415 - optional

    if not isinstance(value, str):
        raise TypeError(f"add_text: {tag!r}: expected a str, came {type(value).__name__}")
    pb = _messages()
    proto = TensorProto(dtype="DT_STRING", string_val=[value.encode()])
    proto.tensor_shape.dim.add(size=1)
    about = metadata.create_summary_metadata("", "")
    found = pb.Summary.Value(tag=f"{tag}/text_summary", metadata=about, tensor=proto)
    return pb.Summary(value=[found])


def hparams(
    settings: Mapping[str, Any], metrics: Mapping[str, Any], domains: Mapping[str, Sequence[Any]]
) -> list[Any]:
    """The experiment, the start of its session with the settings, and its end."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # noqa: PLC0415

    start = plugin_data_pb2.SessionStartInfo()
    infos = []
    for name, value in settings.items():
        if value is None:
            continue
        kind, plain = _setting(name, value)
        if kind == "STRING":
            start.hparams[name].string_value = plain
        elif kind == "BOOL":
            start.hparams[name].bool_value = plain
        else:
            start.hparams[name].number_value = plain
        info = api_pb2.HParamInfo(
            name=name, type=f"DATA_TYPE_{'FLOAT64' if kind == 'NUMBER' else kind}"
        )
        if name in domains:
            info.domain_discrete.extend([_setting(name, v)[1] for v in domains[name]])
        infos.append(info)
    metric_infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metric_infos)
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    data = plugin_data_pb2.HParamsPluginData
    version = metadata.PLUGIN_DATA_VERSION
    parts = (
        (metadata.EXPERIMENT_TAG, data(experiment=experiment, version=version)),
        (metadata.SESSION_START_INFO_TAG, data(session_start_info=start, version=version)),
        (metadata.SESSION_END_INFO_TAG, data(session_end_info=end, version=version)),
    )
    pb = _messages()
    return [
        pb.Summary(
            value=[pb.Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content))]
        )
        for tag, content in parts
    ]


def _setting(name: str, value: Any) -> tuple[str, Any]:
    """(kind, Python value) of a setting."""
    if isinstance(value, str):
        return "STRING", value
    found = array(value)
    if found.size == 1 and found.dtype == np.bool_:
        return "BOOL", bool(found.item())
    if found.size == 1 and found.dtype.kind in "fiu":
        return "NUMBER", float(found.item())
    raise ArgumentError(
        f"add_hparams: {name!r}: expected a bool, str, int, float or None, came "
        f"{type(value).__name__}"
    )
