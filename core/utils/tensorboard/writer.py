"""`SummaryWriter`: PyTorch's interface on the event files of the package `tensorboard`."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from ...errors import Unsupported
from . import summaries


def _file_writer(folder: str, max_queue: int, flush_secs: float, suffix: str) -> Any:
    try:
        from tensorboard.summary.writer.event_file_writer import (  # noqa: PLC0415 - optional
            EventFileWriter,
        )
    except ImportError as err:
        raise ImportError(
            "SummaryWriter needs the package tensorboard: pip install allgrad[tensorboard]"
        ) from err
    return EventFileWriter(folder, max_queue, flush_secs, suffix)


class SummaryWriter:
    """Writes what TensorBoard shows: ``tensorboard --logdir runs``.

    Values may be tensors, NumPy arrays or Python numbers. Ranks of one job write to one folder
    only if told so: let rank 0 make the writer.

    Args:
        log_dir: folder of the event file; default ``runs/<date>_<time>_<host><comment>``.
        comment: appended to the default folder.
        purge_step: TensorBoard shall forget events from this step on (after a resumed crash).
        max_queue: events that wait before they are written.
        flush_secs: seconds after which they are written at the latest.
        filename_suffix: appended to the name of the file.

    Raises:
        ImportError: the package `tensorboard` is missing.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
    ) -> None:
        if not log_dir:
            now = datetime.datetime.now().strftime("%b%d_%H-%M-%S")
            log_dir = os.path.join("runs", f"{now}_{socket.gethostname()}{comment}")
        self.log_dir = os.fspath(log_dir)
        self.purge_step, self.max_queue = purge_step, max_queue
        self.flush_secs, self.filename_suffix = flush_secs, filename_suffix
        self._writers: dict[str, Any] = {}
        self._writer(self.log_dir)

    def _writer(self, folder: str) -> Any:
        """The file writer of `folder`; a new file after `close`."""
        if folder not in self._writers:
            writer = _file_writer(folder, self.max_queue, self.flush_secs, self.filename_suffix)
            self._writers[folder] = writer
            if self.purge_step is not None:
                writer.add_event(summaries.session_start(self.purge_step))
        return self._writers[folder]

    def _add(
        self, summary: Any, global_step: Any, walltime: float | None, folder: str | None = None
    ) -> None:
        step = 0 if global_step is None else int(summaries.array(global_step).item())
        event = summaries.event(summary, step, time.time() if walltime is None else walltime)
        self._writer(folder or self.log_dir).add_event(event)

    def get_logdir(self) -> str:
        """The folder of the event file."""
        return self.log_dir

    # -- numbers -------------------------------------------------------------------------------
    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: Any = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """One point of the curve `tag`.

        Args:
            tag: name of the curve; parts before "/" group curves.
            scalar_value: one number.
            global_step: its place on the axis of steps.
            walltime: seconds since 1970; default now.
            new_style: write it as a tensor, as newer TensorBoards do.
            double_precision: with `new_style`, keep float64.

        Raises:
            ValueError: more than one number.
        """
        summary = summaries.scalar(tag, scalar_value, new_style, double_precision)
        self._add(summary, global_step, walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: float | None = None,
    ) -> None:
        """A point of each of several curves in one chart; each curve gets a run of its own."""
        for tag, value in tag_scalar_dict.items():
            folder = f"{self.log_dir}/{main_tag.replace('/', '_')}_{tag}"
            self._add(summaries.scalar(main_tag, value), global_step, walltime, folder)

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: Any = None,
        bins: str | int | Sequence[float] = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """How the elements of `values` are distributed.

        Args:
            bins: "tensorflow" (widths grow by 10 %), or what `numpy.histogram` takes.
            max_bins: neighbouring bins are joined until there are at most so many.

        Raises:
            ValueError: no values, or values that are not finite.
        """
        self._add(summaries.histogram(tag, values, bins, max_bins), global_step, walltime)

    # -- pictures and texts --------------------------------------------------------------------
    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """One image: uint8, or floating numbers in [0, 1].

        Args:
            dataformats: what the axes are: "CHW", "HWC" or "HW".

        Raises:
            ValueError: another format, or axes that do not fit it.
        """
        self._add(summaries.image(tag, img_tensor, dataformats), global_step, walltime)

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Many images, as one grid of eight columns; `dataformats` may be "NCHW" or "NHWC"."""
        self._add(summaries.image(tag, img_tensor, dataformats), global_step, walltime)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: Any = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> None:
        """A matplotlib figure, or a list of figures of one size, as an image.

        Args:
            close: close the figures afterwards.
        """
        pixels = summaries.figure_pixels(figure, close)
        self._add(summaries.image(tag, pixels, "NHWC"), global_step, walltime)

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """A text; TensorBoard reads it as Markdown."""
        self._add(summaries.text(tag, text_string), global_step, walltime)

    # -- runs ----------------------------------------------------------------------------------
    def add_hparams(
        self,
        hparam_dict: Mapping[str, bool | str | float | None],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Mapping[str, Sequence[Any]] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """The settings of this run and what it reached, for the table of TensorBoard's HParams.

        Args:
            hparam_dict: settings: bool, str, int, float or None.
            metric_dict: results, also written as scalars.
            hparam_domain_discrete: the values that a setting can have.
            run_name: name of the sub-folder; default the time.

        Raises:
            ValueError: a setting of another type.
        """
        parts = summaries.hparams(hparam_dict, metric_dict, hparam_domain_discrete or {})
        folder = os.path.join(self.log_dir, run_name or str(time.time()))
        for part in parts:
            self._add(part, None, None, folder)
        for tag, value in metric_dict.items():
            self._add(summaries.scalar(tag, value), global_step, None, folder)
        self._writers.pop(folder).close()

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        """Not there: TensorBoard's graph page draws TensorFlow graphs.

        Raises:
            NotImplementedError: always; the message says what to do instead.
        """
        raise Unsupported(
            "add_graph: allgrad writes no TensorFlow graphs. Write the model with "
            "allgrad.onnx.export and look at it with an ONNX viewer such as Netron"
        )

    # -- end -----------------------------------------------------------------------------------
    def flush(self) -> None:
        """Write what waits to the disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Write what waits and close the files; whatever is added later goes to a new file."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
