"""One step of all ranks as a picture. The one file that imports matplotlib.

May import: `model`, `analysis`, matplotlib when it draws. Per rank one lane of work (data, forward,
backward, optimizer, the user's spans) and below it one lane per bucket: from ready to launched
hatched, under way filled. Waits at the end of backward are red: there communication is exposed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allgrad.ddp.tracing.analysis import StepFigures
from allgrad.ddp.tracing.model import Event, RankStep
from allgrad.errors import OptionError

# Colours that people with any kind of colour vision tell apart (Okabe and Ito).
COLOURS = {
    "data": "#E69F00",
    "forward": "#56B4E9",
    "backward": "#0072B2",
    "wait": "#D55E00",
    "optimizer": "#009E73",
    "user": "#CC79A7",
    "bucket": "#999999",
}
_LABELS = {
    "data": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "wait": "exposed: waiting for communication",
    "optimizer": "optimizer",
    "user": "span of the user's",
    "bucket": "bucket under way",
}
_MOST_LANES = 40  # beyond, the buckets of a rank share a lane
_LANE, _BUCKET_LANE, _GAP = 1.0, 0.42, 0.5  # heights


def draw(steps: dict[int, RankStep], figures: StepFigures, path: Path) -> None:
    """Write the picture of one step.

    Args:
        steps: of every rank, with times of one clock.
        figures: of this step.
        path: of the PNG (or another suffix that matplotlib knows).

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError as error:
        raise OptionError(
            f"a picture needs matplotlib ({error}); run: pip install 'allgrad[demo]'"
        ) from error
    canvas = _Canvas(steps)
    figure = Figure(figsize=(13, 1.9 + 0.5 * canvas.height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    canvas.paint(axes)
    figure.legend(
        handles=canvas.legend(), loc="outside lower center", ncols=4, fontsize=9, frameon=False
    )
    axes.set_title(_title(figures), loc="left", fontsize=12)
    figure.savefig(path)


def _title(figures: StepFigures) -> str:
    return (
        f"Step {figures.index}: {figures.step_s * 1e3:.1f} ms.   "
        f"{figures.hidden_share:.0%} of communication hidden,   "
        f"{figures.exposed_s * 1e3:.2f} ms exposed\n"
        f"waits for {figures.waits_for}"
    )


class _Canvas:
    """Places of lanes, and what is painted on them."""

    def __init__(self, steps: dict[int, RankStep]) -> None:
        self._steps = steps
        self._zero = min(step.begin_s for step in steps.values())
        self._end = max(step.end_s for step in steps.values())
        buckets = [len(_buckets(step)) for step in steps.values()]
        self._own_lanes = sum(buckets) <= _MOST_LANES
        lanes = sum(buckets) if self._own_lanes else len(steps)
        self.height = len(steps) * (_LANE + _GAP) + lanes * _BUCKET_LANE
        self._seen: set[str] = set()
        self._ticks: list[tuple[float, str, bool]] = []

    def paint(self, axes: Any) -> None:
        """Paint all lanes from the top."""
        y = 0.0
        for rank in sorted(self._steps):
            y = self._paint_rank(axes, rank, self._steps[rank], y)
        # constrained layout needs the limits before it measures
        axes.set_xlim(0, (self._end - self._zero) * 1e3)
        axes.set_ylim(self.height, -0.2)
        axes.set_yticks([y for y, _, _ in self._ticks], [text for _, text, _ in self._ticks])
        for label, (_, _, bold) in zip(axes.get_yticklabels(), self._ticks, strict=True):
            label.set_fontsize(10 if bold else 7)
            label.set_fontweight("bold" if bold else "normal")
        axes.set_xlabel("milliseconds since the step began")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)

    def legend(self) -> list[Any]:
        """What the colours mean, of those that were used."""
        from matplotlib.patches import Patch  # noqa: PLC0415 - optional

        handles = [
            Patch(facecolor=colour, label=_LABELS[kind])
            for kind, colour in COLOURS.items()
            if kind in self._seen
        ]
        if "queued" in self._seen:
            handles.append(
                Patch(facecolor="white", edgecolor=COLOURS["bucket"], hatch="////",
                      label="bucket full, not yet launched")
            )  # fmt: skip
        return handles

    def _paint_rank(self, axes: Any, rank: int, step: RankStep, y: float) -> float:
        """Paint the lanes of a rank from `y` on; return where they end."""
        self._ticks.append((y + _LANE / 2, f"rank {rank}", True))
        for kind in ("data", "forward", "backward", "optimizer", "wait"):
            for event in step.of(kind):
                self._bar(axes, event, kind, y, _LANE * 0.86)
        for event in step.of("layer", "node"):
            self._edge(axes, event, y)
        for event in step.of("user"):
            self._bar(axes, event, "user", y + _LANE * 0.6, _LANE * 0.26)
        for kind in ("forward", "backward", "wait"):
            for event in step.of(kind):
                self._word(axes, step, event, kind, y)
        y += _LANE
        buckets = _buckets(step)
        for lane, event in enumerate(buckets):
            place = y + (lane * _BUCKET_LANE if self._own_lanes else 0.0)
            self._paint_bucket(axes, event, place)
            if self._own_lanes:
                self._ticks.append((place + _BUCKET_LANE / 2, _short(event), False))
        if buckets and not self._own_lanes:
            self._ticks.append((y + _BUCKET_LANE / 2, "buckets", False))
        return y + (len(buckets) if self._own_lanes else 1) * _BUCKET_LANE + _GAP

    def _x(self, seconds: float) -> float:
        return (seconds - self._zero) * 1e3

    def _bar(self, axes: Any, event: Event, kind: str, y: float, height: float) -> None:
        self._seen.add(kind)
        left = self._x(event.begin_s)
        axes.barh(y + height / 2, event.duration_s * 1e3, height, left,
                  color=COLOURS[kind], linewidth=0)  # fmt: skip

    def _edge(self, axes: Any, event: Event, y: float) -> None:
        """A thin line where a layer, or an op of backward, begins."""
        x = self._x(event.begin_s)
        axes.plot([x, x], [y, y + _LANE * 0.86], color="white", linewidth=0.35, alpha=0.8)

    def _word(self, axes: Any, step: RankStep, event: Event, kind: str, y: float) -> None:
        """The name and the milliseconds inside a bar, where they fit."""
        end = event.end_s
        if kind == "backward":
            end = min([end, *(w.begin_s for w in step.of("wait") if w.begin_s > event.begin_s)])
        duration = end - event.begin_s
        text = "exposed" if kind == "wait" else kind
        text = f"{text} {duration * 1e3:.1f} ms"
        if duration / (self._end - self._zero) > 0.0085 * len(text):
            x = self._x(event.begin_s + duration / 2)
            axes.text(x, y + _LANE * 0.43, text, ha="center", va="center", fontsize=9,
                      color="white", fontweight="bold")  # fmt: skip

    def _paint_bucket(self, axes: Any, event: Event, y: float) -> None:
        height = _BUCKET_LANE * 0.8
        queued = event.details.get("queued_s", 0.0)
        if queued > 0:
            self._seen.add("queued")
            left = self._x(event.begin_s - queued)
            axes.barh(y + height / 2, queued * 1e3, height, left, facecolor="white",
                      edgecolor=COLOURS["bucket"], hatch="////", linewidth=0.4)  # fmt: skip
        self._bar(axes, event, "bucket", y, height)
        if "bytes" not in event.details or not self._own_lanes:
            return
        size = f"{event.details['bytes'] / 1e6:.2f} MB"
        right = self._x(event.end_s)
        room = (self._x(self._end) - right) / self._x(self._end)
        inside = room < 0.07
        axes.text(right, y + height / 2, f" {size} ", ha="right" if inside else "left",
                  va="center", fontsize=7, color="black")  # fmt: skip


def _buckets(step: RankStep) -> list[Event]:
    return sorted(step.of("bucket"), key=lambda event: (event.details["bucket"], event.begin_s))


def _short(event: Event) -> str:
    """Of "bucket 2 of 5 (fc.bias ... conv1.weight)" the beginning."""
    return event.name.partition(" of ")[0]
