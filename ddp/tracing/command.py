"""``allgrad trace``: what a recorded trace says, and the picture of one of its steps.

May import: `chrome`, `analysis`, `picture`. `allgrad run --trace` calls `finish` when the job has
ended, however it ended.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from allgrad.ddp.tracing.analysis import StepFigures, analyse
from allgrad.ddp.tracing.chrome import load, merge
from allgrad.ddp.tracing.files import merged_of
from allgrad.ddp.tracing.model import Trace
from allgrad.errors import OptionError


def steps_of(trace: Trace) -> list[StepFigures]:
    """The figures of every step that all ranks have.

    Raises:
        OptionError: there is none.
    """
    steps = [(index, trace.step(index)) for index in trace.common_steps()]
    # what comes after the last step of a program, a look at an empty data loader, is none
    complete = [s for s in steps if all(rank.of("backward") for rank in s[1].values())]
    figures = [analyse(index, ranks) for index, ranks in complete or steps]
    if not figures:
        raise OptionError(
            "the trace has no step that all of its ranks have finished; a step ends with "
            "optimizer.step() or, without an optimizer, with allgrad.timeline.active().end_step()"
        )
    return figures


def typical(figures: list[StepFigures]) -> StepFigures:
    """The step whose time is the median, the first ones (which warm up) left out if there are more.

    The very first steps allocate, plan and learn the order of the gradients.
    """
    settled = figures[2:] or figures
    middle = statistics.median_low([f.step_s for f in settled])
    return next(f for f in settled if f.step_s == middle)


def chosen(figures: list[StepFigures], step: int | None) -> StepFigures:
    """The step asked for, else the typical one.

    Raises:
        OptionError: the trace does not have it.
    """
    if step is None:
        return typical(figures)
    for figure in figures:
        if figure.index == step:
            return figure
    have = f"{figures[0].index} to {figures[-1].index}"
    raise OptionError(f"step {step} is not in the trace; it has {have}")


def report(trace: Trace, figures: list[StepFigures]) -> list[str]:
    """Lines for people: all steps, the ranks of a typical one, and how exact the clocks are."""
    one = typical(figures)
    times = [f.step_s * 1e3 for f in figures]
    lines = [
        f"{len(figures)} steps of {len(trace.ranks)} of {trace.size} ranks; ms per step: median "
        f"{statistics.median(times):.2f}, {min(times):.2f} to {max(times):.2f}",
        f"typical {one.sentence()}",
    ]
    for rank, f in one.ranks.items():
        lines.append(
            f"  rank {rank}: data {f.data_s * 1e3:.2f}, forward {f.forward_s * 1e3:.2f}, backward "
            f"{f.backward_s * 1e3:.2f}, exposed {f.exposed_s * 1e3:.2f}, optimizer "
            f"{f.optimizer_s * 1e3:.2f} ms"
        )
    error = max(rank.clock_error_s for rank in trace.ranks)
    if error > 0:
        lines.append(f"clocks of the hosts are aligned to {error * 1e6:.0f} us")
    return lines


def show(path: Path, step: int | None, png: Path | None) -> list[str]:
    """What ``allgrad trace`` prints; draws a picture if `png` is given.

    Raises:
        OptionError: no trace, no such step, or no matplotlib.
    """
    trace = merge(path) if path.is_dir() else load(path)
    figures = steps_of(trace)
    lines = report(trace, figures)
    if step is not None:
        lines.append(chosen(figures, step).sentence())
    if png is not None:
        lines.append(picture(trace, figures, step, png))
    return lines


def picture(trace: Trace, figures: list[StepFigures], step: int | None, png: Path) -> str:
    """Draw a step; return the line that says so."""
    from allgrad.ddp.tracing.picture import draw  # noqa: PLC0415 - optional matplotlib

    figure = chosen(figures, step)
    draw(trace.step(figure.index), figure, png)
    return f"picture of step {figure.index}: {png}"


def finish(target: Path) -> list[str]:
    """After a job: merge what its ranks have left; lines that say what a typical step waits for."""
    try:
        trace = merge(target)
    except OptionError:
        if not merged_of(target).exists():
            return [f"trace: no rank left one in {target}; was init_process_group called?"]
        trace = load(target)  # the ranks have merged it themselves
    path = merged_of(target)
    lines = [f"trace: {path} (open it in https://ui.perfetto.dev, or: allgrad trace {path})"]
    try:
        lines.append(f"trace: typical {typical(steps_of(trace)).sentence()}")
    except OptionError as error:
        lines.append(f"trace: {error}")
    return lines
